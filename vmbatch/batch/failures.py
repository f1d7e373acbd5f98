"""How often jobs could not start on this node: what tells a mishap from a node that fails every job."""

import fcntl
import os
import time

import msgspec

from ..errors import DeadlineError, Fault
from ..host import file
from ..units import Deadline

PATH = "/var/lib/vmbatch/failures"
_MOST = 1000
_LOCK_SECONDS = 2.0


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A start that failed: seconds since the epoch, the job, whose fault it was; `sister`: another node's of the job."""

    time: float
    job: str
    fault: Fault
    sister: bool = False


_decoder = msgspec.json.Decoder(Failure)


def note(job_id: str, fault: Fault, seconds: float, *, sister: bool = False) -> list[Failure]:
    """Writes a failed start down; all of the last `seconds`, this one included. OSError, VmBatchError."""
    file.make_state_directory(os.path.dirname(PATH), 0o711)
    now = time.time()
    lock = os.open(PATH + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(lock)
        known = [failure for failure in _read() if abs(now - failure.time) <= seconds][1 - _MOST:]
        known.append(Failure(now, job_id, fault, sister))
        file.replace(PATH, b"".join(msgspec.json.encode(failure) + b"\n" for failure in known), 0o600)
    finally:
        os.close(lock)
    return known


def _lock(fd: int) -> None:
    over = Deadline(_LOCK_SECONDS)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if over.passed():
                raise DeadlineError(f"{PATH} is in use") from None
            time.sleep(0.01)


def _read() -> list[Failure]:
    """What is written down; a file that cannot be understood counts for nothing."""
    try:
        with open(PATH, "rb") as opened:
            return [_decoder.decode(line) for line in opened.read(_MOST * 256).splitlines()]
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
