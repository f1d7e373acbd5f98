"""What is put into a guest so that it runs its context: recognised and written for each init, from a tree that is a value."""

import posixpath
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vmbatch.errors import SiteError
from vmbatch.format import FormatError
from vmbatch.guestdisk import enable, files
from vmbatch.guestdisk.enable import PROGRAM, check_mounts, items, labelled, recognised, with_calls, with_entries
from vmbatch.guestdisk.files import File, Found, Item, Link, Tree
from vmbatch.units import Deadline

LAB = Path(__file__).parents[2] / "lab/tree"
SYSTEMD = {"/sbin/init": "-> ../lib/systemd/systemd", "/lib": "-> usr/lib", "/usr/lib/systemd/systemd": "ELF",
           "/etc/systemd/system/x": ""}
DEBIAN_SYSV = {"/sbin/init": "ELF", "/etc/init.d/.depend.start": "", "/lib/systemd/system/ssh.service": "",
               "/etc/systemd/system/x": "", **{f"/etc/rc{level}.d/S01ssh": "-> ../init.d/ssh" for level in range(2, 6)}}
EL5 = {"/sbin/init": "ELF", "/etc/rc.d/init.d/sshd": "", "/etc/init.d": "-> rc.d/init.d", "/etc/inittab": "id:3:initdefault:\n",
       **{f"/etc/rc.d/rc{level}.d/S55sshd": "" for level in range(7)},
       **{f"/etc/rc{level}.d": f"-> rc.d/rc{level}.d" for level in range(7)}}
BUILDROOT = {"/sbin/init": "-> /bin/busybox", "/bin/busybox": "ELF", "/etc/inittab": (LAB / "bare/etc/inittab").read_text(),
             "/etc/init.d/rcS": (LAB / "bare/etc/init.d/rcS").read_text()}
ALPINE_TABLE = ("# /etc/inittab\n::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n"
                "tty1::respawn:/sbin/getty 38400 tty1\n::shutdown:/sbin/openrc shutdown\n")
ALPINE = {"/sbin/init": "-> /bin/busybox", "/bin/busybox": "ELF", "/etc/inittab": ALPINE_TABLE, "/etc/init.d/sshd": ""}
OWN = {"/sbin/init": "#!/bin/sh\nvmbatch-guest prolog\ndropbear\n", "/bin/busybox": "ELF", PROGRAM: "old"}


class Value:
    """A guest whose tree is a dictionary."""

    def __init__(self, tree: dict[str, str]) -> None:
        self.tree = tree
        self._seen = Tree(lambda paths: {path: self._found(path) for path in paths})

    def _found(self, path: str) -> Found:
        content = self.tree.get(path)
        if content is not None:
            return Found("link", content[3:]) if content.startswith("-> ") else Found("file", size=len(content))
        return Found("directory" if any(name.startswith(f"{path}/") for name in self.tree) else "absent")

    def look(self, paths: Sequence[str]) -> None:
        self._seen.look(paths)

    def real(self, path: str) -> str:
        return self._seen.real(path)

    def read(self, path: str) -> str:
        return self.tree.get(self.real(path), "")

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        raise AssertionError


def names(tree: dict[str, str], init: str = "") -> dict[str, str]:
    """Of each item the link's target, or the mode."""
    found = items(Value(tree), init)
    files.check(found)
    return {item.path: item.target if isinstance(item, Link) else f"{item.mode:o}" for item in found}


UNITS = {
    "/etc/systemd/system/vmbatch-prolog.service": "644", "/etc/systemd/system/vmbatch-epilog.service": "644",
    "/etc/systemd/system/multi-user.target.wants/vmbatch-prolog.service": "../vmbatch-prolog.service",
    "/etc/systemd/system/multi-user.target.wants/vmbatch-epilog.service": "../vmbatch-epilog.service",
}
SCRIPTS = {"/etc/init.d/vmbatch-prolog": "755", "/etc/init.d/vmbatch-epilog": "755"}
LINKS = {f"/etc/rc{level}.d/{number}vmbatch-{part}": f"../init.d/vmbatch-{part}"
         for level in range(2, 6) for number, part in (("S00", "prolog"), ("S99", "epilog"))}


@pytest.mark.parametrize(("tree", "init", "wanted"), [
    (SYSTEMD, "systemd", UNITS),
    (DEBIAN_SYSV, "sysv", SCRIPTS | LINKS | {"/etc/init.d/.legacy-bootordering": "644"}),
    (EL5, "sysv", SCRIPTS | LINKS),
    (BUILDROOT, "busybox", {"/etc/init.d/S15vmbatch-prolog": "755", "/etc/init.d/S99vmbatch-epilog": "755"}),
    (ALPINE, "busybox", {"/etc/inittab": "644"}),
    ({**BUILDROOT, "/etc/inittab": "", "/etc/init.d/rcS": "#!/bin/sh\ndropbear -R\n"}, "busybox", {"/etc/init.d/rcS": "755"}),
    ({"/bin/busybox": "ELF", "/etc/init.d/rcS": "mount -a\n", "/init": "ELF"}, "busybox", {"/etc/init.d/rcS": "755"}),
    ({key: value for key, value in SYSTEMD.items() if key != "/sbin/init"}, "systemd", UNITS),
], ids=["systemd", "debian-sysv", "el5", "buildroot", "alpine", "rcS", "no-init", "no-sbin-init"])
def test_each_init(tree: dict[str, str], init: str, wanted: dict[str, str]) -> None:
    assert recognised(Value(tree)) == init
    assert names(tree) == names(tree, init) == {PROGRAM: "755", **wanted}


def test_what_the_admin_says_counts() -> None:
    assert names({**DEBIAN_SYSV, **SYSTEMD}, "sysv").keys() >= SCRIPTS.keys()
    assert names({**DEBIAN_SYSV}, "systemd").keys() == {PROGRAM, *UNITS}


def test_an_image_that_runs_it_already() -> None:
    assert names(OWN) == {PROGRAM: "755"}


@pytest.mark.parametrize(("tree", "init", "what", "hint"), [
    ({}, "", "has no init that VmBatch knows (no /sbin/init)", "say init="),
    ({"/sbin/init": "-> runit", "/sbin/runit": "ELF"}, "", "has no init that VmBatch knows (/sbin/runit)", "say init="),
    ({}, "systemd", "has no /etc/systemd/system, so nothing can be enabled for systemd", "see init="),
    ({}, "sysv", "has no /etc/init.d and /etc/rc2.d to /etc/rc5.d, so nothing can be enabled for SysV init", "see init="),
    ({}, "busybox", "has neither /etc/inittab nor /etc/init.d/rcS, so nothing can be enabled for BusyBox init", "see init="),
    ({"/etc/init.d/rcS": "caf\ufffd\nsshd\n"}, "busybox", "has a file /etc/init.d/rcS that is not UTF-8", "have it run "),
    ({"/sbin/init": "-> init"}, "", "has symbolic links in circles above /sbin/init", ""),
])
def test_no_way(tree: dict[str, str], init: str, what: str, hint: str) -> None:
    with pytest.raises(FormatError) as caught:
        items(Value(tree), init)
    assert caught.value.what == what
    assert caught.value.hint.startswith(hint)


def test_job_disk() -> None:
    for device in ("/dev/xvda3", "/dev/vg0/jobs"):
        found = items(Value(SYSTEMD), "", device)
        assert File("/var/lib/vmbatch/medium/jobdisk", 0o644, f"{device}\n".encode()) in found
    for device in ("xvda3", "/dev/a b", "/dev/x\ny", "/etc/passwd", "/dev/../etc/x"):
        with pytest.raises(ValueError, match="is no device"):
            items(Value(SYSTEMD), "", device)


@pytest.mark.parametrize("tree", [SYSTEMD, DEBIAN_SYSV, EL5, BUILDROOT, ALPINE, OWN])
def test_looked_at_in_one_go(tree: dict[str, str]) -> None:
    """A look costs a process: behind the first, what links lead to is all that is left."""
    value = Value(tree)
    asked: list[str] = []

    def look(paths: Sequence[str]) -> dict[str, Found]:
        asked.extend(paths)
        return {path: value._found(path) for path in paths}

    value._seen = Tree(look)
    value.look(enable.LOOKED_AT)
    first = set(asked)
    asked.clear()
    items(value, "")
    targets = [posixpath.normpath(posixpath.join(posixpath.dirname(path), target[3:]))
               for path, target in tree.items() if target.startswith("-> ")]
    assert all(path not in first and any(f"{path}/".startswith(target) or target.startswith(f"{path}/") for target in targets)
               for path in asked), asked


def test_labels() -> None:
    selinux = {"/etc/selinux/config": "# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n"}
    found = labelled(Value({**SYSTEMD, **selinux}), items(Value(SYSTEMD), "", "/dev/vda2"))
    kinds = ("bin_t", "systemd_unit_file_t", "var_lib_t")
    assert {item.label for item in found} == {f"system_u:object_r:{kind}:s0" for kind in kinds}
    for text in ("SELINUX=disabled\n", "#SELINUX=enforcing\n", ""):
        found = labelled(Value({**SYSTEMD, "/etc/selinux/config": text}), items(Value(SYSTEMD), ""))
        assert {item.label for item in found} == {""}


def test_mounts_that_would_hide_it() -> None:
    table = ("# /var\nUUID=1 / ext4 defaults 0 1\n/dev/vda2 /home ext4 defaults\nswap none swap sw 0 0\n"
             "/dev/vdb /var/lib/x ext4 rw\n")
    check_mounts(Value({"/etc/fstab": table}), ["/var/lib/vmbatch/medium/x"])
    check_mounts(Value({}), ["/var/lib/vmbatch/medium/x"])
    check_mounts(Value({"/etc/fstab": table + "/dev/vdc /var ext4 noauto\n"}), ["/var/lib/vmbatch/medium/x"])
    with pytest.raises(FormatError) as caught:
        check_mounts(Value({"/etc/fstab": table + "/dev/vdc /var/ ext4 rw 0 0\n"}), [PROGRAM, "/var/lib/vmbatch/medium/x"])
    assert caught.value.what == "has another file system on /var (/etc/fstab), which would hide /var/lib/vmbatch/medium/x"


def test_inittab() -> None:
    assert with_entries(ALPINE_TABLE) == ALPINE_TABLE.replace(
        "::wait", f"::sysinit:{PROGRAM} prolog\n::wait", 1) + f"::once:{PROGRAM} epilog\n"
    assert with_entries("::respawn:sh") == f"::sysinit:{PROGRAM} prolog\n::respawn:sh\n::once:{PROGRAM} epilog\n"


FUNCTIONS = """#!/bin/sh
# dropbear comes later
mount -t proc proc /proc
start_ssh() {
    if [ -x /usr/sbin/dropbear ]; then
        echo dropbear
    fi
}
cat <<END
sshd is not here
END
for i in 1 2; do
    echo $i
done
case $1 in
    x) start_ssh ;;
    *) exit 1 ;;
esac
echo "it's # fine" && \\
    echo '
sshd' done
exit 0
"""
NESTED = """mount -a
if true; then
    case x in
        x) sshd ;;
    esac
fi
exec sh -c 'echo end'
"""


@pytest.mark.parametrize(("script", "before", "said"), [
    (FUNCTIONS, "case $1 in", "sshd is not here 1 2 P dropbear it's # fine sshd done E"),
    (NESTED, "if true; then", "P S E end"),
    ("exec >/dev/null 2>&1\nexec </dev/null\ndropbear\nexit\n", "dropbear", ""),
    ("echo a\nif true; then\n  exit 0\nfi\necho b\n", "", ""),
    ("", "", "P E"),
    ("#!/bin/sh\n/usr/sbin/sshd", "/usr/sbin/sshd", "P S E"),
    ("a=sshd-keygen\nmysshd=1\necho c\n", "", "c P E"),
    ("echo x |\n  cat\necho y ||\n  sshd\n", "echo y ||", "x P y E"),
])
def test_boot_script(tmp_path: Path, script: str, before: str, said: str) -> None:
    """It runs in the shell as it should, and prolog comes right before the line."""
    edited = with_calls(script)
    lines = edited.splitlines()
    at = lines.index(f"{PROGRAM} prolog")
    if before:
        assert lines[at + 1] == before
    assert [line for line in lines if PROGRAM not in line] == script.splitlines()
    path = tmp_path / "rcS"
    for there, here in (("mount ", ": "), (f"{PROGRAM} prolog", "echo P"), ("/usr/sbin/sshd", "sshd"),
                        (f"{PROGRAM} epilog </dev/null >/dev/console 2>&1 &", "echo E")):
        edited = edited.replace(there, here)
    path.write_text(edited)
    for shell in (["dash"], ["busybox", "sh"], ["bash", "--posix"]):
        program = f"sshd() {{ echo S; }}; dropbear() {{ :; }}; set x; . {path}"
        done = subprocess.run([*shell, "-c", program], capture_output=True, text=True, check=False)
        assert done.stderr == "", edited
        if said:
            assert done.stdout.split() == said.split()


@pytest.mark.parametrize("script", ["}" * 1000, "{\n" * 1000, "'" * 20001, '"\\' * 20000, "<<x\n" * 500, "if " * 10000,
                                    "\\\n" * 999, "x(){" * 5000])
def test_hostile_boot_script(script: str) -> None:
    assert with_calls(script).count(f"{PROGRAM} ") == 2


def test_site_error_for_an_unknown_init() -> None:
    with pytest.raises(KeyError):
        items(Value(SYSTEMD), "runit")
    with pytest.raises(SiteError):
        files.check([File("relative", 0o644)])
