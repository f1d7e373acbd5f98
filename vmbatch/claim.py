"""A start's share of its node: room for its guest, and its turn to start it.

A claim is a symbolic link whose target is its record, so that name and content come at once, and to one alone (symlink(2)). Its
name ends in its state, which rename(2) changes. All are on a file system that a boot empties, as no guest outlives one.
"""

import contextlib
import os

import msgspec

from .errors import NodeError
from .host import clock
from .resource import Resource
from .units import Deadline

DIRECTORY = "/run/vmbatch/claims"
ASKING, HELD, WAITING, STARTING, RUNNING = "asking", "held", "waiting", "starting", "running"
"""It asks for room; it has room; it waits for its turn to start; its guest starts; its job may run."""
_STATES = (ASKING, HELD, WAITING, STARTING, RUNNING)


class Claim(Resource, frozen=True, tag="claim"):
    """What the start `token` of `job` takes of the node: `cores`, and bytes of `memory` with the hypervisor's own.

    `asked`: when, in seconds of the node's monotonic clock; `owner` is the prologue.
    """

    directory: str
    token: str
    job: str
    cores: int
    memory: int
    asked: float
    owner: clock.ProcessIdentity

    def __str__(self) -> str:
        return f"claim of job {self.job} to {self.cores} cores and {self.memory >> 20} MiB of memory"

    def _path(self, state: str) -> str:
        return os.path.join(self.directory, f"{self.token}.{state}")

    def acquire(self) -> None:
        """Asks for room; from now on others see it."""
        try:
            os.symlink(msgspec.json.encode(self), os.fsencode(self._path(ASKING)))
        except OSError as error:
            raise NodeError(f"{self._path(ASKING)} cannot be made: {error.strerror}", code="VB906") from None

    def move(self, before: str, state: str) -> None:
        """From one state to another. NodeError."""
        try:
            os.rename(self._path(before), self._path(state))
        except OSError as error:
            raise NodeError(f"{self._path(before)} cannot be renamed: {error.strerror}", code="VB906") from None

    def hand_over(self) -> None:
        """The guest has started; one that has waited for its job long ago."""
        if not os.path.lexists(self._path(RUNNING)):
            self.move(STARTING, RUNNING)

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Gives back what it has, in whatever state."""
        for state in _STATES:
            known = _read(self._path(state))
            if known is not None and known.token == self.token:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(state))

    def precedes(self, other: "Claim") -> bool:
        """Whether it was there first."""
        return (self.asked, self.token) < (other.asked, other.token)

    def is_alive(self) -> bool:
        """Whether its prologue still runs."""
        return clock.started(self.owner.pid) == self.owner.started


def _read(path: str) -> Claim | None:
    """The claim; None if there is none, or what is there is none."""
    try:
        return msgspec.json.decode(os.readlink(os.fsencode(path)), type=Claim)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def look(directory: str) -> list[tuple[Claim, str]]:
    """Every claim there is, with its state; looks again as long as any changes its state, or comes or goes, meanwhile."""
    names, before = _names(directory), None
    while names != before:
        found = [(_read(os.path.join(directory, name)), name.rpartition(".")[2]) for name in names]
        names, before = _names(directory), names
    return [(claim, state) for claim, state in found if claim is not None and state in _STATES]


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
