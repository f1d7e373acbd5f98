"""Saved guests in the node's store: each a directory, called after all that shaped it.

    DIRECTORY/saved/KEY/record, memory, DISK.qcow2, ...    root's alone; without a record it is half removed
    DIRECTORY/saved/KEY.making/                            of the start that makes it, with its mark

Who makes a guest of it holds the record's lock until all disks have second names; a saved guest of which any file has one, or
whose lock is held, is in use.
"""

import contextlib
import os
from collections.abc import Iterator

import msgspec

from .. import digest
from ..host import file, lock
from ..template import Places
from .record import Stamp
from .store import stamp

MEMORY, RECORD = "memory", "record"


class Input(msgspec.Struct, frozen=True):
    """A file of the node that a saved guest was made with: `content` is the digest that names it, or '' and `stamp` counts."""

    path: str
    content: str
    stamp: Stamp | None

    def is_there(self) -> bool:
        """Whether it is as it was."""
        try:
            status = os.stat(self.path)
            return self.stamp is None or self.stamp == stamp(status)
        except OSError:
            return False


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """All that shapes a guest: `domain` (the template's), `kit` and `node` (hypervisor, processor) are digests.

    `cores`, and bytes of `memory`.
    """

    template: str
    domain: str
    kit: str
    node: str
    cores: int
    memory: int
    inputs: tuple[Input, ...]

    @property
    def key(self) -> str:
        """By which it is found; where an image is counts only if nothing else is known of it."""
        seen = [msgspec.structs.replace(each, path="") if each.content else each for each in self.inputs]
        return digest.of_text(msgspec.json.encode(msgspec.structs.replace(self, inputs=tuple(seen))).decode())


class Frozen(msgspec.Struct, frozen=True):
    """A disk as the saved guest left it: number `index` of the template, `name` in the directory, `size` for the guest, bytes."""

    index: int
    name: str
    format: str
    size: int


class Record(msgspec.Struct, frozen=True):
    """A saved guest, made at a time in seconds since 1970: its `domain` as libvirt has it, `places` for devices that it lacks."""

    shape: Shape
    domain: str
    disks: tuple[Frozen, ...]
    places: Places
    made: float
    state: Stamp


class Saved(msgspec.Struct, frozen=True):
    """A saved guest in its directory."""

    directory: str
    record: Record

    @property
    def memory(self) -> str:
        """libvirt's file."""
        return os.path.join(self.directory, MEMORY)

    def disk(self, frozen: Frozen) -> str:
        """Where a disk is."""
        return os.path.join(self.directory, frozen.name)


class Held:
    """A saved guest that nobody removes until `close`, or until this process ends."""

    def __init__(self, saved: Saved, fd: int) -> None:
        self.saved = saved
        self._fd = fd

    def close(self) -> None:
        """Lets go."""
        os.close(self._fd)


def place(directory: str, key: str) -> str:
    """Where a saved guest is, or would be."""
    return os.path.join(directory, "saved", key)


def find(directory: str, shape: Shape) -> Held | None:
    """The guest of this shape, held; None if there is none."""
    path = place(directory, shape.key)
    try:
        fd = os.open(os.path.join(path, RECORD), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if lock.take(fd, shared=True):
            found = Saved(path, msgspec.json.decode(os.pread(fd, 1 << 20, 0), type=Record))
            if os.fstat(fd).st_nlink and stamp(os.stat(found.memory)) == found.record.state:
                os.utime(fd)
                return Held(found, fd)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    os.close(fd)
    return None


def publish(made: str, to: str, record: Record, readers: int | None) -> None:
    """Gives a guest that is saved in the directory `made` its name; who finds that finds all of it, even after a power loss.

    Its disks are for the group `readers` alone, if there is one; its state is root's.
    """
    for name in os.listdir(made):
        with contextlib.closing(_File(os.path.join(made, name))) as opened:
            if name == MEMORY:
                os.fchown(opened.fd, file.OWNER, file.GROUP)
                os.fchmod(opened.fd, 0o600)
            else:
                file.give(opened.fd, readers)
            os.fsync(opened.fd)
    file.replace(os.path.join(made, RECORD), msgspec.json.encode(record), 0o600, sync=True)
    os.chmod(made, 0o700)
    os.rename(made, to)
    file.sync_directory(os.path.dirname(to))


class _File:
    """An open file of ours."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)


def every(directory: str) -> list[tuple[Saved, float]]:
    """All saved guests, each with when it was used last, that one first which was not used for the longest time."""
    found = []
    for path in _places(directory):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError), open(os.path.join(path, RECORD), "rb") as opened:
            used = os.fstat(opened.fileno()).st_mtime
            found.append((Saved(path, msgspec.json.decode(opened.read(), type=Record)), used))
    return sorted(found, key=lambda each: each[1])


def remove(path: str, *, in_use: bool = False) -> bool:
    """Removes a saved guest; whether it is gone. One of which guests are made just now stays, and with `in_use` no other.

    The guests that were made of it keep its disks, by the names that they have given them.
    """
    with _alone(os.path.join(path, RECORD)) as mine:
        if not mine or (not in_use and is_used(path)):
            return False
        for name in (RECORD, *_names(path)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(path, name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
    return not os.path.exists(path)


def discard(path: str) -> None:
    """Has nobody find a saved guest any more; who has found it goes on."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, RECORD))


def is_used(path: str) -> bool:
    """Whether a guest that was made of it is there."""
    for name in _names(path):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(os.path.join(path, name)).st_nlink > 1:
                return True
    return False


def size(path: str) -> int:
    """Bytes on the disk."""
    total = 0
    for name in _names(path):
        with contextlib.suppress(FileNotFoundError):
            total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total


def tidy(directory: str) -> list[str]:
    """Removes what is half removed, or can never be used again as what it was made with has changed; a line for each."""
    known = {saved.directory: saved.record.shape for saved, _used in every(directory)}
    said = []
    for path in _places(directory):
        shape = known.get(path)
        why = "half removed" if shape is None else _why_useless(shape)
        if why and remove(path, in_use=True):
            said.append(f"removed the saved guest {path}: {why}")
    return said


def _why_useless(shape: Shape) -> str:
    if not os.path.exists(shape.template):
        return f"there is no template {shape.template} any more"
    return next((f"{each.path} is not what it was made with" for each in shape.inputs if not each.is_there()), "")


def supersede(directory: str, by: str, shape: Shape) -> None:
    """Removes the saved guests of the same template and size that are not the one in `by`: what shapes them has changed."""
    for saved, _used in every(directory):
        of = saved.record.shape
        if saved.directory != by and (of.template, of.cores, of.memory) == (shape.template, shape.cores, shape.memory):
            remove(saved.directory, in_use=True)


@contextlib.contextmanager
def _alone(record: str) -> Iterator[bool]:
    """Whether nobody is about to make a guest of it, nor begins to: also if the record is gone."""
    try:
        fd = os.open(record, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        yield lock.take(fd)
    finally:
        os.close(fd)


def _places(directory: str) -> list[str]:
    """Of saved guests, but for those that are being made."""
    try:
        names = sorted(os.listdir(os.path.join(directory, "saved")))
    except FileNotFoundError:
        return []
    return [place(directory, name) for name in names if "." not in name]


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
