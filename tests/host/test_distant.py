"""Files whose server may not answer: worked on by another process, which hangs in our stead."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vmbatch.errors import EndedError, Fault, JobError, NodeError, TakenError, UnreachableError
from vmbatch.host import distant, process
from vmbatch.units import Deadline

ROOT = Path(__file__).resolve().parents[2]
PLACE = "/srv/share"


class Value(msgspec.Struct, frozen=True):
    number: int
    names: tuple[str, ...]


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(distant, "_silent", set())
    yield
    process.watch(None)
    assert not list(children())


def children() -> Iterator[int]:
    """Of this process, those that this module has started."""
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_text() == Path("/proc/self/cmdline").read_text():
            yield int(pid)


def hang() -> None:
    while True:
        signal.pause()


@pytest.mark.parametrize(("value", "kind"), [
    (None, None), ([Value(1, ("a", "b"))], list[Value]), (b"\0\xff" * 200_000, bytes | None), (None, Value | None),
    ((0, 0o711), tuple[int, int]),
], ids=["none", "structs", "bytes", "no struct", "numbers"])
def test_what_is_returned(value: object, kind: object) -> None:
    assert distant.call(PLACE, lambda: value, kind) == value


def test_it_is_another_process_with_our_locks(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    seen = distant.call(PLACE, lambda: [os.getppid(), os.getpid(), os.fstat(lock).st_ino], list[int])
    assert (seen[0], seen[1] != os.getpid(), seen[2]) == (os.getpid(), True, os.fstat(lock).st_ino)
    os.close(lock)


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_system_errors() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        distant.call(PLACE, lambda: os.rmdir("/no/such"))
    assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (
        errno.ENOENT, "No such file or directory", "/no/such")


@pytest.mark.parametrize("error", [
    NodeError("it failed", "mend it"), JobError("asked for too much", detail=("more", "and more")), TakenError("taken"),
    NodeError("the site's", fault=Fault.SITE),
], ids=["node", "job", "of another module", "fault"])
def test_our_errors(error: NodeError) -> None:
    with pytest.raises(type(error)) as caught:
        distant.call(PLACE, raising(error))
    assert type(caught.value) is type(error)
    assert (caught.value.lines(), caught.value.fault) == (error.lines(), error.fault)


def test_defects_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="ValueError: a defect"):
        distant.call(PLACE, raising(ValueError("a defect")))


@pytest.mark.error("VB606")
def test_who_hangs_is_left_and_killed() -> None:
    with pytest.raises(UnreachableError) as caught:
        distant.call(PLACE, hang, deadline=Deadline(0.05))
    assert caught.value.lines() == [f"{PLACE} does not answer (is its server up, and can this node reach it?)"]


def test_who_did_not_answer_is_not_waited_for_as_long_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distant, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(distant, "_AGAIN_SECONDS", 0.1)
    with pytest.raises(UnreachableError):
        distant.call(PLACE, hang)
    monkeypatch.setattr(distant, "_ANSWER_SECONDS", 600.0)
    with pytest.raises(UnreachableError):
        distant.call("/srv/share/.addresses", hang)
    assert distant.call(PLACE, lambda: 1, int) == 1
    assert distant.call("/srv/share/.addresses", lambda: 2, int) == 2
    assert distant._silent == set()


def test_a_job_that_is_over_does_not_wait() -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    process.watch(over)
    with pytest.raises(EndedError):
        distant.call(PLACE, hang)


def test_no_longer_than_the_watched_deadline() -> None:
    process.watch(lambda: None, Deadline(0.05))
    with pytest.raises(UnreachableError):
        distant.call(PLACE, hang)


def test_who_is_killed_has_not_answered() -> None:
    with pytest.raises(UnreachableError, match=f"^the process that works in {PLACE} was killed$"):
        distant.call(PLACE, lambda: os.kill(os.getpid(), signal.SIGKILL))


DYING = """
import os, signal, sys, time
from vmbatch.host import distant
def act():
    print(os.getpid(), flush=True)
    time.sleep(300)
distant.call("/srv/share", act)
"""


def test_it_dies_with_us() -> None:
    parent = subprocess.Popen([sys.executable, "-c", DYING], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    handle = os.pidfd_open(pid)
    try:
        assert os.getpgid(pid) == os.getpgid(parent.pid)
        parent.kill()
        parent.wait()
        over = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and time.monotonic() < over:
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
                break
            time.sleep(0.01)
        else:
            assert not Path(f"/proc/{pid}").exists()
    finally:
        os.close(handle)
        parent.stdout.close()


def test_no_signal_goes_to_a_process_that_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by then."""
    sent: list[int] = []
    question = distant.Question("here", lambda: signal.pause())
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    question.signal(signal.SIGUSR1)
    monkeypatch.undo()
    question.signal(signal.SIGKILL)
    with pytest.raises(NodeError):
        question.answer(int, Deadline(30))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    question.signal(signal.SIGUSR2)
    assert sent == [signal.SIGUSR1]
