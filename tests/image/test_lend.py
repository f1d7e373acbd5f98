"""Files are opened with their user's rights, and never at the price of a hanging hook."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch.errors import DeadlineError, JobError
from vmbatch.host import lend, process
from vmbatch.units import Deadline

from .conftest import ALICE, BOB


def lent(path: Path | str, seconds: float = 20.0) -> tuple[bytes, str]:
    """What is in it, and where it lies."""
    fd, real = lend.open_as(ALICE, str(path), Deadline(seconds))
    try:
        return os.read(fd, 100), real
    finally:
        os.close(fd)


def owned(path: Path, mode: int, uid: int = 1500, gid: int = 1500) -> Path:
    path.write_bytes(b"data")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def _nothing_left() -> object:
    """Neither descriptors nor processes."""
    children = Path("/proc/self/task", str(os.getpid()), "children")
    before, running = descriptors(), children.read_text()
    yield
    assert not descriptors() - before
    assert children.read_text() == running


def refused(path: Path | str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        lent(path)
    assert caught.value.lines() == [f"{path}: {said} (the image must be readable for you)"]


def test_own_file(home: Path) -> None:
    path = owned(home / "image", 0o400)
    assert lent(path) == (b"data", str(path))


def test_by_a_supplementary_group(home: Path) -> None:
    path = owned(home / "image", 0o640, 0, 1600)
    assert lent(path) == (b"data", str(path))


@pytest.mark.parametrize(("mode", "uid", "gid"), [(0o600, 1501, 1501), (0o600, 0, 0), (0o640, 0, 0), (0o000, 1500, 1500),
                                                   (0o640, 1501, 1501)])
def test_unreadable(home: Path, mode: int, uid: int, gid: int) -> None:
    refused(owned(home / "image", mode, uid, gid), "Permission denied")


def test_behind_a_closed_directory(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    refused(owned(place / "closed/image", 0o644), "Permission denied")
    refused("/etc/shadow", "Permission denied")


def test_missing(home: Path) -> None:
    refused(home / "none", "No such file or directory")
    refused(f"{owned(home / 'image', 0o600)}/none", "Not a directory")
    refused(home / ("x" * 300), "File name too long")


def test_dangling_and_endless_links(home: Path) -> None:
    (home / "dangling").symlink_to(home / "none")
    refused(home / "dangling", "No such file or directory")
    (home / "loop").symlink_to(home / "loop")
    refused(home / "loop", "Too many levels of symbolic links")


def test_link(home: Path) -> None:
    path = owned(home / "image", 0o600)
    (home / "link").symlink_to(path)
    assert lent(home / "link") == (b"data", str(path))


def test_directory(home: Path) -> None:
    fd, real = lend.open_as(ALICE, str(home), Deadline(20))
    os.close(fd)
    assert real == str(home)


@pytest.mark.parametrize("name", ["-c", "a b", "$(id)", "ä\n", "'\""])
def test_names_are_taken_literally(home: Path, name: str) -> None:
    path = owned(home / name, 0o600)
    assert lent(path) == (b"data", str(path))


def test_fifo_without_a_writer(home: Path) -> None:
    os.mkfifo(home / "fifo")
    os.chown(home / "fifo", 1500, 1500)
    begin = time.monotonic()
    assert lent(home / "fifo") == (b"", str(home / "fifo"))
    assert time.monotonic() - begin < 15


def test_devices() -> None:
    assert lent("/dev/null") == (b"", "/dev/null")
    fd, real = lend.open_as(ALICE, "/dev/zero", Deadline(20))
    os.close(fd)
    assert real == "/dev/zero"


def test_descriptor_of_the_borrower_is_not_ours(home: Path) -> None:
    """Only reading, and nothing that a program started later would get."""
    fd, _ = lend.open_as(ALICE, str(owned(home / "image", 0o600)), Deadline(20))
    try:
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_deleted_after_opening(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = owned(home / "image", 0o600)
    end = process.end

    def late(borrower: subprocess.Popen[bytes]) -> None:
        path.unlink()
        end(borrower)

    monkeypatch.setattr(process, "end", late)
    assert lent(path) == (b"data", f"{path} (deleted)")


@pytest.mark.error("VB311")
def test_no_time(home: Path) -> None:
    path = owned(home / "image", 0o600)
    with pytest.raises(DeadlineError, match=rf"^{path} could not be opened in time$"):
        lent(path, 0)


def cheating(monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    monkeypatch.setattr(lend, "_BORROWER", f"import os, socket, sys\nanswer = socket.socket(fileno=int(sys.argv[1]))\n{act}\n")


def test_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = owned(home / "image", 0o600)
    cheating(monkeypatch, f"os.kill(os.getpid(), {signal.SIGSTOP:d})")
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match=rf"^{path} could not be opened in time$"):
        lent(path, 0.5)
    assert 0.5 <= time.monotonic() - begin < 15


def test_killed_by_its_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheating(monkeypatch, f"os.kill(os.getpid(), {signal.SIGKILL:d})")
    refused(owned(home / "image", 0o600), "cannot be opened")


def test_two_descriptors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = owned(home / "image", 0o600)
    cheating(monkeypatch, "fds = [os.open(sys.argv[2], os.O_RDONLY) for _ in range(7)]\nsocket.send_fds(answer, [b'!'], fds)")
    assert lent(path) == (b"data", str(path))


def test_another_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows where it lies."""
    other = owned(home / "other", 0o600)
    cheating(monkeypatch, f"socket.send_fds(answer, [b'!'], [os.open({str(other)!r}, os.O_RDONLY)])")
    assert lent(owned(home / "image", 0o600)) == (b"data", str(other))


def test_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheating(monkeypatch, "socket.send_fds(answer, [b'!'], [os.memfd_create('/home/alice/x')])")
    assert lent(owned(home / "image", 0o600)) == (b"", "/memfd:/home/alice/x (deleted)")


def test_text_of_a_cheat_is_one_printable_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes into the job's log and to its user's terminal."""
    cheating(monkeypatch, r"answer.sendall(b'no\n\x1b[2Jvmbatch: all is well\xff')")
    with pytest.raises(JobError) as caught:
        lent(owned(home / "image", 0o600))
    assert caught.value.what.isprintable()


def test_rights_of_the_borrower(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheating(monkeypatch, "said = ' '.join(map(str, [os.getresuid(), os.getresgid(), sorted(os.getgroups())]))\n"
                          "answer.sendall(said.encode())")
    refused(owned(home / "image", 0o600), "(1500, 1500, 1500) (1500, 1500, 1500) [1600]")


def test_for_another_user(home: Path) -> None:
    with pytest.raises(JobError, match="Permission denied"):
        lend.open_as(BOB, str(owned(home / "image", 0o644)), Deadline(20))


def test_none_of_our_descriptors_get_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = socket.socketpair()
    with one, two:
        process.hold(one.fileno())
        try:
            cheating(monkeypatch, "answer.sendall(str(sorted(int(n) for n in os.listdir('/proc/self/fd'))[3:]).encode())")
            with pytest.raises(JobError) as caught:
                lent(owned(home / "image", 0o600))
        finally:
            process.let_go(one.fileno())
    numbers = caught.value.what.partition("[")[2].rstrip("]").split(",")
    assert len(numbers) == 2, "the socket, and the directory that is listed"
