"""guest/: what an image has in it to find the medium and run the kit."""

import re
import subprocess
from pathlib import Path

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


def test_usage(guest: Guest) -> None:
    for arguments in ([], ["start"], ["prolog", "restart"]):
        assert guest.run(PROGRAM, *arguments).returncode == 2


def install(guest: Guest, *arguments: str) -> str:
    command = [*guest.shell, str(KIT / "guest/install.sh"), *arguments]
    return subprocess.run(command, env=guest.environment, capture_output=True, text=True, check=True).stdout


def test_install_for_systemd(guest: Guest, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "lib/systemd/system").mkdir(parents=True)
    (tree / "etc/init.d").mkdir(parents=True)
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
    tree = tmp_path / "tree"
    (tree / "etc/rc.d/init.d").mkdir(parents=True)
    (tree / "etc/init.d").symlink_to("rc.d/init.d")
    for level in range(7):
        (tree / f"etc/rc.d/rc{level}.d").mkdir()
        (tree / f"etc/rc{level}.d").symlink_to(f"rc.d/rc{level}.d")
    for _ in range(2):
        assert install(guest, str(tree)) == ""
    links = sorted(str(path.relative_to(tree / "etc/rc.d")) for path in tree.glob("etc/rc.d/rc*.d/*"))
    assert links == [f"rc{n}.d/{link}" for n in range(2, 6) for link in ("S02vmbatch-prolog", "S99vmbatch-epilog")]
    for link in links:
        target = (tree / "etc/rc.d" / link).resolve()
        assert target.parent == tree / "etc/rc.d/init.d" and target.stat().st_mode & 0o111
        header = re.search(r"### BEGIN INIT INFO\n(.*)### END INIT INFO\n", target.read_text(), re.DOTALL)
        assert header and f"Provides:          {target.name}\n" in header[1]


def test_install_the_program_alone(guest: Guest, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    assert "vmbatch-guest prolog" in install(guest, str(tree))
    assert sorted(path.name for path in tree.rglob("*") if path.is_file()) == ["vmbatch-guest"]
