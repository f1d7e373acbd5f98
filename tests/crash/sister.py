"""Another node of a job, played: its entry on the share is written as its prologue does it, and its guest is ready at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lab import mom, place
from vmbatch.errors import VmBatchError
from vmbatch.exchange.meeting import Meeting
from vmbatch.exchange.member import Member
from vmbatch.host.clock import new_token
from vmbatch.resource import Work
from vmbatch.units import Deadline

FIRST = os.uname().nodename
HOSTS = (FIRST, "sister")
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq0k4pF5sYQm2oZyQ1jPq0o3kqB9mYx8u6fTt0b1c2d"
_SECONDS = 20.0


@contextmanager
def joining(job: mom.Job) -> Iterator[None]:
    """A sister for the job, until the first node's prologue has ended; then its entry is gone."""
    directory = place.SHARE / ".nodes"
    directory.mkdir(mode=0o700, exist_ok=True)
    entry = Member(directory=str(directory), token=new_token(), job=job.id, node=HOSTS[1], rank=1, name="vm-sister",
                   others=(FIRST,), patience=_SECONDS)
    entry.acquire()
    player = os.fork()
    if player == 0:
        with contextlib.suppress(BaseException):
            _play(entry)
        os._exit(0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # the tracer reaps all children of ours
            os.kill(player, signal.SIGKILL)
            os.waitpid(player, 0)
        entry.release(Deadline(_SECONDS), last=False)


def _play(entry: Member) -> None:
    meeting = Meeting(entry)
    work = Work(Deadline(_SECONDS), lambda: None, lambda _line: None)
    meeting.introduce(f"{_KEY} {entry.name}", work)
    meeting.arrive("10.78.250.1", _KEY)
    with contextlib.suppress(VmBatchError):
        while meeting.arrived() is None:
            pass
        meeting.ready()
        meeting.wait_ready(work)
