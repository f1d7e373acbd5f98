"""libguestfs: the same writing by the kernel of a virtual machine, under emulation. It takes a quarter of a minute each time."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.appliance import directory as appliance_directory
from vmbatch.errors import DeadlineError, NodeError
from vmbatch.format import FormatError
from vmbatch.guestdisk.appliance import Appliance, _found, appliance, quoted
from vmbatch.guestdisk.files import File, Found, Item, Link
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline

from . import trees
from .trees import MIB, file

SECONDS = 240.0



@contextlib.contextmanager
def opened(disk: Path, device: str = "", seconds: float = SECONDS) -> Iterator[Appliance]:
    with view(str(disk), "raw", "nobody", Deadline(seconds)) as seen, appliance(
            seen, device, "nobody", str(appliance_directory()), str(disk.parent), Deadline(seconds), emulated=True) as guest:
        yield guest


def make(path: Path, filesystem: str, size: int) -> Path:
    with path.open("wb") as disk:
        disk.truncate(size * MIB)
    subprocess.run([f"mkfs.{filesystem}", "-q", "-f", path], check=True, capture_output=True)
    path.chmod(0o600)
    return path


def test_xfs(tmp_path: Path) -> None:
    """Written, then read again in a second machine; links stay in the guest, and nothing stays behind on the node."""
    disk = make(tmp_path / "disk.raw", "xfs", 320)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 * MIB))
    big.chmod(0o600)
    odd = "/odd \\n \"'$(x)' ü/" + "n" * 120
    first: list[Item] = [
        file("/usr/lib/x", "x"), Link("/lib", "/usr/lib"), Link("/up", "../../../../usr"), Link("/circle", "/circle/x"),
        file("/etc/hostname", "old"), Link("/etc/link", "/etc/hostname"), file("/sbin/init", "ELF" * 99),
    ]
    second: list[Item] = [
        file("/lib/y", "y", 0o4711), file("/up/lib/z", "z"), file("/etc/link", "file"), file(odd, "odd"),
        File("/tar/0.tar", 0o600, source=str(big)), file("/empty", ""), Link("/etc/hostname", "a b"),
        File("/labelled", 0o755, b"x", label="system_u:object_r:bin_t:s0"),
    ]
    with opened(disk) as guest:
        assert guest.real("/etc/hostname") == ""
        guest.write(first, Deadline(SECONDS))
    with opened(disk) as guest:
        guest.look(["/sbin/init", "/lib/x", "/none/x"])
        real = [guest.real(path) for path in ("/sbin/init", "/lib/x", "/up/..", "/none/x")]
        assert real == ["/sbin/init", "/usr/lib/x", "/", ""]
        assert [guest.read(path) for path in ("/etc/link", "/none", "/etc")] == ["old", "", ""]
        with pytest.raises(FormatError, match="has symbolic links in circles above /circle/y"):
            guest.write([file("/circle/y")], Deadline(SECONDS))
        with pytest.raises(FormatError, match="has a directory at /etc, where a file is to be put"):
            guest.write([file("/etc")], Deadline(SECONDS))
        guest.write(second, Deadline(SECONDS))
        found = guest._look_many(["/usr/lib/y", "/usr/lib/z", "/etc/link", "/etc/hostname", "/tar/0.tar", odd, "/empty"])
        assert list(found.values()) == [
            Found("file", "", 0o4711, (0, 0), 1), Found("file", "", 0o644, (0, 0), 1), Found("file", "", 0o644, (0, 0), 4),
            Found("link", "a b", 0o777, (0, 0), 3), Found("file", "", 0o600, (0, 0), 3 * MIB),
            Found("file", "", 0o644, (0, 0), 3), Found("file", "", 0o644, (0, 0), 0)]
        assert guest._session.ask(["checksum sha256 /tar/0.tar"]) == [
            subprocess.run(["sha256sum", big], check=True, capture_output=True, text=True).stdout.split()[0]]
        assert guest._session.ask(["lgetxattr /labelled security.selinux"]) == ["system_u:object_r:bin_t:s0"]
    assert subprocess.run(["xfs_repair", "-n", disk], check=False, capture_output=True).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "disk.raw"]
    assert (disk.stat().st_uid, stat.S_IMODE(disk.stat().st_mode)) == (0, 0o600)


def test_what_cannot_be_mounted(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(8 * MIB))
    with pytest.raises(FormatError, match="has a file system that libguestfs cannot work on: mount"), opened(disk):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]


def test_full(tmp_path: Path) -> None:
    disk = trees.ext(tmp_path / "disk.raw", trees.make_tree(tmp_path / "tree", {}), "-O", "inline_data", size=16)
    data = disk.read_bytes()
    disk.write_bytes(data[MIB:-4096])
    with pytest.raises(FormatError, match="has a file system without enough room left"), opened(disk) as guest:
        guest.write([File("/x", 0o600, bytes([1]) * 30 * MIB)], Deadline(SECONDS))


def test_deadline(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "xfs", 320)
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match="guestfish did not answer in time"), opened(disk, "", 2):
        pass
    assert time.monotonic() - begin < 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw"]


_KILLED = """
import sys, time
from vmbatch.guestdisk.appliance import appliance
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline
disk, directory, scratch = sys.argv[1:]
with view(disk, "raw", "nobody", Deadline(200)) as seen:
    with appliance(seen, "", "nobody", directory, scratch, Deadline(200), emulated=True):
        print("here", flush=True)
        time.sleep(200)
"""


def busy() -> set[str]:
    """Processes of the account, and libguestfs' places in /tmp."""
    found = {str(path) for path in Path("/tmp").glob("libguestfs*")}  # noqa: S108
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes()
            if path.stat().st_uid == 65534 and (b"guestfs" in words or b"qemu" in words):
                found.add(path.name)
    return found


def test_killed(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "xfs", 320)
    before = busy()
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(disk), str(appliance_directory()), str(tmp_path)],
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    assert len(busy() - before) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while busy() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert busy() - before == set()


@pytest.mark.error("VB404")
def test_no_appliance(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "xfs", 320)
    with view(str(disk), "raw", "nobody", Deadline(20)) as seen, pytest.raises(NodeError) as caught:
        appliance(seen, "", "nobody", str(tmp_path), str(tmp_path), Deadline(20), emulated=True).__enter__()
    assert caught.value.what == f"there is no appliance of libguestfs in {tmp_path}"
    assert caught.value.hint == f"install libguestfs-tools; libguestfs-make-fixed-appliance {tmp_path}"


def test_quoted() -> None:
    assert quoted("/a \"b\" \\n 'c'") == "\"/a \\\"b\\\" \\\\n 'c'\""
    for text in ("a\nb", "a\x1b", "\udcff"):
        with pytest.raises(ValueError, match="cannot stand in a line"):
            quoted(text)


def test_what_guestfish_says_of_a_file() -> None:
    said = "st_dev: 1\nst_mode: 33261\nst_uid: 1\nst_gid: 2\nst_size: 3\n"
    assert _found("/x", said) == Found("file", "", 0o755, (1, 2), 3)
    assert _found("/x", "*stdin*:8: libguestfs: error: lstatns: /x: No such file or directory\n") == Found("absent")
    with pytest.raises(FormatError, match="has a file system that libguestfs cannot work on: lstatns: /x: Input/output error"):
        _found("/x", "libguestfs: error: lstatns: /x: Input/output error\n")
