"""What a job can own on a node."""

from __future__ import annotations

import msgspec

from .units import Deadline


class Resource(msgspec.Struct, frozen=True, tag_field="kind"):
    """A thing with a durable name, whose fields are its record in the journal.

    `acquire` is exclusive and may fail half-way. `release` needs the record alone, is idempotent, takes absent and half-made as
    success, and leaves alone what is not this start's. `last` says that the journal ends with this record: whoever wrote it may
    have died with a request for it still under way.
    """

    def acquire(self) -> None:
        """Makes the thing. NodeError."""
        raise NotImplementedError

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Unmakes it. NodeError if it is still there."""
        raise NotImplementedError


class Piece(msgspec.Struct, frozen=True):
    """Something made inside a directory that the job owns, and removed with it."""

    def make(self, deadline: Deadline) -> None:
        """Makes it. NodeError, SiteError."""
        raise NotImplementedError
