"""Files of JSON lines that only grow: each line is written whole, and what logrotate(8) has put aside is read, too."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator

from ..errors import NodeError
from . import file

_LINE_LIMIT = 64 << 10


def append(directory: str, name: str, record: bytes, *, durable: bool) -> None:
    """Adds a line; makes the directory if there is none. `durable`: no power cut takes it away again. OSError, NodeError."""
    path = os.path.join(directory, name)
    file.make_state_directory(directory, 0o750)
    fresh = not os.path.exists(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        _append(fd, record)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    if fresh and durable:
        file.sync_directory(directory)


def _append(fd: int, record: bytes) -> None:
    """One write, so that lines of several hooks do not mix; what a full disk or a power cut left of a line gets its end."""
    size = os.fstat(fd).st_size
    line = (b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b"") + record + b"\n"
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, "a line could not be written whole: is the disk full?")


def files(directory: str, name: str) -> list[str]:
    """The file and what it was before, the oldest first."""
    pattern = re.compile(rf"{re.escape(name)}([.-][0-9.-]+)?(\.gz|\.xz)?")
    try:
        names = [found for found in os.listdir(directory) if pattern.fullmatch(found)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NodeError(f"{directory} cannot be read: {error.strerror}", code="VB906") from None
    paths = [os.path.join(directory, found) for found in names]
    return sorted(paths, key=lambda path: (os.path.basename(path) == name, os.stat(path).st_mtime))


def lines(path: str) -> Iterable[bytes]:
    """Of a file that may be compressed; NodeError."""
    import gzip
    import lzma

    end = os.path.splitext(path)[1]
    try:
        with gzip.open(path) if end == ".gz" else lzma.open(path) if end == ".xz" else open(path, "rb") as opened:
            while line := opened.readline(_LINE_LIMIT):
                yield line
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise NodeError(f"{path} cannot be read: {error}", code="VB906") from None


def all_lines(directory: str, name: str) -> Iterator[bytes]:
    """Of the file and what it was before. NodeError."""
    for path in files(directory, name):
        yield from lines(path)
