"""The node's store of images: one file for each content, found by its source, kept while a job uses it.

    DIRECTORY/site/, DIRECTORY/users/UID/    what belongs to all, and to each user
        content/SHA256                       the images, root's and read-only
        source/KEY                           a record for each source
        incoming/KEY.lock, .part, ...        what is being made; the lock dies with its holder
    DIRECTORY/uses/NAME/                     of each job: second names of the images it uses
    DIRECTORY/once/                          disks that a first job fills (spool/first.py)
    DIRECTORY/saved/                         guests that others are made of (saved.py)

An image is in use while its file has a second name or somebody holds its lock; only others are evicted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from ..errors import DeadlineError, NodeError
from ..host import file, lock
from ..units import Deadline, format_size
from .record import Record, Stamp

_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.001
_LOOKS = 4
_YOUNG_SECONDS = 60.0
_OLD_PARTIAL_SECONDS = 86400.0
_PARTS = ("content", "source", "incoming")


class Held:
    """An image of the store that nobody can evict until `close`, or until this process ends."""

    def __init__(self, key: str, record: Record, path: str, fd: int) -> None:
        self.key = key
        self.record = record
        self.path = path
        self._fd = fd

    def close(self) -> None:
        """Lets go."""
        os.close(self._fd)


class Entry(msgspec.Struct, frozen=True):
    """A source's image, for people: `used` in seconds since 1970, `taken` bytes on the disk."""

    part: str
    key: str
    record: Record
    path: str
    used: float
    taken: int
    in_use: bool


class Content(msgspec.Struct, frozen=True):
    """A file of the store with all sources that have this content; `used` when any of them was used last."""

    name: str
    keys: tuple[str, ...]
    used: float


class Store:
    """The site's part of the store, or one user's."""

    def __init__(self, directory: str, part: str = "site") -> None:
        self.directory = directory
        self.part = part
        self.root = os.path.join(directory, part)

    def make(self) -> None:
        """The directories. NodeError."""
        make_directories(self.directory)
        os.makedirs(os.path.dirname(self.root), 0o711, exist_ok=True)
        for path, mode in ((self.root, 0o711), *((self._place(part), 0o700) for part in _PARTS)):
            file.make_state_directory(path, 0o711 if path.endswith("/incoming") else mode)

    def _place(self, part: str, name: str = "") -> str:
        return os.path.join(self.root, part, name) if name else os.path.join(self.root, part)

    def incoming(self, key: str, suffix: str) -> str:
        """Where something is made while its lock is held."""
        return self._place("incoming", f"{key}.{suffix}")

    @contextmanager
    def locked(self, key: str, deadline: Deadline, alive: Callable[[], None]) -> Iterator[None]:
        """The right to make the image of this key; waits for another holder. DeadlineError, and whatever `alive` raises."""
        path = self.incoming(key, "lock")
        while True:
            fd = lock.create(path)
            try:
                if not lock.wait(fd, deadline, alive, pause=_POLL_SECONDS):
                    raise DeadlineError("another job is still downloading the same image", "the job will find it there later",
                                        code="VB311")
                if not os.fstat(fd).st_nlink:
                    continue
                try:
                    yield
                finally:
                    os.unlink(path)
                return
            finally:
                os.close(fd)

    def _record(self, key: str) -> tuple[Record, float] | None:
        """(record, when it was used last) of a source; None if there is none that can be read."""
        try:
            with open(self._place("source", key), "rb") as opened:
                used = os.fstat(opened.fileno()).st_mtime
                return msgspec.json.decode(opened.read(), type=Record), used
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _records(self) -> Iterator[tuple[str, Record, float]]:
        """(key, record, when it was used last) of every source."""
        for key in _names(self._place("source")):
            if found := self._record(key):
                yield key, *found

    def find(self, key: str) -> Held | None:
        """The image of a source, held; None if there is none, or if its file is not what was checked."""
        known = self._record(key)
        if known is None:
            return None
        record, _ = known
        content = self._place("content", record.content)
        try:
            fd = os.open(content, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(fd, fcntl.LOCK_SH)  # who holds it alone is looking or evicting, and soon done
        status = os.fstat(fd)
        if status.st_nlink and stamp(status) == record.stamp:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._place("source", key))
            return Held(key, record, content, fd)
        os.close(fd)
        return None

    def publish(self, key: str, made: str, record: Record, readers: int | None = None) -> Held:
        """Gives a checked file its name, and to the group `readers` alone, if there is one.

        Whoever finds the name finds the whole image, even after a power loss.
        """
        content = self._place("content", record.content)
        fd = self._same(record.content)
        if fd is None:
            fd = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_SH)
            file.give(fd, readers)
            os.fsync(fd)
            os.rename(made, content)
            file.sync_directory(self._place("content"))
        else:
            os.unlink(made)
        kept = msgspec.structs.replace(record, stamp=stamp(os.fstat(fd)))
        file.replace(self._place("source", key), msgspec.json.encode(kept), 0o600)
        return Held(key, kept, content, fd)

    def _same(self, content: str) -> int | None:
        """The open and held file with this content, if it is there from another source, and as it was checked."""
        try:
            fd = os.open(self._place("content", content), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(fd, fcntl.LOCK_SH)
        status = os.fstat(fd)
        checked = (record.stamp for _, record, _ in self._records() if record.content == content)
        if status.st_nlink and stamp(status) in checked:
            return fd
        os.close(fd)
        return None

    def confirm(self, held: Held) -> None:
        """Writes down that the source was asked again and has nothing newer."""
        kept = msgspec.structs.replace(held.record, checked=time.time())
        file.replace(self._place("source", held.key), msgspec.json.encode(kept), 0o600)

    def entries(self) -> list[Entry]:
        """All images by their sources, the one used least recently first."""
        found = []
        for key, record, used in self._records():
            content = self._place("content", record.content)
            with contextlib.suppress(FileNotFoundError):
                taken = os.stat(content).st_blocks * 512
                found.append(Entry(self.part, key, record, content, used, taken, is_used(content)))
        return sorted(found, key=lambda entry: entry.used)

    def contents(self) -> list[Content]:
        """All files, also those that no source has any more, the one used least recently first."""
        names = _names(self._place("content"))
        keys: dict[str, list[str]] = {}
        used: dict[str, float] = {}
        for key, record, when in self._records():
            keys.setdefault(record.content, []).append(key)
            used[record.content] = max(when, used.get(record.content, 0.0))
        found = [Content(name, tuple(keys.get(name, ())), used.get(name, 0.0)) for name in names]
        return sorted(found, key=lambda content: content.used)

    def remove(self, content: str, keys: tuple[str, ...]) -> bool:
        """Takes an image out, unless it is in use; whether it did."""
        if not remove_unused(self._place("content", content)):
            return False
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._place("source", key))
        return True

    def size(self) -> int:
        """Bytes on the disk of everything in this part."""
        return sum(taken(self._place(part)) for part in ("content", "incoming"))

    def tidy(self) -> list[str]:
        """Removes what dead holders left and nobody will go on with, and contents without a source; a line for each."""
        said = []
        for key in sorted({name.partition(".")[0] for name in _names(self._place("incoming"))}):
            said += self._tidy_incoming(key)
        for key in _names(self._place("source")):
            self._tidy_source(key)
        contents = _names(self._place("content"))
        known = {record.content for _, record, _ in self._records()}
        for name in contents:
            path = self._place("content", name)
            if name not in known and _age(path) > _YOUNG_SECONDS and remove_unused(path):
                said.append(f"removed {path}: no source has it any more")
        return said

    def _tidy_source(self, key: str) -> None:
        """Forgets a source whose record cannot be read, or whose image is gone."""
        def is_lost() -> bool:
            known = self._record(key)
            return known is None or not os.path.exists(self._place("content", known[0].content))

        if is_lost():
            with contextlib.suppress(DeadlineError, FileNotFoundError), self.locked(key, Deadline(0), lambda: None):
                if is_lost():
                    os.unlink(self._place("source", key))

    def _tidy_incoming(self, key: str) -> list[str]:
        """What is half-made of one key, if nobody is making it."""
        try:
            with self.locked(key, Deadline(0), lambda: None):
                old = [name for name in sorted(os.listdir(self._place("incoming")))
                       if name.lstrip(".").partition(".")[0] == key and not name.endswith((".lock", ".seal"))]
                if any(name.endswith(".part") and _age(self._place("incoming", name)) < _OLD_PARTIAL_SECONDS for name in old):
                    old = [name for name in old if not name.endswith((".part", ".part.json"))]
                for name in old:
                    os.unlink(self._place("incoming", name))
        except DeadlineError:
            return []
        return [f"removed {self._place('incoming', name)}: half-made" for name in old]


def make_directories(directory: str) -> None:
    """The store's own directories. NodeError."""
    for path in (directory, *(os.path.join(directory, name) for name in ("uses", "once", "saved", "users"))):
        file.make_state_directory(path, 0o711)


def parts(directory: str) -> list[Store]:
    """The site's part and each user's, as far as they are there."""
    users = [f"users/{uid}" for uid in _names(os.path.join(directory, "users")) if uid.isdigit()]
    return [Store(directory, part) for part in ("site", *users)]


def check_user_limit(store: Store, limit: int, coming: int) -> None:
    """Evicts of one user's images what is needed for another. NodeError."""
    for content in store.contents():
        if store.size() + coming <= limit:
            return
        store.remove(content.name, content.keys)
    if store.size() + coming > limit:
        raise NodeError(f"the images of this user would take more than [userimages] limit = {format_size(limit)}", code="VB310")


def stamp(status: os.stat_result) -> Stamp:
    """What a file looks like from outside. Its change time is left out: that changes with each second name."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def is_used(path: str) -> bool:
    """Whether a job uses an image, or is about to."""
    with _alone(path) as fd:
        return fd is None and os.path.exists(path)


def remove_unused(path: str) -> bool:
    """Removes an image, unless a job uses it; whether it is gone."""
    with _alone(path) as fd:
        if fd is not None:
            os.unlink(path)
        return not os.path.exists(path)


@contextmanager
def _alone(path: str) -> Iterator[int | None]:
    """The open file, while nobody else can begin to use it; None if it is used, or not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        beside = 0
        while not lock.take(fd):
            beside += lock.take(fd, shared=True)  # beside one who uses it, or one who only began to look meanwhile
            if beside > _LOOKS:
                yield None
                return
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(_LOOK_SECONDS * (1 + os.getpid() % 3))
        yield fd if os.fstat(fd).st_nlink == 1 else None
    finally:
        os.close(fd)


def _names(path: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))  # those are being written
    except FileNotFoundError:
        return []


def taken(path: str) -> int:
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0
