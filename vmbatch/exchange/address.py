"""An address, reserved for one start of a job: of a pool in a directory that several nodes may share, or on this node alone."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from ..errors import NodeError, TakenError
from ..host import distant, file
from ..resource import Resource
from ..units import Deadline

T = TypeVar("T")
HERE = "/run/vmbatch/addresses"
"""Where the addresses are reserved that this node's own networks have given by DHCP."""
_LIMIT = 1024
_NODE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TEMPORARY = re.compile(rf"\.([0-9a-f]{{32}})\.([0-9a-f.:]{{2,45}})@({_NODE.pattern})")


class _Mark(msgspec.Struct, frozen=True):
    """What stands in a reservation: whose it is, and on which node; nodes that share the directory have different names."""

    job: str
    token: str
    node: str


class Address(Resource, frozen=True, tag="address"):
    """The file `path`, called after the address, with the mark of the start `token` of `job` on `node` in it.

    It is written under a name of its own, `.TOKEN.ADDRESS@NODE` beside it, and then gets the address as a second name by link(2):
    that is atomic and exclusive, on NFS too (open(2), O_EXCL), so no reservation is ever seen without its mark.
    """

    path: str
    token: str
    job: str
    node: str

    @property
    def address(self) -> str:
        """What is reserved."""
        return os.path.basename(self.path)

    @property
    def _temporary(self) -> str:
        return os.path.join(os.path.dirname(self.path), f".{self.token}.{self.address}@{self.node}")

    def acquire(self) -> None:
        """Reserves the address. TakenError, NodeError."""
        if not _NODE.fullmatch(self.node):
            raise NodeError(f"the node's name {self.node[:80]!r} cannot stand in a file's name", "give the node a host name",
                            code="VB602")
        _call(os.path.dirname(self.path), self._make)

    def _make(self) -> None:
        mark = msgspec.json.encode(_Mark(self.job, self.token, self.node))
        try:
            with open(os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600),
                      "wb") as made:
                made.write(mark)
                made.flush()
                os.fsync(made.fileno())
            self._link()
            os.unlink(self._temporary)
        except OSError as error:
            raise NodeError(f"the address {self.address} cannot be reserved: {self.path}: {error.strerror}",
                            "the directory of reservations must be root's on every node that shares it", code="VB602") from None

    def _link(self) -> None:
        """Gives the reservation its name; a name that is there may be our own, made by a server whose answer was lost."""
        try:
            os.link(self._temporary, self.path)
        except FileExistsError:
            if os.lstat(self._temporary).st_nlink == 2:
                return
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise TakenError(f"the address {self.address} was taken by {_holder(self.path)} meanwhile") from None

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Gives the address back if it is this start's."""
        _call(os.path.dirname(self.path), self._give_back, deadline=deadline)

    def _give_back(self) -> None:
        try:
            mark = _read(self.path)
        except OSError as error:
            raise NodeError(f"{self.path} cannot be read: {error.strerror}", code="VB602") from None
        if mark is not None and mark.token == self.token:
            _remove(self.path)
        _remove(self._temporary)

    def __str__(self) -> str:
        return f"address {self.address} in {os.path.dirname(self.path)}"


def _call(directory: str, act: Callable[[], T], kind: Any = None, deadline: Deadline | None = None) -> T:
    """As `distant.call`, which needs another process; but what is this node's own always answers."""
    return act() if directory == HERE else distant.call(directory, act, kind, deadline)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"{path} cannot be removed: {error.strerror}", code="VB602") from None


def _read(path: str) -> _Mark | None:
    """What stands in a reservation; None if there is none, or it is none of ours. OSError where that cannot be known."""
    data = file.read_shared(path, _LIMIT)
    try:
        return None if data is None else msgspec.json.decode(data, type=_Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _holder(path: str) -> str:
    with contextlib.suppress(OSError):
        mark = _read(path)
        if mark is not None:
            return f"job {mark.job} on {mark.node}"
    return "another start"


class Found(msgspec.Struct, frozen=True):
    """A file in the directory of reservations: `token`, `job` and `node` are '' where it does not say; `half`: not linked yet."""

    path: str
    address: str
    token: str
    job: str
    node: str
    half: bool


def look(directory: str) -> list[Found]:
    """Everything in the directory of reservations; nothing if there is none. NodeError if it cannot be read."""
    return _call(directory, lambda: list(_look(directory)), list[Found])


def _look(directory: str) -> Iterator[Found]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"{directory}: {error.strerror}", code="VB602") from None
    for name in names:
        path = os.path.join(directory, name)
        half = _TEMPORARY.fullmatch(name)
        if half is not None:
            yield Found(path, half[2], half[1], "", half[3], half=True)
            continue
        try:
            mark = _read(path)
        except OSError:
            mark = None
        if mark is not None:
            yield Found(path, name, mark.token, mark.job, mark.node, half=False)
        elif os.path.lexists(path):
            yield Found(path, name, "", "", "", half=False)


def taken(directory: str) -> dict[str, str]:
    """Every address that no start can have now, and who has it; whatever has the name of an address holds it. NodeError."""
    found = {}
    for each in look(directory):
        if not each.half and _is_address(each.address):
            found[each.address] = f"job {each.job}" if each.job else f"the file {each.path}"
    return found


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name)) == name
    return False


def judge(found: Found, node: str, tokens: Container[str]) -> tuple[bool, str]:
    """Whether it may be removed, and why or why not; no words for what is in use, or another node's to judge.

    `tokens` are those of all journals of this `node`, listed later than `found`: a journal lists its reservation before that is
    made, so on this node what no journal lists is nobody's, whatever boot it comes from. Of another node nothing can be known:
    its journals are on its own disk, and neither age nor silence says that its guest has gone.
    """
    if not found.token:
        return False, "it is no reservation of VmBatch's; see what it is, and remove it by hand"
    if found.node != node or found.token in tokens:
        return False, ""
    return True, "no journal of this node lists it"


def stale(seen: Iterable[Found], node: str, tokens: Container[str]) -> tuple[list[Address], list[str]]:
    """(reservations of this node that nobody owns, to be released; a line for each thing that could not be judged)."""
    gone: list[Address] = []
    said: list[str] = []
    for found in seen:
        remove, why = judge(found, node, tokens)
        if remove:
            gone.append(Address(os.path.join(os.path.dirname(found.path), found.address), found.token, found.job, found.node))
        elif why:
            said.append(f"left alone {found.path}: {why}")
    return gone, said
