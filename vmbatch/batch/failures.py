"""How often jobs could not start on this node: what tells a mishap from a node that fails every job."""

import os
import time

import msgspec

from ..config import Config
from ..errors import DeadlineError, Fault, SisterError, VmBatchError
from ..host import file, lock
from ..units import Deadline

PATH = "/var/lib/vmbatch/failures"
_MOST = 1000
_TEXT = 300
_LOCK_SECONDS = 2.0


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A start that failed: seconds since the epoch, the job, whose fault it was, and why; `sister`: another node's of the job.

    `suspect`: the template and images that may be at fault as well, where the failure came while they were fetched or booted.
    """

    time: float
    job: str
    fault: Fault
    sister: bool = False
    user: str = ""
    suspect: str = ""
    what: str = ""


_decoder = msgspec.json.Decoder(Failure)


def against(row: list[Failure], fault: Fault) -> list[Failure]:
    """Those that speak against this node: what one image or user may have caused does so only where several of both failed."""
    own = [failure for failure in row if failure.fault is fault and not failure.sister]
    suspected = [failure for failure in own if failure.suspect]
    several = len({failure.suspect for failure in suspected}) > 1 and len({failure.user for failure in suspected}) > 1
    return own if several else [failure for failure in own if not failure.suspect]


def is_the_nodes(error: VmBatchError, job_id: str, user: str, config: Config) -> bool:
    """Writes a failed start down; whether this node is to be taken out of service for it."""
    try:
        row = note(job_id, error, config.torque_within, user)
    except (VmBatchError, OSError):
        row = []
    return not error.suspect or len(against(row, error.fault)) >= max(1, config.torque_failures)


def recent(seconds: float) -> list[Failure]:
    """All of the last `seconds`."""
    now = time.time()
    return [failure for failure in _read() if abs(now - failure.time) <= seconds]


def note(job_id: str, error: VmBatchError, seconds: float, user: str = "") -> list[Failure]:
    """Writes a failed start down; all of the last `seconds`, this one included. OSError, VmBatchError."""
    file.make_state_directory(os.path.dirname(PATH), 0o711)
    fd = lock.create(PATH + ".lock")
    try:
        if not lock.wait(fd, Deadline(_LOCK_SECONDS)):
            raise DeadlineError(f"{PATH} is in use", code="VB907")
        known = recent(seconds)[1 - _MOST:]
        known.append(Failure(time.time(), job_id, error.fault, isinstance(error, SisterError), user, error.suspect[:_TEXT],
                             error.what[:_TEXT]))
        file.replace(PATH, b"".join(msgspec.json.encode(failure) + b"\n" for failure in known), 0o600)
    finally:
        os.close(fd)
    return known


def _read() -> list[Failure]:
    """What is written down; a file that cannot be understood counts for nothing."""
    try:
        with open(PATH, "rb") as opened:
            return [_decoder.decode(line) for line in opened.read(_MOST * 4096).splitlines()]
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
