"""A node's entry where the nodes of a job meet: a directory that they all share, root's alone."""

import contextlib
import os
import re
import time
from collections.abc import Container, Iterator

import msgspec

from ..errors import BusyError, Fault, NodeError, VmBatchError
from ..host import distant, file
from ..job import slug
from ..resource import Resource
from ..units import Deadline

_LIMIT = 1 << 20
_BUSY = "busy"
_SHORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
_ENTRY = re.compile(rf"([0-9][A-Za-z0-9._-]{{0,200}})@({_SHORT.pattern})")
_TEMPORARY = re.compile(rf"\.([0-9a-f]{{32}})\.{_ENTRY.pattern}")
_NOTE_SECONDS = 3600.0


class Guest(msgspec.Struct, frozen=True):
    """A guest of a job as the others must know it; what is not known yet is ''.

    `token` is that of its node's start, `key` is the public key of its user, `host_key` that of its sshd.
    """

    token: str
    node: str
    name: str
    key: str = ""
    address: str = ""
    host_key: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a node's entry.

    `first` is the token of the first node's start that a sister has joined; `party` is all guests in the order of their nodes,
    as the first node knows them; `ready`: of a sister, that its guest is, of the first node, that all are. `failed` is why the
    start failed, line by line, and `fault` whose fault that is, or `busy`: such an entry is a note, which outlives its start
    until it is read.
    """

    job: str
    rank: int
    guest: Guest
    first: str = ""
    party: tuple[Guest, ...] = ()
    ready: bool = False
    failed: tuple[str, ...] = ()
    fault: str = ""


class Member(Resource, frozen=True, tag="member"):
    """The entry of the start `token` of `job` on `node`, number `rank` of its nodes, whose guest will be called `name`.

    `others` are the other nodes that it must know: of the first node, the sisters in their order; of a sister, the first node.
    Nodes are known by their host names up to the first dot. The file is `JOB@NODE` in `directory`; only this node writes it, and
    on this node only who holds the job's journal. It is always whole: written under a name of its own, and renamed.
    """

    directory: str
    token: str
    job: str
    node: str
    rank: int
    name: str
    others: tuple[str, ...]
    patience: float

    @property
    def path(self) -> str:
        """The entry."""
        return self.path_of(self.node)

    def path_of(self, node: str) -> str:
        """The entry of another node of the job."""
        return os.path.join(self.directory, f"{slug(self.job)}@{short(node)}")

    @property
    def _temporary(self) -> str:
        return os.path.join(self.directory, f".{self.token}.{os.path.basename(self.path)}")

    def acquire(self) -> None:
        """Makes the entry, in place of what an earlier start on this node left. NodeError."""
        for node in (self.node, *self.others):
            check_node(node)
        distant.call(self.directory, self._make)

    def _make(self) -> None:
        known = read(self.path)
        if known is not None and known.guest.node != self.node:
            raise NodeError(f"{known.guest.node} and {self.node} have the same entry, {self.path}",
                            "nodes that share a directory must have different names up to the first dot", code="VB608")
        if known is not None and known.guest.token == self.token:
            raise NodeError(f"{self.path} is there already", "this start has made it before", code="VB608")
        if known is None and os.path.lexists(self.path):
            raise NodeError(f"{self.path} is no entry of a job", "see what it is, and remove it by hand", code="VB608")
        _write(self._temporary, self.path, Entry(job=self.job, rank=self.rank, guest=Guest(self.token, self.node, self.name)))

    def write(self, entry: Entry) -> None:
        """Puts a new version in place. NodeError."""
        distant.call(self.directory, lambda: _write(self._temporary, self.path, entry))

    def own(self) -> Entry:
        """The entry as this start wrote it last. NodeError if it is not there any more."""
        entry = distant.call(self.directory, lambda: read(self.path), Entry | None)
        if entry is None or entry.guest.token != self.token:
            raise NodeError(f"{self.path} is not this start's any more", "see who removes files there", code="VB608")
        return entry

    def seen(self) -> list[Entry | None]:
        """The entries of the others, in their order, as they are at the server now. NodeError."""
        return distant.call(self.directory, self._see, list[Entry | None])

    @property
    def _look(self) -> str:
        return os.path.join(self.directory, f".look.{self.token}")

    def _see(self) -> list[Entry | None]:
        refresh(self._look)
        return [read(self.path_of(node)) for node in self.others]

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes the entry if it is this start's and no note; the first node's goes with the notes of its sisters."""
        distant.call(self.directory, self._leave, deadline=deadline)

    def _leave(self) -> None:
        entry = read(self.path)
        if entry is not None and entry.guest.token == self.token and not entry.failed:
            _remove(self.path)
        _remove(self._temporary)
        with contextlib.suppress(OSError):
            os.rmdir(self._look)
        if self.rank == 0:
            for node in self.others:
                note = read(self.path_of(node))
                if note is not None and note.failed:
                    _remove(self.path_of(node))

    def is_gone(self) -> bool | None:
        """Whether a sister's guest has lost its job: the first node's start that it joined has ended. None if unknown."""
        if self.rank == 0:
            return None
        try:
            mine = distant.call(self.directory, lambda: read(self.path), Entry | None)
            if mine is None or mine.guest.token != self.token:
                return None
            first = self.seen()[0]
        except NodeError:
            return None
        return first is None or first.guest.token != mine.first

    def __str__(self) -> str:
        return f"entry {self.path} for the job's other nodes"


class Note(Resource, frozen=True, tag="note"):
    """A file in the directory that nobody needs any more; never in a journal."""

    path: str
    token: str

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes it."""
        distant.call(os.path.dirname(self.path), lambda: _remove(self.path), deadline=deadline)

    def __str__(self) -> str:
        return f"entry {self.path}"


def short(node: str) -> str:
    """A host name up to its first dot."""
    return node.partition(".")[0]


def check_node(node: str) -> None:
    """NodeError unless the host name can stand in a file's name."""
    if not _SHORT.fullmatch(short(node)):
        raise NodeError(f"the node's name {node[:80]!r} cannot stand in a file's name", "give the node a host name", code="VB608")


def _write(temporary: str, path: str, entry: Entry) -> None:
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as made:
            made.write(msgspec.json.encode(entry))
            made.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise NodeError(f"the job's nodes cannot meet: {path}: {error.strerror}",
                        "[nodes] directory must be on a file system that all nodes mount, and root's on each of them",
                        code="VB608") from None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"{path} cannot be removed: {error.strerror}", code="VB608") from None


def read(path: str) -> Entry | None:
    """An entry; None if there is none, or what is there is none. NodeError where that cannot be known."""
    try:
        data = file.read_shared(path, _LIMIT)
        return None if data is None else msgspec.json.decode(data, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}", code="VB608") from None


def refresh(look: str) -> None:
    """A change of our own makes an NFS client ask the server anew (fs/nfs/dir.c, nfs_force_lookup_revalidate)."""
    with contextlib.suppress(OSError):
        os.mkdir(look, 0o700)
    with contextlib.suppress(OSError):
        os.rmdir(look)


def leave_note(directory: str, job: str, node: str, token: str, error: VmBatchError) -> None:
    """Tells the first node why this sister's start failed; raises nothing, as there is nobody else to be told."""
    with contextlib.suppress(VmBatchError, OSError):
        check_node(node)
        distant.call(directory, lambda: _leave_note(directory, job, node, token, error))


def _leave_note(directory: str, job: str, node: str, token: str, error: VmBatchError) -> None:
    path = os.path.join(directory, f"{slug(job)}@{short(node)}")
    known = read(path)
    if known is not None and known.guest.node != node:
        return
    base = known if known is not None else Entry(job=job, rank=-1, guest=Guest(token, node, ""))
    _write(os.path.join(directory, f".{token}.{os.path.basename(path)}"), path,
           msgspec.structs.replace(base, guest=msgspec.structs.replace(base.guest, token=token),
                                   failed=tuple(error.lines()),
                                    fault=_BUSY if isinstance(error, BusyError) else error.fault.value))


def forget_note(directory: str, job: str, node: str) -> None:
    """Takes away a note that nobody has read."""
    with contextlib.suppress(VmBatchError):
        check_node(node)
        distant.call(directory, lambda: _forget_note(os.path.join(directory, f"{slug(job)}@{short(node)}"), node))


def _forget_note(path: str, node: str) -> None:
    note = read(path)
    if note is not None and note.failed and note.guest.node == node:
        _remove(path)


def of_failure(entry: Entry) -> VmBatchError:
    """A sister's error, as the first node has to raise it: with the same fault."""
    from ..errors import SisterError

    first, *rest = entry.failed
    if entry.fault == _BUSY:
        return BusyError(f"node {short(entry.guest.node)}: {first}", detail=tuple(rest), code="VB609")
    fault = next((fault for fault in Fault if fault.value == entry.fault), Fault.NODE)
    return SisterError(f"node {short(entry.guest.node)}: {first}", fault=fault, detail=tuple(rest))


def look(directory: str, node: str) -> list[tuple[str, str, bool]]:
    """Everything of this node there: (path, token, whether it is a note that may still be read). NodeError."""
    return distant.call(directory, lambda: list(_look(directory, node)), list[tuple[str, str, bool]])


def _look(directory: str, node: str) -> Iterator[tuple[str, str, bool]]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"{directory}: {error.strerror}", code="VB608") from None
    for name in names:
        path = os.path.join(directory, name)
        if half := _TEMPORARY.fullmatch(name):
            if half[3] == short(node):
                yield path, half[1], False
        elif (match := _ENTRY.fullmatch(name)) and match[2] == short(node):
            entry = read(path)
            if entry is not None and entry.guest.node == node:
                yield path, entry.guest.token, bool(entry.failed) and _age(path) < _NOTE_SECONDS


def _age(path: str) -> float:
    """In seconds; by the server's clock and ours."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def stale(seen: list[tuple[str, str, bool]], tokens: Container[str]) -> list[Note]:
    """Entries of this node that no journal lists, and notes that nobody has read. `tokens` were listed later than `seen`."""
    return [Note(path, token) for path, token, fresh in seen if token not in tokens and not fresh]
