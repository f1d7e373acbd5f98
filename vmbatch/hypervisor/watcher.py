"""The process on the node that watches whether a guest still gives signs of life; vmbatch/watcher.py is what it does."""

import contextlib
import os
import sys

import msgspec

from ..errors import NodeError
from ..host import process
from ..resource import Resource
from ..units import Deadline
from .domain import Domain

_LIMIT = 64 << 10


class Watcher(Resource, frozen=True, tag="watcher", kw_only=True):
    """`path` is a file in the job's spool directory that holds this record; the process is known by it, its only argument.

    `seconds`: how long the guest may be silent. `place` is its directory on the share, whose server is this node if `local`; ''
    for a guest that has a port. `handover` is where the job's shell looks, `log` the directory of logs.
    """

    path: str
    token: str
    job: str
    domain: Domain
    seconds: float
    place: str
    local: bool
    handover: str
    log: str

    def __str__(self) -> str:
        return f"watcher of {self.domain.name}, which may be silent for {self.seconds:.0f} s"

    @property
    def _argv(self) -> list[str]:
        return [sys.executable, "-Im", "vmbatch.watcher", self.path]

    def acquire(self) -> None:
        """Writes down what is to be watched."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(self))

    def hand_over(self) -> None:
        """Starts the process: until now the prologue has watched."""
        process.detach(self._argv)

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the process, wherever it is in its work; the record goes if it is ours, or the beginning of ours."""
        process.end_all(self._argv[1:], deadline)
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                ours = msgspec.json.encode(self).startswith(os.read(fd, _LIMIT))
            finally:
                os.close(fd)
            if ours:
                os.unlink(self.path)


def read(path: str) -> Watcher:
    """The record at a path. NodeError."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=Watcher)
    except (OSError, msgspec.DecodeError) as error:
        raise NodeError(f"{path} is no watcher's record: {error}", code="VB907") from None
