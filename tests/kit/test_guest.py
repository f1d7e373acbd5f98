"""guest/: what an image has in it to find the medium and run the kit."""

import re
import subprocess
from pathlib import Path

import pytest

from .guest import KIT, Guest

PROGRAM = KIT / "guest/vmbatch-guest"


def image(label: str) -> bytes:
    return (b"\0" * 32768 + b"\x01CD001\x01\0" + b"LINUX".ljust(32) + label.encode().ljust(32)).ljust(40000, b"\0")


def run(guest: Guest, *arguments: str) -> tuple[int, str]:
    medium = guest.base / "medium"
    guest.functions |= {
        "mount": f'echo "$*"; for part in prolog epilog; do echo \'echo "$0 $*"\' >"{medium}/$part.sh"; done',
        "modprobe": f'cd "{guest.root}"; echo "$*" >>modules; [ ! -f late ] || mv late dev/sr0',
        "sleep": "return 0",
    }
    done = guest.run(PROGRAM, *arguments)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode().replace(str(guest.root), "")


def test_medium_is_found(guest: Guest) -> None:
    guest.write("dev/sr0", image("CIDATA"))
    guest.write("dev/sda", b"too short")
    guest.write("dev/vda", b"\0" * 50000)
    guest.write("dev/vdb", image("VMBATCH"))
    medium = "/var/lib/vmbatch/medium"
    assert run(guest, "prolog") == (0, f"-t iso9660 -o ro /dev/vdb {medium}\n{medium}/prolog.sh start\n")
    assert not (guest.root / "modules").exists()
    assert run(guest, "epilog") == (0, f"{medium}/epilog.sh start\n")
    assert run(guest, "epilog", "stop") == (0, f"{medium}/epilog.sh stop\n")


def test_medium_behind_a_module(guest: Guest) -> None:
    guest.write("late", image("VMBATCH"))
    assert run(guest, "prolog")[1].startswith("-t iso9660 -o ro /dev/sr0 ")


def test_no_medium(guest: Guest) -> None:
    guest.write("dev/vda", image("VMBATCHX"))
    for arguments in (["prolog"], ["epilog"], ["prolog", "stop"]):
        assert run(guest, *arguments) == (0, "vmbatch-guest: no context medium, nothing to do\n")


def test_the_boot_leaves_a_context_alone_that_comes_by_ssh(guest: Guest) -> None:
    """It may come while the guest still boots: then there would be two at work on it."""
    guest.write("proc/cmdline", "quiet vbcontext=ssh root=/dev/xvda1\n")
    guest.write("var/lib/vmbatch/medium/epilog.sh", "echo twice\n")
    assert run(guest, "epilog") == (0, "")
    assert run(guest, "epilog", "stop") == (0, "twice\n")


def test_usage(guest: Guest) -> None:
    for arguments in ([], ["start"], ["prolog", "restart"]):
        assert guest.run(PROGRAM, *arguments).returncode == 2


def job_disk(guest: Guest, mounts: str = "") -> None:
    """A context on the disk, whose job's files are on another one; `mount` and `ls` know of devices."""
    medium = guest.base / "medium"
    disk = guest.root / "disk/vmbatch"
    for name, content in (("job/script", "job"), ("tar/list", "list")):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text(content)
    for part in ("prolog", "epilog"):
        guest.write(f"var/lib/vmbatch/medium/{part}.sh",
                    f'echo "$0 $*"; cat "{medium}/job/script" "{medium}/tar/list" 2>/dev/null; exit 7')
    guest.write("var/lib/vmbatch/medium/jobdisk", "/dev/xvda3\n")
    guest.write("dev/xvda3", "")
    guest.write("proc/mounts", mounts)
    guest.functions |= {
        "mount": f'echo "mount $*"; for place; do :; done; rmdir "$place"; ln -s "{guest.root}/disk" "$place"',
        "umount": 'echo "umount $*"; rm "$1"; mkdir "$1"',
        "ls": 'case $2 in */dev/xvda3 | */dev/jobs) echo "brw-rw---- 1 0 6 202, 3 Jan 1 00:00 x" ;; '
              '*/dev/xvda1) echo "brw-rw---- 1 0 6 202, 1 Jan 1 00:00 x" ;; *) return 1 ;; esac',
        "sleep": "return 0",
        "modprobe": "return 1",
    }


def started(guest: Guest, *arguments: str) -> tuple[int, str, str]:
    done = guest.run(PROGRAM, *arguments)
    return done.returncode, done.stdout.decode().replace(str(guest.root), ""), done.stderr.decode().replace(str(guest.root), "")


BASE = "/var/lib/vmbatch"


def test_context_on_the_disk(guest: Guest) -> None:
    """No device is looked for, and nothing is mounted."""
    guest.write("var/lib/vmbatch/medium/prolog.sh", 'echo "$0 $*"')
    guest.write("dev/sr0", image("VMBATCH"))
    assert started(guest, "prolog") == (0, f"{BASE}/medium/prolog.sh start\n", "")


def test_job_disk(guest: Guest) -> None:
    job_disk(guest, "/dev/xvda1 / ext4 rw 0 0\nnone /proc proc rw 0 0\n")
    for _ in range(2):
        assert started(guest, "prolog") == (
            7, f"mount -o ro /dev/xvda3 {BASE}/jobdisk\n{BASE}/medium/prolog.sh start\njoblistumount {BASE}/jobdisk\n", "")
    assert started(guest, "epilog") == (7, f"{BASE}/medium/epilog.sh start\n", "")


def test_job_disk_that_the_guest_has_mounted(guest: Guest) -> None:
    job_disk(guest, "/dev/xvda1 / ext4 rw 0 0\n/dev/jobs /disk ext4 rw 0 0\n")
    assert started(guest, "prolog") == (7, f"{BASE}/medium/prolog.sh start\njoblist", "")
    assert (guest.base / "medium/job").readlink() == guest.root / "disk/vmbatch/job"


def test_job_disk_that_is_mounted_as_root(guest: Guest) -> None:
    """The guest's whole root, with the place at its top."""
    job_disk(guest, "/dev/jobs / ext4 rw 0 0\n")
    (guest.root / "disk/vmbatch").rename(guest.root / "vmbatch")
    assert started(guest, "prolog") == (7, f"{BASE}/medium/prolog.sh start\njoblist", "")


def test_job_disk_that_mounts_only_for_writing(guest: Guest) -> None:
    job_disk(guest)
    guest.functions["mount"] = '[ "$1" != -o ] || return 32; ' + guest.functions["mount"]
    assert started(guest, "prolog")[1].startswith(f"mount /dev/xvda3 {BASE}/jobdisk\n{BASE}/medium/prolog.sh start\njoblist")


def test_no_job_disk(guest: Guest) -> None:
    job_disk(guest)
    (guest.root / "dev/xvda3").unlink()
    assert started(guest, "prolog") == (1, "", "vmbatch-guest: no disk /dev/xvda3, which should have the job's files\n")
    guest.write("dev/xvda3", "")
    guest.functions["mount"] = "return 32"
    assert started(guest, "prolog") == (1, "", "")


def test_early_part_without_a_medium(guest: Guest) -> None:
    guest.write("usr/local/lib/vmbatch/early.sh", 'echo "early $#"')
    guest.functions |= {"sleep": "return 0", "modprobe": "return 1"}
    assert started(guest, "prolog") == (0, "early 0\n", "")
    assert started(guest, "epilog") == (0, "vmbatch-guest: no context medium, nothing to do\n", "")


def install(guest: Guest, *arguments: str) -> str:
    command = [*guest.shell, str(KIT / "guest/install.sh"), *arguments]
    return subprocess.run(command, env=guest.environment, capture_output=True, text=True, check=True).stdout


PARTS = ["early.sh", "kernel-line.sh", "lib.sh", "network.sh", "user.sh", "vmbatch-guest"]


def made(tree: Path, **files: str) -> Path:
    """A guest's tree: `__` is a slash, `-> ` a link."""
    for name, content in files.items():
        path = tree / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return tree


def ours(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if "vmbatch-" in path.name or path.name[:1] == ".")


@pytest.mark.parametrize("target", ["/usr/lib/systemd/systemd", "../lib/systemd/systemd"])
def test_install_for_systemd(guest: Guest, tmp_path: Path, target: str) -> None:
    tree = made(tmp_path / "tree", sbin__init=f"-> {target}")
    for directory in ("usr/lib/systemd", "etc/init.d", "etc/rc3.d"):
        (tree / directory).mkdir(parents=True)
    (tree / "usr/lib/systemd/systemd").write_text("")
    (tree / "lib").symlink_to("usr/lib")
    for _ in range(2):
        assert install(guest, f"{tree}/") == ""
    assert (tree / "usr/local/sbin/vmbatch-guest").stat().st_mode & 0o777 == 0o755
    for name in ("vmbatch-prolog.service", "vmbatch-epilog.service"):
        link = tree / "etc/systemd/system/multi-user.target.wants" / name
        assert link.resolve() == tree / "etc/systemd/system" / name
        assert "ExecStart=/usr/local/sbin/vmbatch-guest" in link.read_text()
    assert list((tree / "etc/init.d").iterdir()) == []


def test_install_for_sysv(guest: Guest, tmp_path: Path) -> None:
    """As on EL5, where /etc/init.d and /etc/rcN.d lead into /etc/rc.d."""
    tree = made(tmp_path / "tree", sbin__init="ELF")
    (tree / "etc/rc.d/init.d").mkdir(parents=True)
    (tree / "etc/init.d").symlink_to("rc.d/init.d")
    for level in range(7):
        (tree / f"etc/rc.d/rc{level}.d").mkdir()
        (tree / f"etc/rc{level}.d").symlink_to(f"rc.d/rc{level}.d")
    for _ in range(2):
        assert install(guest, str(tree)) == ""
    links = sorted(str(path.relative_to(tree / "etc/rc.d")) for path in tree.glob("etc/rc.d/rc*.d/*"))
    assert links == [f"rc{n}.d/{link}" for n in range(2, 6) for link in ("S00vmbatch-prolog", "S99vmbatch-epilog")]
    for link in links:
        target = (tree / "etc/rc.d" / link).resolve()
        assert target.parent == tree / "etc/rc.d/init.d" and target.stat().st_mode & 0o111
        header = re.search(r"### BEGIN INIT INFO\n(.*)### END INIT INFO\n", target.read_text(), re.DOTALL)
        assert header and f"Provides:          {target.name}\n" in header[1]
    assert not (tree / "etc/init.d/.legacy-bootordering").exists()


def test_install_for_debians_sysv(guest: Guest, tmp_path: Path) -> None:
    """Its packages bring units, too; its rc starts by a list of dependencies unless it is told not to."""
    tree = made(tmp_path / "tree", sbin__init="ELF")
    for name in ("usr/lib/systemd/system", "etc/systemd/system", "etc/init.d", "etc/rc2.d"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/init.d/.depend.start").write_text("TARGETS = ssh\n")
    assert install(guest, str(tree)) == ""
    assert ours(tree) == [
        "etc/init.d/.depend.start", "etc/init.d/.legacy-bootordering", "etc/init.d/vmbatch-epilog", "etc/init.d/vmbatch-prolog",
        "etc/rc2.d/S00vmbatch-prolog", "etc/rc2.d/S99vmbatch-epilog", "usr/local/sbin/vmbatch-guest"]


def test_install_for_busybox(guest: Guest, tmp_path: Path) -> None:
    """As Buildroot has it: rcS runs what is beside it."""
    tree = made(tmp_path / "tree", sbin__init="-> /bin/busybox", bin__busybox="ELF")
    (tree / "etc/init.d").mkdir(parents=True)
    (tree / "etc/init.d/rcS").write_text('for script in /etc/init.d/S??*; do\n    "$script" start\ndone\n')
    for _ in range(2):
        assert install(guest, str(tree)) == ""
    assert ours(tree) == ["etc/init.d/S15vmbatch-prolog", "etc/init.d/S99vmbatch-epilog", "usr/local/sbin/vmbatch-guest"]


def test_install_into_inittab(guest: Guest, tmp_path: Path) -> None:
    """As Alpine has it; a second time changes nothing."""
    before = "# x:x:sysinit:x\n::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n"
    tree = made(tmp_path / "tree", sbin__init="-> /bin/busybox", bin__busybox="ELF", etc__inittab=before)
    program = "/usr/local/sbin/vmbatch-guest"
    for _ in range(2):
        assert install(guest, str(tree)) == ""
        assert (tree / "etc/inittab").read_text() == before.replace(
            "::wait", f"::sysinit:{program} prolog\n::wait") + f"::once:{program} epilog\n"


def test_install_beside_a_script_of_the_sites(guest: Guest, tmp_path: Path) -> None:
    tree = made(tmp_path / "tree", sbin__init="-> /bin/busybox", bin__busybox="ELF")
    (tree / "etc/init.d").mkdir(parents=True)
    script = tree / "etc/init.d/rcS"
    script.write_text("mount -a\ndropbear\n")
    assert "vmbatch-guest prolog" in install(guest, str(tree))
    assert script.read_text() == "mount -a\ndropbear\n"
    script.write_text("mount -a\nvmbatch-guest prolog\ndropbear\n")
    assert install(guest, str(tree)) == ""


def test_install_the_program_alone(guest: Guest, tmp_path: Path) -> None:
    for target in ("-> init", "ELF"):
        tree = made(tmp_path / f"tree{len(target)}", sbin__init=target)
        assert "vmbatch-guest prolog" in install(guest, str(tree))
        assert sorted(path.name for path in (tree / "usr").rglob("*") if path.is_file()) == PARTS
