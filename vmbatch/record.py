"""What a journal says of a start of a job, line by line."""

from __future__ import annotations

import time

import msgspec

from . import registry
from .errors import NodeError
from .host import clock
from .job import Leader, Script, unique
from .resource import Resource

_KEPT_LINE = b'{"kind":"kept"'
_WAITS_LINE = b'{"kind":"waits"'
_START_LINE = b'{"kind":"start"'


class Start(msgspec.Struct, frozen=True, tag="start", tag_field="kind"):
    """The first line: which start of which job this is, and who made it; seconds to keep what is left of it if it fails.

    Where a job takes a guest that waited, such a line is added: from then on all is that job's. `pooled`: see `Job`. `uid`: the
    user's.
    """

    job: str
    token: str
    user: str
    queue: str
    script: Script | None
    owner: clock.ProcessIdentity
    time: float
    batch: str = "torque"
    keep: float = 0.0
    leader: Leader | None = None
    pooled: str = ""
    uid: int = -1

    @property
    def unique(self) -> str:
        """The name of the directories of its own."""
        return unique(self.job, self.token, self.pooled)


class Waits(msgspec.Struct, frozen=True, tag="waits", tag_field="kind"):
    """The line that says that the guest is whole, and waits for a job; a start that follows is that of the job that took it.

    It is for jobs whose guests would be shaped by the same `template` and `key`. It has `addresses` by interface that were
    reserved for it, and is reached at `address`. It waits until `until` seconds since the boot `boot` of the node.

    It may have up to `jobs` jobs, one after the other, until its `lifetime` ends, in seconds since the same boot. One that `had`
    some waits for another one of the user `user` and `uid` alone, each time for `idle` seconds.
    """

    template: str
    key: str
    address: str
    addresses: tuple[tuple[str, ...], ...]
    boot: str
    until: float
    jobs: int = 1
    idle: float = 0.0
    lifetime: float = 0.0
    had: int = 0
    user: str = ""
    uid: int = -1

    @property
    def is_over(self) -> bool:
        """Whether it has waited too long, or has gone with its boot."""
        return self.boot != clock.boot_id() or clock.uptime() >= self.until

    @property
    def is_spent(self) -> str:
        """Why the guest, which has a job, gets no further one, in words; '' if it may."""
        if self.had + 1 >= self.jobs:
            return f"it has had {self.had + 1} of {self.jobs} jobs"
        return "its lifetime is over" if self.boot != clock.boot_id() or clock.uptime() >= self.lifetime else ""

    def is_for(self, name: str, uid: int) -> bool:
        """Whether a job of this user may take it."""
        return not self.had or (self.user, self.uid) == (name, uid)

    def again(self, user: str, uid: int) -> Waits:
        """The line of the same guest when it has had a job of this user."""
        return msgspec.structs.replace(self, had=self.had + 1, user=user, uid=uid,
                                       until=min(self.lifetime, clock.uptime() + self.idle))


class HandedOver(msgspec.Struct, frozen=True, tag="handed-over", tag_field="kind"):
    """The line that says that the job may now run in its guest, and needs what is listed even without its prologue."""

    time: float


class Kept(msgspec.Struct, frozen=True, tag="kept", tag_field="kind"):
    """The line that says that the job failed, and that what is left of it is kept until a time; why, in words.

    `at` is the same time in seconds since the boot `boot` of the node: as long as that lasts, the node's clock may be set.
    """

    until: float
    why: str
    boot: str = ""
    at: float = 0.0

    @classmethod
    def until_then(cls, until: float, why: str) -> Kept:
        """By both clocks."""
        return cls(until, why, clock.boot_id(), clock.uptime() + until - time.time())


class Content(msgspec.Struct):
    """What a journal says: whose it is now, who made it, and the promises in their order, from `own` on the job's alone.

    `waited` is the last line of a guest that waits or has waited, and `waits` says which of both.
    """

    start: Start
    maker: Start
    resources: list[Resource] = []
    handed_over: bool = False
    own: int = 0
    waited: Waits | None = None
    waits: bool = False
    kept: Kept | None = None


def parse(path: str, data: bytes) -> Content:
    """The lines of a journal; a torn last line is a promise on which nobody acted. A further start is of who took what waited.

    Of such a start nothing is left where the guest waits again.
    """
    lines = data.split(b"\n")[:-1]
    try:
        start = msgspec.json.decode(lines[0] if lines else b"", type=Start)
        found = Content(start, start)
        for line in lines[1:]:
            if line.startswith(b'{"kind":"handed-over"'):
                found.handed_over = True
            elif found.waits and line.startswith(_START_LINE):
                found.start, found.waits = msgspec.json.decode(line, type=Start), False
                found.own = len(found.resources)
            elif line.startswith(_WAITS_LINE):
                found.waited, found.waits, found.handed_over = msgspec.json.decode(line, type=Waits), True, False
                if found.start is not start:
                    found.start = start
                    del found.resources[found.own:]
            elif line.startswith(_KEPT_LINE):
                found.kept = _kept(line) or found.kept
            else:
                found.resources.append(registry.resource(line))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NodeError(f"{path} cannot be understood: {error}",
                        "see what it lists, remove that by hand, then remove the file", code="VB907") from None
    return found


def _kept(line: bytes) -> Kept | None:
    """Of a job that has ended, of which something is kept."""
    try:
        return msgspec.json.decode(line, type=Kept)
    except msgspec.DecodeError:
        return None
