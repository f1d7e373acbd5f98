"""File systems mounted by this machine's kernel, for trusted images: what is written, and what stays behind."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vmbatch.errors import DeadlineError, NodeError
from vmbatch.format import FormatError
from vmbatch.guestdisk.files import File, Item, Link
from vmbatch.guestdisk.mounted import Mounted, mounted
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline

from . import trees
from .trees import MIB, OFFSET, file

SECONDS = 60.0
SIZES = {"ext4": 64, "ext2": 64, "xfs": 320, "btrfs": 128}
SUPPORTED = Path("/proc/filesystems").read_text().split()


def make(path: Path, filesystem: str) -> Path:
    part = path.with_suffix(".part")
    with part.open("wb") as opened:
        opened.truncate(SIZES[filesystem] * MIB)
    options = {"ext4": ["-q", "-F"], "ext2": ["-q", "-F"], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}[filesystem]
    subprocess.run([f"mkfs.{filesystem}", *options, part], check=True, capture_output=True)
    return trees.in_disk(path, part)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before, mounts = loops(), Path("/proc/self/mountinfo").read_text()
    yield
    deadline = time.monotonic() + 10
    while loops() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert loops() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts


def loops() -> set[str]:
    """Loop devices in use for disks of these tests."""
    used = (path / "loop/backing_file" for path in Path("/sys/block").glob("loop*"))
    found = set()
    for path in used:
        try:
            text = path.read_text()
        except OSError:
            continue
        if "disk.raw" in text:
            found.add(text)
    return found


@contextlib.contextmanager
def opened(disk: Path, filesystem: str) -> Iterator[Mounted]:
    """The disk's file system."""
    length = disk.stat().st_size - OFFSET - 4096
    with view(str(disk), "raw", "nobody", Deadline(SECONDS)) as seen, mounted(
            seen, filesystem, OFFSET, length, Deadline(SECONDS)) as guest:
        yield guest


def write(disk: Path, filesystem: str, items: Sequence[Item]) -> None:
    with opened(disk, filesystem) as guest:
        guest.write(items, Deadline(SECONDS))


def state(disk: Path, filesystem: str, *paths: str) -> list[tuple[str, int, int, int]]:
    """(content or target, mode, owner, group) of each path, not followed."""
    found = []
    with opened(disk, filesystem) as guest:
        for path in paths:
            above, _, name = path.rpartition("/")
            parent = guest._directory(above or "/")
            status = os.lstat(name, dir_fd=parent)
            content = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else guest.read(path)
            found.append((content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
            os.close(parent)
    return found


@pytest.mark.parametrize("filesystem", [name for name in SIZES if name in SUPPORTED])
def test_all_is_there(tmp_path: Path, filesystem: str) -> None:
    disk = make(tmp_path / "disk.raw", filesystem)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(9 * MIB))
    big.chmod(0o600)
    items: list[Item] = [
        file("/var/lib/vmbatch/medium/a", "a", 0o4711), File("/tar/0.tar", 0o600, source=str(big)), Link("/l", "/var/lib"),
        file("/odd \" name/'x'", "odd"), File("/labelled", 0o644, b"x", label="system_u:object_r:bin_t:s0"),
        Link("/labelled-link", "x", label="system_u:object_r:etc_t:s0"),
    ]
    for _ in range(2):
        write(disk, filesystem, items)
    assert trees.unharmed(disk)
    assert state(disk, filesystem, "/var/lib/vmbatch/medium/a", "/l", "/odd \" name/'x'", "/var/lib", "/tar/0.tar") == [
        ("a", 0o4711, 0, 0), ("/var/lib", 0o777, 0, 0), ("odd", 0o644, 0, 0), ("", 0o755, 0, 0), ("", 0o600, 0, 0)]
    with opened(disk, filesystem) as guest:
        fd = guest._open("/tar/0.tar", os.O_RDONLY)
        assert fd is not None
        with open(fd, "rb") as copy:
            assert copy.read() == big.read_bytes()
        root = guest._open("/", os.O_RDONLY)
        assert root is not None
        label = os.getxattr(f"/proc/self/fd/{root}/labelled-link", "security.selinux", follow_symlinks=False)
        os.close(root)
        assert label == b"system_u:object_r:etc_t:s0\0"


def test_links_stay_inside(tmp_path: Path) -> None:
    """What the node has at the same paths is not touched."""
    disk = make(tmp_path / "disk.raw", "ext4")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("the node's")
    write(disk, "ext4", [Link("/node", str(outside)), Link("/up", "../../../../../.." + str(outside)), Link("/circle", "circle"),
                         file(f"{outside}/here", "here"), Link("/proc", "/proc/self/root"), Link("/magic", "/proc/self/fd/0"),
                         Link("/etc/hostname", str(outside / "x")), Link("/nothing", "/none/x")])
    write(disk, "ext4", [file("/node/x", "1"), file("/up/y", "2"), file("/etc/hostname", "replaced")])
    assert sorted(path.name for path in outside.iterdir()) == ["x"]
    assert (outside / "x").read_text() == "the node's"
    with opened(disk, "ext4") as guest:
        assert [guest.read(f"{outside}/{name}") for name in ("x", "y", "here")] == ["1", "2", "here"]
        assert guest.read("/etc/hostname") == "replaced"
        assert [guest.real(path) for path in ("/up", "/../..", "/none")] == [str(outside), "/", ""]
    for path, what in (("/circle/x", "has symbolic links in circles above "),
                       ("/nothing/y", "has a file or a link to nothing at /nothing, "),
                       ("/etc/hostname/x", "has a file or a link to nothing at /etc/hostname, ")):
        with pytest.raises(FormatError, match=what):
            write(disk, "ext4", [file(path)])
    with pytest.raises(FormatError, match="has a directory at /etc, where a file is to be put"):
        write(disk, "ext4", [file("/etc")])


def test_devices_are_replaced_not_opened(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "ext4")
    trees.debugfs(disk, "mknod disk b 8 0", "mknod pipe p", "mknod null c 1 3", write=True)
    with opened(disk, "ext4") as guest:
        assert [guest.read(path) for path in ("/disk", "/pipe", "/null")] == ["", "", ""]
    write(disk, "ext4", [file("/disk"), file("/pipe"), file("/null")])
    assert state(disk, "ext4", "/disk", "/pipe", "/null") == [("new\n", 0o644, 0, 0)] * 3
    assert trees.e2fsck(disk) == ""


def test_journal_is_replayed(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "ext4")
    trees.debugfs(disk, "journal_open", "journal_write -b 60000 /dev/zero", "journal_close", write=True)
    write(disk, "ext4", [file("/x")])
    assert trees.e2fsck(disk) == ""


def test_no_room(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "ext4")
    with pytest.raises(FormatError, match="has a file system without enough room left for the context"):
        write(disk, "ext4", [File("/x", 0o600, bytes([1]) * 70 * MIB)])
    assert trees.unharmed(disk)


@pytest.mark.parametrize("filesystem", [name for name in ("ext4", "xfs", "btrfs") if name in SUPPORTED])
def test_broken(tmp_path: Path, filesystem: str) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(8 * MIB))
    with pytest.raises(FormatError, match=re.escape(f"has a file system ({filesystem}) that the node's kernel does not mount: ")):
        write(disk, filesystem, [])


def test_no_such_file_system(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "ext4")
    expected = pytest.raises(ValueError, match="'vfat' is not mounted here")
    with view(str(disk), "raw", "nobody", Deadline(SECONDS)) as seen, expected:
        mounted(seen, "vfat", OFFSET, 64 * MIB, Deadline(SECONDS)).__enter__()


@pytest.mark.parametrize("filesystem", [name for name in ("xfs", "btrfs") if name in SUPPORTED])
def test_two_with_the_same_identity(tmp_path: Path, filesystem: str) -> None:
    """Two jobs of one image at once: each writes to its own, btrfs before Linux 6.7 after the other one."""
    one = make(tmp_path / "disk.raw", filesystem)
    other = tmp_path / "other.disk.raw"
    other.write_bytes(one.read_bytes())
    length = one.stat().st_size - OFFSET - 4096
    waits = False
    with opened(one, filesystem) as guest, view(str(other), "raw", "nobody", Deadline(SECONDS)) as seen:
        try:
            with mounted(seen, filesystem, OFFSET, length, Deadline(0.3)) as second:
                second.write([file("/x", "other")], Deadline(SECONDS))
        except DeadlineError as error:
            assert str(error) == "another btrfs with the same identity was mounted for too long"
            waits = True
        guest.write([file("/x", "one")], Deadline(SECONDS))
    if waits:
        write(other, filesystem, [file("/x", "other")])
    for disk, content in ((one, "one"), (other, "other")):
        with opened(disk, filesystem) as guest:
            assert guest.read("/x") == content


def test_sources(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.raw", "ext4")
    with pytest.raises(NodeError, match=re.escape(f"{tmp_path} is not a regular file")):
        write(disk, "ext4", [File("/x", 0o600, source=str(tmp_path))])
    with pytest.raises(DeadlineError, match="/x was not written in time"), opened(disk, "ext4") as guest:
        (tmp_path / "big").write_bytes(bytes(5 * MIB))
        guest.write([File("/x", 0o600, source=f"{tmp_path}/big")], Deadline(0))


_KILLED = """
import sys, time
from vmbatch.guestdisk import mounted
from vmbatch.guestdisk.files import File
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline
disk, length, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def stop():
    print("here", flush=True)
    time.sleep(60)
if when == "looped":
    mounted._mount = lambda *arguments: stop()
with view(disk, "raw", "nobody", Deadline(60)) as seen:
    with mounted.mounted(seen, "ext4", 1 << 20, length, Deadline(60)) as guest:
        if when == "mounted":
            stop()
        guest.write([File("/x", 0o600, b"x" * 1000000)], Deadline(60))
        if when == "written":
            stop()
"""


@pytest.mark.parametrize("when", ["looped", "mounted", "written"])
def test_killed(tmp_path: Path, when: str) -> None:
    """The fixture looks for what is left: no loop device, no mount."""
    disk = make(tmp_path / "disk.raw", "ext4")
    length = disk.stat().st_size - OFFSET - 4096
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(disk), str(length), when], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    assert len(loops()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
