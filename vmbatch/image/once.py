"""Which job is the first for a disk with `create='once'`, and when the others may go on."""

import contextlib
import fcntl
import hashlib
import os
import time

import msgspec

from ..errors import DeadlineError
from ..host import lock
from ..resource import Work
from ..template import BlankSource
from ..units import Deadline

_POLL_SECONDS = 0.1


class Turn(msgspec.Struct, frozen=True):
    """What a job has to do with a disk made once: `ready` is the disk, `making` where the first job fills it.

    `first`: this job is it, and nobody else can be while `fd` is open; else `ready` is there and cannot go away.
    """

    ready: str
    making: str
    first: bool
    fd: int

    def close(self) -> None:
        """Lets go."""
        os.close(self.fd)


def places(directory: str, template: str, source: BlankSource, uid: int | None) -> tuple[str, str]:
    """(the disk, where it is filled): one for each template, disk and user, or for all users if `uid` is None."""
    text = msgspec.json.encode([template, source.name, source.size, source.form, source.filesystem, source.label, uid])
    name = hashlib.sha256(text).hexdigest()[:32]
    return os.path.join(directory, "once", name), os.path.join(directory, "once", f"{name}.making")


def take(ready: str, making: str, deadline: Deadline, work: Work) -> Turn:
    """This job's turn; waits for the job that fills the disk. DeadlineError, and whatever `work.alive` raises."""
    while True:
        held = _hold(ready)
        if held is not None:
            return Turn(ready, making, False, held)
        fd = lock.create(f"{ready}.lock")
        if lock.take(fd) and not os.path.lexists(making) and not os.path.lexists(ready):
            return Turn(ready, making, True, fd)
        os.close(fd)
        work.alive()
        if deadline.passed():
            raise DeadlineError(f"another job still makes and fills the disk {ready}", "this job will find it there later",
                                code="VB311")
        time.sleep(_POLL_SECONDS)


def _hold(path: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink:
            os.utime(path)
            return fd
        os.close(fd)
    return None
