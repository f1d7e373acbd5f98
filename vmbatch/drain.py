"""A node that an admin has drained: it takes no new jobs with guests, those that run go on. It lasts over boots."""

from __future__ import annotations

import contextlib
import os

import msgspec

from .errors import BusyError, NodeError
from .host import clock, file

PATH = "/var/lib/vmbatch/drained"


class Drained(msgspec.Struct, frozen=True):
    """Who did it, when (seconds since 1970), and why."""

    by: str
    at: float
    why: str

    def __str__(self) -> str:
        return f"drained by {self.by} at {clock.for_people(self.at)}: {self.why}"


def look() -> Drained | None:
    """Whether this node is drained; a note that cannot be understood counts as one. NodeError."""
    try:
        with open(PATH, "rb") as opened:
            return msgspec.json.decode(opened.read(), type=Drained)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Drained("somebody", os.stat(PATH).st_mtime, f"{PATH} does not say why")
    except OSError as error:
        raise NodeError(f"{PATH}: {error.strerror}", code="VB906") from None


def check() -> None:
    """BusyError if this node is to get no new jobs."""
    note = look()
    if note is not None:
        raise BusyError(f"this node takes no new jobs with guests: {note}", "vmbatch undrain ends that", code="VB919")


def drain(by: str, why: str, now: float) -> None:
    """From now on; a second word replaces the first. NodeError."""
    try:
        file.make_state_directory(os.path.dirname(PATH), 0o711)
        file.replace(PATH, msgspec.json.encode(Drained(by, now, why)), 0o644)
    except OSError as error:
        raise NodeError(f"{PATH} cannot be written: {error.strerror}", code="VB906") from None


def undrain() -> Drained | None:
    """What was the note, if there was one. NodeError."""
    note = look()
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PATH)
    except OSError as error:
        raise NodeError(f"{PATH} cannot be removed: {error.strerror}", code="VB906") from None
    return note
