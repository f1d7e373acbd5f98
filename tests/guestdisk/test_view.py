"""A disk of any format is a raw file to tools without rights; it is whole when they are done, and nothing stays behind."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch.disk import layout
from vmbatch.errors import CommandError, DeadlineError, NodeError, SiteError
from vmbatch.format import qcow, qcow2, vhd
from vmbatch.format.filesystem import identify
from vmbatch.format.table import partition
from vmbatch.guestdisk.view import View, view
from vmbatch.units import Deadline

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SIZE = 96 * MIB
NOBODY = pwd.getpwnam("nobody")
DRIVERS = {"raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vpc", "vhd-fixed": "vpc"}
FORMATS = pytest.mark.parametrize("form", DRIVERS)


def tool(*argv: str) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def disk(place: Path, form: str, size: int = SIZE) -> str:
    """An empty one in a directory that nobody else may enter.

    As VmBatch makes it, but for `vhd`: QEMU puts the first block over libvhd's map of full blocks, and the old footer into it.
    """
    place.chmod(0o700)
    path = str(place / f"vda.{form}")
    identity, now = uuid.UUID(int=7), 1_700_000_000
    if form == "raw":
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as made:
            made.truncate(size)
    elif form == "vhd":
        tool("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", path, str(size))
    else:
        layout.write(path, {"qcow2": lambda: qcow2.blank(size), "qcow": lambda: qcow.blank(size),
                            "vhd-fixed": lambda: vhd.fixed(size, identity, now)}[form]())
    return path


def shown(path: str, form: str) -> bytes:
    """What a guest would see, by qemu-img."""
    tool("qemu-img", "convert", "-f", DRIVERS[form], "-O", "raw", path, f"{path}.shown")
    return Path(f"{path}.shown").read_bytes()


def write(seen: View, offset: int, data: bytes) -> None:
    """By a tool."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        seen.run(["/usr/bin/dd", f"of={seen.path}", "conv=notrunc", "bs=1", f"seek={offset}", "status=none"], Deadline(20),
                 stdin=reading)
    finally:
        os.close(reading)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    over = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > over:
            return False
        time.sleep(0.02)
    return True


def running(word: str) -> list[int]:
    """Processes whose command line has this word, but for zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def ended(word: str) -> bool:
    """None is running, nor any between two programs: it has no command line for a moment (execve(2))."""
    for _ in range(4):
        if running(word):
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    """No process, no mount, no descriptor."""
    before = descriptors()
    yield
    assert until(lambda: ended(str(tmp_path)))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not descriptors() - before


@FORMATS
def test_what_a_tool_writes_is_in_the_disk(tmp_path: Path, form: str) -> None:
    path = disk(tmp_path, form)
    with view(path, form, "nobody", Deadline(30)) as seen:
        assert seen.size == SIZE
        write(seen, 5 * MIB + 7, b"near the start")
        write(seen, SIZE - 11, b"at the end.")
        assert seen.read(5 * MIB + 7, 14) == b"near the start"
        assert seen.read(SIZE - 4, 100) == b"end."
        assert seen.read(SIZE, 1) == seen.read(-1, 1) == b""
    image = shown(path, form)
    assert len(image) == SIZE
    assert image[5 * MIB + 7 :][:14] == b"near the start"
    assert image[-11:] == b"at the end."
    assert image.count(0) == SIZE - 25
    if form == "qcow2":
        tool("qemu-img", "check", "-f", "qcow2", path)


@FORMATS
def test_the_disk_is_as_it_was(tmp_path: Path, form: str) -> None:
    """Owner, mode, size of a raw file, and no tool of ours has it open."""
    path = disk(tmp_path, form)
    before = os.stat(path)
    with view(path, form, "nobody", Deadline(30)) as seen:
        seen.run(["/usr/bin/true"], Deadline(20))
    after = os.stat(path)
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_size == before.st_size
    assert image_is_zero(shown(path, form))


def image_is_zero(image: bytes) -> bool:
    return image.count(0) == len(image) == SIZE


@FORMATS
def test_a_tool_has_no_rights(tmp_path: Path, form: str) -> None:
    path = disk(tmp_path, form)
    with view(path, form, "nobody", Deadline(30)) as seen:
        said = seen.run(["/usr/bin/cat", "/proc/self/status"], Deadline(20))
        limits = seen.run(["/usr/bin/cat", "/proc/self/limits"], Deadline(20))
        assert "Permission denied" in refused(seen, ["/usr/bin/cat", path])
        assert "Permission denied" in refused(seen, ["/usr/bin/cat", "/etc/shadow"])
    fields = dict(line.split(":\t", 1) for line in said.splitlines())
    assert fields["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert fields["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert fields["Groups"].strip() == ""
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert [line.split()[3] for line in limits.splitlines() if line.startswith(("Max file size", "Max address"))] == [
        str(SIZE), str(1 << 30)]


def refused(seen: View, argv: list[str]) -> str:
    with pytest.raises(CommandError) as caught:
        seen.run(argv, Deadline(20))
    return str(caught.value)


@FORMATS
def test_a_tool_cannot_make_the_disk_larger(tmp_path: Path, form: str) -> None:
    path = disk(tmp_path, form)
    with view(path, form, "nobody", Deadline(30)) as seen:
        with pytest.raises(CommandError):
            write(seen, SIZE, b"x")
        with pytest.raises(CommandError):
            seen.run(["/usr/bin/truncate", "-s", str(2 * SIZE), seen.path], Deadline(20))
        assert seen.size == len(seen.read(0, 1)) * SIZE
    assert image_is_zero(shown(path, form))


@FORMATS
def test_nobody_else_sees_it(tmp_path: Path, form: str) -> None:
    """By its name it is what it always was, for us and for everybody."""
    path = disk(tmp_path, form)
    head = Path(path).read_bytes()[:4096]
    with view(path, form, "nobody", Deadline(30)) as seen:
        write(seen, 0, b"x" * 512)
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        if form in ("qcow2", "qcow"):
            assert Path(path).read_bytes()[:4] == head[:4] == qcow2.MAGIC
    assert shown(path, form)[:512] == b"x" * 512


def test_the_daemon_has_few_rights(tmp_path: Path) -> None:
    path = disk(tmp_path, "qcow2")
    with view(path, "qcow2", "nobody", Deadline(30)):
        (daemon,) = running(path)
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{daemon}/status").read_text().splitlines())
        assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 1 << 21 | 1 << 1, "CAP_SYS_ADMIN, CAP_DAC_OVERRIDE"
        assert fields["NoNewPrivs"] == "1"
        assert path in Path(f"/proc/{daemon}/mountinfo").read_text()


@FORMATS
def test_partition_and_file_system(tmp_path: Path, form: str) -> None:
    """sfdisk, mkfs, debugfs and fsck work on it, each at its place in the disk."""
    path = disk(tmp_path, form)
    table = tmp_path / "table"
    table.write_text("label: gpt\nstart=2048, size=4096\nstart=8192, size=131072\n")
    with view(path, form, "nobody", Deadline(60)) as seen:
        with open(table) as script:
            seen.run(["/usr/sbin/sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", seen.path], Deadline(20),
                     stdin=script.fileno())
        place = partition(seen.read, seen.size, 2)
        assert (place.offset, place.length) == (8192 * 512, 131072 * 512)
        assert identify(seen.read, place.offset, place.length) == ""
        seen.run(["/usr/sbin/mkfs.ext4", "-q", "-E", f"offset={place.offset}", seen.path, f"{place.length >> 10}k"], Deadline(60))
        assert identify(seen.read, place.offset, place.length) == "ext4"
        where = f"{seen.path}?offset={place.offset}"
        with open(tmp_path / "commands", "w+") as commands:
            commands.write("mkdir etc\nmkdir etc/vmbatch\nquit\n")
            commands.seek(0)
            seen.run(["/usr/sbin/debugfs", "-w", "-f", "-", where], Deadline(20), stdin=commands.fileno())
        seen.run(["/usr/sbin/e2fsck", "-f", "-n", where], Deadline(20))
    with open(f"{path}.part", "wb") as part:
        part.write(shown(path, form)[place.offset :][: place.length])
    assert "vmbatch" in tool("/usr/sbin/debugfs", "-R", "ls -p /etc", f"{path}.part")
    tool("/usr/sbin/e2fsck", "-f", "-n", f"{path}.part")
    if form == "qcow2":
        tool("qemu-img", "check", "-f", "qcow2", path)


@pytest.mark.parametrize("base_form", DRIVERS)
@pytest.mark.parametrize("form", ["qcow2", "qcow"])
def test_an_overlay(tmp_path: Path, form: str, base_form: str) -> None:
    """It shows what is below, and what is below stays as it is."""
    base = disk(tmp_path, base_form)
    with view(base, base_form, "nobody", Deadline(30)) as seen:
        write(seen, 3 * MIB, b"below" + b"-" * 5)
        write(seen, 9 * MIB, b"below")
    before = Path(base).read_bytes()
    os.chmod(base, 0o400)
    path = str(tmp_path / f"vdb.{form}")
    layout.write(path, qcow2.overlay(base, DRIVERS[base_form], SIZE) if form == "qcow2" else qcow.overlay(base, SIZE))
    with view(path, form, "nobody", Deadline(30), (base, base_form)) as seen:
        assert seen.read(3 * MIB, 10) == b"below-----"
        write(seen, 3 * MIB + 5, b"above")
    assert Path(base).read_bytes() == before
    with view(path, form, "nobody", Deadline(30), (base, base_form)) as seen:
        assert seen.read(3 * MIB, 10) == b"belowabove"
        assert seen.read(9 * MIB, 6) == b"below\0"
    if form == "qcow2":
        assert shown(path, form)[3 * MIB :][:10] == b"belowabove"
        tool("qemu-img", "check", "-f", "qcow2", path)


def test_a_raw_base_is_not_probed(tmp_path: Path) -> None:
    """An image's header at the start of a raw disk gains nothing, though qcow names no format of its base."""
    base = disk(tmp_path, "raw")
    with open(base, "r+b") as raw:
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", str(tmp_path / "trap"), str(SIZE))
        raw.write((tmp_path / "trap").read_bytes()[:4096])
    path = str(tmp_path / "vdb.qcow")
    layout.write(path, qcow.overlay(base, SIZE))
    with view(path, "qcow", "nobody", Deadline(30), (base, "raw")) as seen:
        assert seen.read(0, 4) == qcow2.MAGIC


def refusal(path: str, form: str, account: str = "nobody", backing: tuple[str, str] | None = None) -> str:
    with pytest.raises(NodeError) as caught, view(path, form, account, Deadline(20), backing):
        pytest.fail("it is shown")
    return str(caught.value)


def test_an_overlay_needs_its_base_named(tmp_path: Path) -> None:
    base = disk(tmp_path, "raw")
    for form, made in (("qcow2", qcow2.overlay(base, "raw", SIZE)), ("qcow", qcow.overlay(base, SIZE))):
        path = str(tmp_path / f"over.{form}")
        layout.write(path, made)
        assert refusal(path, form) == f"the disk {path} has a backing file"
        alone = disk(tmp_path, form)
        assert refusal(alone, form, backing=(base, "raw")) == f"the disk {alone} has no backing file, and should be an overlay"
    alone = disk(tmp_path, "vhd")
    assert refusal(alone, "vhd", backing=(base, "raw")) == f"the disk {alone} is a VHD without a parent, and should be an overlay"


def test_what_is_no_disk(tmp_path: Path) -> None:
    path = disk(tmp_path, "qcow2")
    assert refusal(f"{path}.no", "raw") == f"the disk {path}.no cannot be opened: No such file or directory"
    os.symlink(path, tmp_path / "link")
    assert refusal(str(tmp_path / "link"), "qcow2").endswith("link cannot be opened: Too many levels of symbolic links")
    os.mkfifo(tmp_path / "fifo")
    assert refusal(str(tmp_path / "fifo"), "raw") == f"the disk {tmp_path}/fifo is not a regular file"
    assert refusal(str(tmp_path), "raw").endswith("cannot be opened: Is a directory")
    assert refusal("/dev/null", "raw") == "the disk /dev/null is not a regular file"
    assert refusal(path, "vmdk") == f"the disk {path} has the format 'vmdk', which QEMU does not write"
    assert refusal(path, "qcow") == f"the disk {path} is not qcow"
    assert refusal(path, "vhd") == f"the disk {path} has no VHD footer at its end"
    raw = disk(tmp_path, "raw")
    assert refusal(raw, "qcow2") == f"the disk {raw} is not qcow2"
    os.link(path, tmp_path / "second")
    assert refusal(path, "qcow2") == f"the disk {path} has 2 names, and others may use it"


def test_images_that_lead_elsewhere(tmp_path: Path) -> None:
    base = tmp_path / "base.vhd"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", str(tmp_path / "a.qcow2"), "1M")
    assert refusal(str(tmp_path / "a.qcow2"), "qcow2").endswith("a.qcow2 names an external data file")
    layout.write(str(base), vhd.dynamic(SIZE, uuid.UUID(int=1), 0))
    layout.write(str(tmp_path / "child.vhd"), vhd.differencing(
        SIZE, uuid.UUID(int=2), 0, vhd.raw(SIZE), str(base), str(tmp_path / "child.vhd"), 0))
    assert refusal(str(tmp_path / "child.vhd"), "vhd").endswith("is a differencing VHD, whose parents QEMU does not read")
    layout.write(str(tmp_path / "xen.qcow"), qcow.blank(SIZE, xen=True))
    assert "is a qcow with Xen's checksum" in refusal(str(tmp_path / "xen.qcow"), "qcow")


def test_a_damaged_image(tmp_path: Path) -> None:
    path = disk(tmp_path, "qcow2")
    with open(path, "r+b") as image:
        image.seek(20)
        image.write(b"\0\0\0\x3f")
    assert refusal(path, "qcow2") == f"qemu-storage-daemon cannot show the disk {path}: Unsupported cluster size: 2^63"


def test_an_image_in_use(tmp_path: Path) -> None:
    path = disk(tmp_path, "qcow2")
    with view(path, "qcow2", "nobody", Deadline(30)) as seen:
        said = refusal(path, "qcow2")
        assert said.startswith(f'qemu-storage-daemon cannot show the disk {path}: Failed to get "write" lock; Is another proc')
        write(seen, 0, b"whole")
    assert shown(path, "qcow2")[:5] == b"whole"


@FORMATS
@pytest.mark.error("VB916")
def test_an_account_must_be_without_rights(tmp_path: Path, form: str) -> None:
    path = disk(tmp_path, form)
    for account, what in (("root", "the account root is root's"), ("nosuch", "this node knows no account nosuch")):
        with pytest.raises(SiteError, match=what), view(path, form, account, Deadline(20)):
            pytest.fail("it is shown")
    assert os.stat(path).st_uid == 0


@FORMATS
def test_a_tool_that_fails(tmp_path: Path, form: str) -> None:
    """Who runs it may go on, or not; the disk is ours again."""
    path = disk(tmp_path, form)
    with view(path, form, "nobody", Deadline(30)) as seen:
        assert "failed with exit status 1" in refused(seen, ["/usr/bin/false"])
        write(seen, 0, b"more")
    assert shown(path, form)[:4] == b"more"
    with pytest.raises(CommandError), view(path, form, "nobody", Deadline(30)) as seen:
        seen.run(["/usr/bin/false"], Deadline(20))
    assert os.stat(path).st_uid == 0


@FORMATS
@pytest.mark.error("VB406")
def test_a_tool_that_hangs(tmp_path: Path, form: str) -> None:
    path = disk(tmp_path, form)
    start = time.monotonic()
    with pytest.raises(DeadlineError) as caught, view(path, form, "nobody", Deadline(30)) as seen:
        seen.run(["/usr/bin/sleep", "60"], Deadline(0.5))
    assert str(caught.value) == "/usr/bin/sleep did not end in time"
    assert time.monotonic() - start < 10
    assert os.stat(path).st_uid == 0


def test_a_tool_that_takes_too_much(tmp_path: Path) -> None:
    with view(disk(tmp_path, "raw"), "raw", "nobody", Deadline(30)) as seen:
        assert "emory" in refused(seen, ["/usr/bin/python3", "-I", "-S", "-c", "bytearray(1 << 31)"])
        hungry = ["/usr/bin/env", "-S", "sh -c", "ulimit -v"]
        assert seen.run(hungry, Deadline(20), memory=3 << 30).strip() == str(3 << 20)


@pytest.mark.parametrize("at_end", [False, True], ids=["a tool waits", "the end waits"])
def test_a_daemon_that_hangs(tmp_path: Path, at_end: bool) -> None:
    path = disk(tmp_path, "qcow2")
    start = time.monotonic()
    with pytest.raises(DeadlineError) as caught, view(path, "qcow2", "nobody", Deadline(6)) as seen:
        (daemon,) = running(path)
        os.kill(daemon, signal.SIGSTOP)
        if not at_end:
            seen.run(["/usr/bin/dd", f"if={seen.path}", "of=/dev/null", "count=1"], Deadline(1))
    assert str(caught.value) == f"/usr/bin/{'sync' if at_end else 'dd'} did not end in time"
    assert time.monotonic() - start < 25


def test_a_daemon_that_dies(tmp_path: Path) -> None:
    path = disk(tmp_path, "qcow2")
    with pytest.raises(CommandError, match="not connected"), view(path, "qcow2", "nobody", Deadline(20)) as seen:
        os.kill(running(path)[0], signal.SIGKILL)
        time.sleep(0.2)
        write(seen, 0, b"x")
    with pytest.raises(CommandError, match="not connected"), view(path, "qcow2", "nobody", Deadline(20)):
        os.kill(running(path)[0], signal.SIGKILL)
        time.sleep(0.2)


HOLDER = textwrap.dedent("""
    import sys
    from vmbatch.guestdisk.view import view
    from vmbatch.units import Deadline
    path, form = sys.argv[1:]
    print("now", flush=True)
    with view(path, form, "nobody", Deadline(60)) as seen:
        tool = "import sys, time; held = open(sys.argv[1], 'r+b'); time.sleep(60)"
        seen.run(["/usr/bin/python3", "-I", "-S", "-c", tool, seen.path, path + ".word"], Deadline(60))
""")


@FORMATS
@pytest.mark.parametrize("delay", [0.0, 0.002, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03, None])
def test_killed_at_any_moment(tmp_path: Path, form: str, delay: float | None) -> None:
    """All die with us, nothing is mounted, and the disk can be shown again. Without a delay a tool is at work."""
    path = disk(tmp_path, form)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path, form], cwd=ROOT, process_group=0, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"now\n"
        if delay is None:
            assert until(lambda: bool(running(f"{path}.word")))
        else:
            time.sleep(delay)
        holder.kill()
    assert until(lambda: ended(path))
    assert not any(path in mounts for mounts in mount_tables())
    assert until(lambda: not locked(path)), "a process that has no command line any more may still have files"
    with view(path, form, "nobody", Deadline(30)) as seen:
        write(seen, 0, b"again")
    assert shown(path, form)[:5] == b"again"


def locked(path: str) -> bool:
    """Whether QEMU's locks are on it."""
    inode = f":{os.stat(path).st_ino} "
    return any(inode in line for line in Path("/proc/locks").read_text().splitlines())


def mount_tables() -> Iterator[str]:
    """Of every mount namespace."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                yield (entry / "mountinfo").read_text()


def test_a_full_file_system(tmp_path: Path) -> None:
    """What cannot be written is an error, at the latest when the view ends."""
    small = tmp_path / "small"
    small.mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(small))
    try:
        path = disk(small, "qcow2")
        with pytest.raises(NodeError), view(path, "qcow2", "nobody", Deadline(30)) as seen:
            seen.run(["/usr/bin/dd", "if=/dev/urandom", f"of={seen.path}", "bs=64k", "count=64", "conv=notrunc"], Deadline(20))
    finally:
        tool("umount", str(small))
