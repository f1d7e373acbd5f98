"""The write-ahead record of what a start of a job owns; docs/architecture.md has its rules."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Container, Iterable

import msgspec

from . import endmarker
from .errors import DeadlineError, NodeError, UnreachableError
from .host import clock, file, lock, process
from .hypervisor.domain import Domain
from .job import slug
from .record import Content, HandedOver, Kept, Start, Waits, parse
from .resource import Resource
from .units import Deadline

STATE = "/var/lib/vmbatch"
_KEPT = ".kept"
_POOL = ".pool"
_WAITING = f"{_POOL}.journal"


def directory() -> str:
    """Where the journals are."""
    return os.path.join(STATE, "jobs")


def pool_id(number: int) -> str:
    """The id of a start whose guest is to wait for jobs."""
    return f"{number}{_POOL}"


def make_directories() -> None:
    """What must be there before the first journal."""
    run = os.path.dirname(endmarker.DIRECTORY)
    for path, mode in ((STATE, 0o711), (directory(), 0o700), (run, 0o711), (endmarker.DIRECTORY, 0o700)):
        file.make_state_directory(path, mode)


def path_of(job_id: str) -> str:
    """The journal of a job."""
    return os.path.join(directory(), f"{slug(job_id)}.journal")


def paths(*, kept: bool = True) -> list[str]:
    """All journals there are, with those that were put aside or without."""
    try:
        return [os.path.join(directory(), name) for name in sorted(os.listdir(directory())) if kept or not name.endswith(_KEPT)]
    except FileNotFoundError:
        return []


class Journal:
    """An open and locked journal. `start` is that of its job, `resources` are the promises in their order.

    `waits`: its guest waits for a job; `waited`: it does, or did before a job took it.
    """

    def __init__(self, path: str, fd: int, content: Content) -> None:
        self.path = path
        self.start = content.start
        self._maker = content.maker
        self.resources = content.resources
        self.handed_over = content.handed_over
        self.kept = content.kept
        self.waited = content.waited
        self._waits = content.waits
        self._own = content.own
        self._acting = False
        self._fd = fd

    @property
    def waits(self) -> Waits | None:
        """What its guest waits for, if it does."""
        return self.waited if self._waits else None

    @classmethod
    def create(cls, start: Start) -> Journal | None:
        """A new journal, locked and on disk before it has its name; None if the job has one already."""
        parent = os.open(directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = os.open(directory(), os.O_RDWR | os.O_TMPFILE | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            os.close(parent)
            raise NodeError(f"no journal can be made in {directory()}: {error.strerror}",
                            f"{STATE} must be on a local file system that knows O_TMPFILE, such as ext4, xfs or tmpfs",
                            code="VB906") from None
        path = path_of(start.job)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _append(fd, msgspec.json.encode(start))
            os.link(f"/proc/self/fd/{fd}", os.path.basename(path), src_dir_fd=parent, dst_dir_fd=parent)
            _make_durable(parent, os.path.basename(path))
        except BaseException as error:
            os.close(fd)
            if isinstance(error, FileExistsError):
                return None
            if isinstance(error, OSError):
                raise NodeError(f"no journal can be made in {directory()}: {error.strerror}", "is the disk full?",
                                code="VB906") from None
            raise
        finally:
            os.close(parent)
        process.hold(fd)
        return cls(path, fd, Content(start, start))

    @classmethod
    def open(cls, path: str, deadline: Deadline) -> Journal | None:
        """An existing journal, once its owner has let go; None if there is none. DeadlineError, NodeError."""
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise NodeError(f"{path}: {error.strerror}", code="VB906") from None
            try:
                if not lock.wait(fd, deadline, process.alive):
                    raise DeadlineError(f"{path} is still in use", code="VB907")
                if _is_at(path, fd):
                    book = cls(path, fd, parse(path, _read(fd)))
                    process.hold(fd)
                    return book
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def promise(self, resource: Resource) -> None:
        """Writes down, for good, what is about to be made."""
        _append(self._fd, msgspec.json.encode(resource))
        self.resources.append(resource)
        self._acting = True

    def acted(self) -> None:
        """What was promised is made: nothing of it is still under way."""
        self._acting = False

    def hand_over(self) -> None:
        """Writes down that the job may run."""
        _append(self._fd, msgspec.json.encode(HandedOver(time.time())))
        self.handed_over = True

    def wait(self, waits: Waits) -> None:
        """Writes down that the guest is there for any job: it needs what is listed even without who made it."""
        _append(self._fd, msgspec.json.encode(waits))
        self.waited, self._waits, self.handed_over = waits, True, False

    def wait_again(self, waits: Waits) -> None:
        """As `wait`, of a guest that has had a job, of which nothing is left: the journal has the name again that it had before.

        Until it has, nobody takes the guest: who dies before leaves a dead start. NodeError, OSError.
        """
        self.wait(waits)
        self.start = self._maker
        path = path_of(self.start.job)
        os.rename(self.path, path)
        self.path = path
        file.sync_directory(directory())

    @property
    def waits_elsewhere(self) -> bool:
        """Whether it says that its guest waits, but nobody can find it: who was about to see to that has died."""
        return self._waits and not self.path.endswith(_WAITING)

    def release_own(self, seconds: float) -> None:
        """Releases what is of the job alone that took the guest, each within `seconds`; all else stays. VmBatchError, OSError."""
        while len(self.resources) > self._own:
            self.resources[-1].release(Deadline(seconds), last=False)
            self.resources.pop()

    def become(self, start: Start) -> Journal | None:
        """Makes this guest that waits a job's, for good, and this the job's journal; None if the job has one already.

        From the line on that says so nobody else takes the guest; where that is all that could be done, it is released like any
        dead start's. NodeError.
        """
        path = path_of(start.job)
        if os.path.lexists(path):
            return None
        if self._waits:
            _append(self._fd, msgspec.json.encode(start))
            self.start, self._waits, self._own = start, False, len(self.resources)
        try:
            os.link(self.path, path, follow_symlinks=False)
        except FileExistsError:
            return None
        except OSError as error:
            raise NodeError(f"{path} cannot be made: {error.strerror}", code="VB906") from None
        before, self.path = self.path, path
        file.sync_directory(directory())
        os.unlink(before)
        return self

    def release(self, seconds: float, *, orphaned: bool = True, spared: Container[Resource] = (),
                released: Callable[[], None] = lambda: None) -> None:
        """Releases everything, backwards, each step within `seconds`; then owns nothing. NodeError at the first failure.

        `orphaned`: whoever wrote the last line may have died in its act. What is `spared` is left, and the journal then, too.
        `released` is called when all else is gone and the journal is still there: after a crash it is called again.
        What cannot be reached, or removed, in time stays listed; all else is released: UnreachableError.
        """
        silent: UnreachableError | None = None
        for index in range(len(self.resources) - 1, -1, -1):
            last = (orphaned or self._acting) and index == len(self.resources) - 1 and not self.handed_over
            for done in self.resources[index + 1:]:
                done.settle(Deadline(seconds), self.resources[index])
            if self.resources[index] not in spared:
                try:
                    self.resources[index].begin_release(Deadline(seconds), last=last)
                except UnreachableError as error:
                    silent = silent or error
        for done in self.resources:
            done.settle(Deadline(seconds), None)
        if silent is not None:
            raise silent
        released()
        if spared:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        file.sync_directory(directory())

    def keep(self, until: float, why: str, most: int) -> bool:
        """Puts the journal aside until then, so that the job's id is free; False, and nothing done, if `most` are kept by now."""
        parent = os.open(directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(parent, fcntl.LOCK_EX)
            if sum(name.endswith(_KEPT) for name in os.listdir(parent)) >= most:
                return False
            self.kept = Kept.until_then(until, why)
            _append(self._fd, msgspec.json.encode(self.kept))
            name = f"{slug(self.start.job)}.{self.start.token}{_KEPT}"
            os.rename(os.path.basename(self.path), name, src_dir_fd=parent, dst_dir_fd=parent)
            self.path = os.path.join(directory(), name)
            os.fsync(parent)
        finally:
            os.close(parent)
        return True

    def is_over(self, *, note: bool) -> bool:
        """Whether what is kept may go. If `note`, nothing is kept longer than was asked for where the clock was set back."""
        if self.kept is None or self.kept.boot == clock.boot_id():
            return self.kept is not None and clock.uptime() >= self.kept.at
        left = self.kept.until - time.time()
        if left > self.start.keep and note:
            self.kept = Kept.until_then(time.time() + self.start.keep, self.kept.why)
            _append(self._fd, msgspec.json.encode(self.kept))
        return left <= 0

    def close(self) -> None:
        """Lets go of the lock."""
        process.let_go(self._fd)
        os.close(self._fd)


def _is_at(path: str, fd: int) -> bool:
    """Whether an open journal is still there, and has not been put aside."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _append(fd: int, record: bytes) -> None:
    """Writes a line to the disk, or nothing: another may follow one that could not be written, or was torn. NodeError."""
    line = record + b"\n"
    size = _read(fd).rfind(b"\n") + 1
    try:
        if size != os.fstat(fd).st_size:
            os.ftruncate(fd, size)
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    except OSError as error:
        os.ftruncate(fd, size)
        raise NodeError(f"no journal can be written in {directory()}: {error.strerror}", "is the disk full?",
                        code="VB906") from None


def _make_durable(parent: int, name: str) -> None:
    """A journal's name is on disk, or gone. OSError."""
    try:
        os.fsync(parent)
    except OSError:
        os.unlink(name, dir_fd=parent)
        raise


def _read(fd: int) -> bytes:
    return os.pread(fd, 16 << 20, 0)


def peek(path: str) -> tuple[Start, list[Resource], bool] | None:
    """What a journal says now, without its lock; None if there is none. NodeError."""
    try:
        with open(path, "rb") as opened:
            found = parse(path, opened.read())
        return found.start, found.resources, found.handed_over
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}", code="VB906") from None


def domain_of(resources: Iterable[Resource]) -> Domain | None:
    """The guest among what a start owns."""
    return next((owned for owned in resources if isinstance(owned, Domain)), None)


def waiting() -> list[tuple[str, Start, Waits]]:
    """Every journal of a guest that waits for a job: its path, and what it says; the one that goes on longest comes last.

    One that cannot be understood is no such guest's.
    """
    found = []
    for path in paths():
        if not path.endswith(_WAITING):
            continue
        with contextlib.suppress(NodeError, OSError), open(path, "rb") as opened:
            known = parse(path, opened.read())
            if known.waits and known.waited is not None:
                found.append((path, known.start, known.waited))
    return sorted(found, key=lambda each: each[2].until)


def kept() -> list[tuple[str, Start, list[Resource], Kept]]:
    """Every journal that was put aside: its path, and what it says. NodeError."""
    found = []
    for path in paths():
        if path.endswith(_KEPT) and (known := peek(path)) is not None:
            with open(path, "rb") as opened:
                kept_until = parse(path, opened.read()).kept
            found.append((path, known[0], known[1], kept_until or Kept(0.0, "not known")))
    return found
