"""The record of an installation on this node: for which batch systems, and all that it has made, oldest first.

One file, root's alone, whole and synced before each act: what is made is in it, whatever comes in between.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ..errors import NodeError, SiteError
from ..host import file, lock
from .made import Entry, Made

STATE = "/var/lib/vmbatch"
DIRECTORY = f"{STATE}/install"
_STATE_MODE, _OWN_MODE = 0o711, 0o700


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the admin asked for: directories of each batch system, and what goes with them."""

    torque: tuple[str, ...] = ()
    openpbs: tuple[str, ...] = ()
    slurm: tuple[str, ...] = ()
    health: bool = False
    qmgr: bool = False

    def covers(self, other: "Chosen") -> bool:
        """Whether nothing of `other` is missing."""
        return (set(self.torque) >= set(other.torque) and set(self.openpbs) >= set(other.openpbs)
                and set(self.slurm) >= set(other.slurm) and self.health >= other.health and self.qmgr >= other.qmgr)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of an installation; `prefix` is where VmBatch's own Python is."""

    prefix: str
    chosen: Chosen
    made: tuple[Made, ...] = ()

    def of(self, about: str) -> Entry | None:
        """What was made of that name."""
        return next((entry for entry in self.made if entry.about == about), None)

    def with_(self, entry: Made) -> "Record":
        """With an entry more, or a later state of one."""
        if self.of(entry.about) is None:
            return msgspec.structs.replace(self, made=(*self.made, entry))
        return msgspec.structs.replace(self, made=tuple(entry if old.about == entry.about else old for old in self.made))

    def less(self, about: str) -> "Record":
        """Without an entry."""
        return msgspec.structs.replace(self, made=tuple(old for old in self.made if old.about != about))


def path() -> str:
    """The record's file."""
    return os.path.join(DIRECTORY, "record.json")


def load() -> Record | None:
    """The record; None if VmBatch is not installed here. SiteError if it cannot be read."""
    try:
        os.lstat(path())
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(file.read_trusted(path()), type=Record)
    except msgspec.MsgspecError as error:
        raise SiteError(f"{path()} cannot be read: {error}", "another version of VmBatch may have written it: use that",
                        code="VB918") from None


def save(record: Record) -> None:
    """Writes the record, synced."""
    if not os.path.isdir(STATE):
        file.make_state_directory(STATE, _STATE_MODE)
    file.make_state_directory(DIRECTORY, _OWN_MODE)
    file.replace(path(), msgspec.json.format(msgspec.json.encode(record)) + b"\n", 0o600, sync=True)


def forget() -> None:
    """Removes the record; absent is success."""
    for name, remove in ((path(), os.unlink), (DIRECTORY, os.rmdir)):
        try:
            remove(name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise NodeError(f"{name} cannot be removed: {error.strerror}", code="VB918") from None


@contextmanager
def alone() -> Iterator[None]:
    """No two installations at the same time on a node. NodeError."""
    with lock.alone("/run/vmbatch-install.lock") as mine:
        if not mine:
            raise NodeError("another vmbatch install or uninstall is at work", "wait for its end", code="VB918")
        yield
