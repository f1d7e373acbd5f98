"""A file that grows: its end, and what comes after it. One that is begun anew is read from its start."""

import contextlib
import os
from collections.abc import Iterator

from ..errors import NodeError
from .watch import Watch

_PIECE = 64 << 10


class Tail:
    """Reads on in the file at `path`, which need not be there yet. NodeError if it cannot be read."""

    def __init__(self, path: str, lines: int | None = None) -> None:
        """From its beginning, or its last lines."""
        self._path = path
        self._fd = self._open()
        self._at = 0 if self._fd is None or lines is None else _begin_of_last(self._fd, lines)
        self._watch: Watch | None = None

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NodeError(f"{self._path} cannot be read: {error.strerror}", code="VB906") from None

    def more(self) -> Iterator[bytes]:
        """What is new by now."""
        if self._fd is not None:
            yield from self._rest(self._fd)
        new = self._open()
        if new is None:
            return
        if self._fd is None or not os.path.samestat(os.fstat(new), os.fstat(self._fd)) or os.fstat(new).st_size < self._at:
            self.close()
            self._fd, self._at = new, 0
            yield from self._rest(new)
        else:
            os.close(new)

    def _rest(self, fd: int) -> Iterator[bytes]:
        while piece := os.pread(fd, _PIECE, self._at):
            self._at += len(piece)
            yield piece

    def wait(self, seconds: float) -> None:
        """Until something in its directory changes, or in the file for those who cannot list that; or the time is over."""
        if self._watch is None:
            self._watch = Watch()
            try:
                self._watch.directory(os.path.dirname(self._path))
            except PermissionError:
                with contextlib.suppress(OSError):
                    self._watch.file(self._path)
            return
        self._watch.wait(seconds)

    def close(self) -> None:
        """Gives the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _begin_of_last(fd: int, lines: int) -> int:
    """Where the last lines of a file begin."""
    at = os.fstat(fd).st_size
    wanted = lines + (1 if at and os.pread(fd, 1, at - 1) == b"\n" else 0)
    while at and wanted:
        begin = max(0, at - _PIECE)
        piece = os.pread(fd, at - begin, begin)
        while wanted and (found := piece.rfind(b"\n")) >= 0:
            piece, wanted = piece[:found], wanted - 1
            if not wanted:
                return begin + found + 1
        at = begin
    return at
