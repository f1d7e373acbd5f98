"""A file system of a guest's as a tree of files that is only read: paths, links and limits, the same for every kind.

The tree is hostile: links lead anywhere, and stay in here.
"""

from collections.abc import Iterator
from typing import Protocol

import msgspec

from ..format import FormatError

LINKS = 40
"""As the kernel (include/linux/namei.h, MAXSYMLINKS)."""
NAMES_LIMIT = 1000
"""Names on the way to a file, those of links included."""
_PATH_LIMIT = 4096


class Node(msgspec.Struct, frozen=True):
    """`kind` is directory, file, link or other; `number` is the file system's own."""

    kind: str
    size: int
    number: int


class FileSystem(Protocol):
    """What the readers in here are; FormatError where the file system is damaged, or worse."""

    uuid: str
    label: str

    def root(self) -> Node:
        """The top directory."""

    def lookup(self, directory: Node, name: str) -> Node | None:
        """What has this name."""

    def names(self, directory: Node) -> Iterator[str]:
        """Of all that is in a directory."""

    def content(self, file: Node) -> Iterator[bytes]:
        """Of a file or link, `size` bytes in pieces of at most a MiB."""


def find(system: FileSystem, path: str) -> Node | None:
    """What a path leads to by all its links, from the top; None if there is nothing. FormatError."""
    if len(path) > _PATH_LIMIT:
        return None
    todo = _split(path)
    way = [system.root()]
    links = steps = 0
    while todo:
        steps += 1
        if steps > NAMES_LIMIT:
            raise FormatError(f"has a path of more than {NAMES_LIMIT} names: {path[:200]}")
        name = todo.pop()
        if name == "..":
            way = way[:-1] or way
            continue
        if way[-1].kind != "directory":
            return None
        node = system.lookup(way[-1], name)
        if node is None:
            return None
        if node.kind != "link":
            way.append(node)
            continue
        links += 1
        if links > LINKS:
            raise FormatError(f"has more than {LINKS} symbolic links on the way to {path[:200]}")
        target = _target(system, node, path)
        if target.startswith("/"):
            del way[1:]
        todo += _split(target)
    return way[-1]


def _split(path: str) -> list[str]:
    """The names of a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _target(system: FileSystem, node: Node, path: str) -> str:
    if not 0 < node.size <= _PATH_LIMIT:
        raise FormatError(f"has a symbolic link of {node.size} bytes on the way to {path[:200]}")
    return b"".join(system.content(node)).decode("utf-8", "surrogateescape")


def read_text(system: FileSystem, path: str, limit: int) -> str | None:
    """A small file as text, or None if there is no such file; what is not UTF-8 becomes U+FFFD. FormatError."""
    node = find(system, path)
    if node is None or node.kind != "file":
        return None
    if node.size > limit:
        raise FormatError(f"has a file {path} of {node.size} bytes, more than {limit}")
    return b"".join(system.content(node)).decode("utf-8", "replace")


def listed(system: FileSystem, path: str, limit: int) -> list[str]:
    """The names in a directory, or none if there is none. FormatError if there are more than `limit`."""
    node = find(system, path)
    if node is None or node.kind != "directory":
        return []
    found: list[str] = []
    for name in system.names(node):
        if len(found) == limit:
            raise FormatError(f"has more than {limit} files in {path}")
        found.append(name)
    return found
