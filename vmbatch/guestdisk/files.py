"""What is to be put into a guest's file system, and where that really is: links are followed by us, inside the guest.

The guest's tree is hostile: a link may lead up, in circles, or to an absolute path, and each of them stays in the guest.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ..errors import NodeError, SiteError
from ..format import FormatError
from ..host import process
from ..units import Deadline

READ_LIMIT = 48 << 10
"""Bytes of a file that `Guest.read` takes."""
_PATH_BYTES, _NAME_BYTES, _TARGET_BYTES = 1000, 255, 1000
_LABEL = re.compile(r"[A-Za-z0-9_.:,-]{0,200}")
_LINKS = 40
"""As the kernel (include/linux/namei.h, MAXSYMLINKS)."""
_DEPTH = 200
_IN_MEMORY = 8 << 20
_PIECE = 16 << 20


class File(msgspec.Struct, frozen=True):
    """A regular file of root's at the absolute `path`; its content is `data`, or that of the node's file `source`.

    `label` is its context for SELinux (the attribute security.selinux), or ''.
    """

    path: str
    mode: int
    data: bytes = b""
    source: str = ""
    label: str = ""


class Link(msgspec.Struct, frozen=True):
    """A symbolic link."""

    path: str
    target: str
    label: str = ""


Item = File | Link


class Found(msgspec.Struct, frozen=True):
    """What lies at a path, not followed: `kind` is absent, directory, file, link (with its `target`) or other."""

    kind: str
    target: str = ""
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    size: int = 0


ABSENT = Found("absent")
LookMany = Callable[[Sequence[str]], Mapping[str, Found]]
"""Of absolute paths, whose parents may be anything: what lies there if all of them are real directories."""


class Guest(Protocol):
    """A guest's file system, as each writer shows it. FormatError, NodeError, DeadlineError."""

    def look(self, paths: Sequence[str]) -> None:
        """These will be asked for: look at all of them at once."""

    def real(self, path: str) -> str:
        """Where a path leads to by all its links; '' if there is nothing."""

    def read(self, path: str) -> str:
        """The text of a regular file, '' if there is none of at most READ_LIMIT bytes; what is not UTF-8 becomes U+FFFD."""

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        """Puts the items where they belong, replacing files and links, and makes the directories above them."""


def check(items: Iterable[Item]) -> None:
    """SiteError for a path that is not plain, is there twice, or leads through another one."""
    seen: set[str] = set()
    above: set[str] = set()
    for item in items:
        path = item.path
        if not _plain(path):
            raise SiteError(f"the guest's disk cannot get a file {path[:300]!r}",
                            f"paths are absolute and printable, and have {_PATH_BYTES} bytes at most, each name {_NAME_BYTES}",
                            code="VB403")
        if path in seen or path in above or not seen.isdisjoint(parents(path)):
            raise SiteError(f"the guest's disk would get {path[:300]!r} twice, or both as file and as directory", code="VB403")
        if isinstance(item, Link) and not (_printable(item.target) and 0 < len(item.target.encode()) <= _TARGET_BYTES):
            raise SiteError(f"the guest's disk cannot get a link to {item.target[:300]!r}", code="VB403")
        if not _LABEL.fullmatch(item.label):
            raise ValueError(f"{item.label!r} is no label of SELinux")
        seen.add(path)
        above.update(parents(path))


def _plain(path: str) -> bool:
    return (path.startswith("/") and path != "/" and posixpath.normpath(path) == path and not path.startswith("//")
            and _printable(path) and len(path.encode()) <= _PATH_BYTES
            and all(len(name.encode()) <= _NAME_BYTES for name in path.split("/")))


def _printable(text: str) -> bool:
    """Lone surrogates are not, so what is can be encoded."""
    return text.isprintable()


def parents(path: str) -> list[str]:
    """The directories above a normal absolute path, the nearest to / first, / not among them."""
    return [path[:at] for at, letter in enumerate(path) if letter == "/" and at]


class _UnknownError(Exception):
    """A path that must be looked at first."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Tree:
    """What has been seen of a guest's tree; `look_many` is asked for as many paths at once as can be known."""

    def __init__(self, look_many: LookMany) -> None:
        self._look_many = look_many
        self._known: dict[str, Found] = {"/": Found("directory")}

    def look(self, paths: Iterable[str]) -> None:
        """Looks at paths, and at all above them."""
        wanted = dict.fromkeys(place for path in paths for place in (*parents(path), path))
        unknown = [path for path in wanted if path not in self._known]
        if unknown:
            self._known.update(self._look_many(unknown))

    def forget(self) -> None:
        """The tree has been changed."""
        self._known = {"/": Found("directory")}

    def found(self, path: str) -> Found:
        """What lies at a real path."""
        self.look([path])
        return self._known[path]

    def real(self, path: str) -> str:
        """Where a path leads to, '' if there is nothing. FormatError for links in circles."""
        return self._settled(path, follow=True)[0] or ""

    def place(self, path: str) -> tuple[str, tuple[str, ...]]:
        """(where a file with this path really lies, directories that are missing). FormatError where there is no way."""
        real, missing = self._settled(path, follow=False)
        if real is None:
            raise FormatError(f"has a link above {path} that leads to nothing")
        return real, missing

    def places(self, paths: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """Of each path, as `place`."""
        self.look(paths)
        return [self.place(path) for path in paths]

    def _settled(self, path: str, *, follow: bool) -> tuple[str | None, tuple[str, ...]]:
        while True:
            try:
                return self._walk(path, follow=follow)
            except _UnknownError as unknown:
                self.look([unknown.path])

    def _walk(self, path: str, *, follow: bool) -> tuple[str | None, tuple[str, ...]]:
        todo = [name for name in reversed(path.split("/")) if name]
        done: list[str] = []
        missing: list[str] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == ".":
                continue
            if name == "..":
                if missing:
                    return None, ()
                del done[-1:]
                continue
            here = "/".join(["", *done, name])
            if len(done) > _DEPTH or len(here.encode()) > _PATH_BYTES:
                raise FormatError(f"has links above {path} that lead too deep")
            found = ABSENT if missing else self._look_at(here)
            if found.kind == "link" and (todo or follow):
                links += 1
                if links > _LINKS:
                    raise FormatError(f"has symbolic links in circles above {path}")
                if found.target.startswith("/"):
                    done = []
                todo += [part for part in reversed(found.target.split("/")) if part]
                continue
            if found.kind == "absent" and follow:
                return None, ()
            if todo and found.kind == "absent":
                missing.append(here)
            elif todo and found.kind != "directory":
                if follow:
                    return None, ()
                raise FormatError(f"has a file at {here}, where a directory is needed")
            done.append(name)
        return "/".join(["", *done]) or "/", tuple(missing)

    def _look_at(self, path: str) -> Found:
        if path not in self._known:
            raise _UnknownError(path)
        return self._known[path]


class Plan(msgspec.Struct, frozen=True):
    """What is to be done, all paths real: `remove`, then make `directories` in their order, then put `items`."""

    remove: tuple[str, ...]
    directories: tuple[str, ...]
    items: tuple[Item, ...]


def plan(items: Sequence[Item], tree: Tree) -> Plan:
    """How the items get into the tree. SiteError, FormatError."""
    check(items)
    remove, directories, placed = [], dict[str, None](), dict[str, Item]()
    for item, (real, missing) in zip(items, tree.places([item.path for item in items]), strict=True):
        directories.update(dict.fromkeys(missing))
        if real == "/" or real in placed:
            raise FormatError(f"has links by which {item.path} is the same as another file of ours")
        kind = ABSENT.kind if missing else tree.found(real).kind
        if kind == "directory":
            raise FormatError(f"has a directory at {item.path}, where a file is to be put")
        if kind != "absent":
            remove.append(real)
        placed[real] = msgspec.structs.replace(item, path=real)
    if not directories.keys().isdisjoint(placed):
        raise FormatError("has links by which a file of ours is where a directory of ours is")
    return Plan(tuple(remove), tuple(directories), tuple(placed.values()))


@contextlib.contextmanager
def lent(file: File, scratch: str) -> Iterator[int]:
    """An open file with the content, which an account without rights may open again as /dev/fd/N. NodeError.

    A permission is asked again then, by the file's own mode (proc(5), /proc/pid/fd): what is not for everybody is copied, into
    memory or into a nameless file in the directory `scratch`.
    """
    with contextlib.ExitStack() as opened:
        if not file.source:
            yield _memory(file.data, opened)
            return
        try:
            fd = os.open(file.source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NodeError(f"{file.source} is not a regular file", code="VB503")
            if status.st_mode & stat.S_IROTH:
                yield fd
                return
            if status.st_size <= _IN_MEMORY:
                copy = _memory(b"", opened)
            else:
                copy = opened.enter_context(tempfile.TemporaryFile(dir=scratch)).fileno()
                os.fchmod(copy, 0o444)
            while os.sendfile(copy, fd, None, _PIECE):
                process.alive()
        except OSError as error:
            raise NodeError(f"{file.source} cannot be read: {error.strerror}", code="VB503") from None
        yield copy


def _memory(data: bytes, opened: contextlib.ExitStack) -> int:
    fd = os.memfd_create("vmbatch", os.MFD_CLOEXEC)
    opened.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd
