"""What a job can own on a node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import msgspec

from .units import Deadline


class Work(msgspec.Struct, frozen=True):
    """What a step may take and must heed: a deadline, `alive` (raises once the job is over), and a word for the log.

    `progress` is told (bytes done, bytes in all if known) of a download; without it there are lines for the log.
    """

    deadline: Deadline
    alive: Callable[[], None]
    say: Callable[[str], None]
    progress: Callable[[int, int | None], None] | None = None


class Resource(msgspec.Struct, frozen=True, tag_field="kind"):
    """A thing with a durable name, whose fields are its record in the journal.

    `acquire` is exclusive and may fail half-way. `release` needs the record alone, is idempotent, takes absent and half-made as
    success, and leaves alone what is not this start's. `last` says that the journal ends with this record: whoever wrote it may
    have died with a request for it still under way.

    `apart`: a hypervisor has no part in it, and once the guest has ended it can be released whatever the hypervisor still does.
    """

    apart: ClassVar[bool] = False

    def acquire(self) -> None:
        """Makes the thing. NodeError."""
        raise NotImplementedError

    def hand_over(self) -> None:
        """Told when the job may run in its guest; nearly no kind cares."""

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Unmakes it. NodeError if it is still there."""
        raise NotImplementedError

    def begin_release(self, deadline: Deadline, *, last: bool) -> None:
        """As `release`, but what nothing else depends on may go on until it is told to `settle`."""
        self.release(deadline, last=last)

    def settle(self, deadline: Deadline, before: Resource | None) -> None:
        """Waits for what goes on, if that must be over `before` another resource is released; None: in the end. NodeError."""


class SlowResource(Resource, frozen=True):
    """One that other programs make, beside whose work something else may be done."""

    def begin(self) -> AbstractContextManager[Callable[[], None]]:
        """Begins to make it; the function waits until it is there, and nothing works on it any more at the end. NodeError."""
        raise NotImplementedError

    def acquire(self) -> None:
        """Makes the thing. NodeError."""
        with self.begin() as finish:
            finish()


class Piece(msgspec.Struct, frozen=True):
    """Something that is not released: made inside a directory that the job owns, and removed with it, or seen to alone."""

    def make(self, work: Work) -> None:
        """Makes it. NodeError, SiteError, JobError."""
        raise NotImplementedError
