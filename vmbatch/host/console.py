"""What a guest wrote to its console: the guest's to choose, so bounded and stripped before anybody sees it."""

import codecs
import contextlib
import os
import re

from ..guest import printable
from . import acl

_TAIL_BYTES = 64 << 10
_LINE_CHARS = 200
_PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]{0,200}")
_GAVE_UP = re.compile(rb"vmbatch: gave up: ([^\r\n]{1,500})[\r\n]")


_RECORD_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10


class Recorder:
    """Writes what a guest says to a log at `path`, for hypervisors that do not; when that has 1 MiB, it begins anew."""

    def __init__(self, path: str) -> None:
        """OSError if the log cannot be made."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._written = 0

    def write(self, data: bytes) -> None:
        """More of it; trouble with the log never stops a job."""
        with contextlib.suppress(OSError):
            if self._written + len(data) > _RECORD_BYTES:
                os.ftruncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
                self._written = 0
            self._written += os.write(self._fd, data)

    def close(self) -> None:
        """The log stays."""
        os.close(self._fd)


class Follower:
    """Reads a console's pty, for a recorder; `descriptor` has something to read when it is worth looking."""

    def __init__(self, pty: str, recorder: Recorder) -> None:
        """OSError if the pty cannot be opened."""
        self._recorder = recorder
        self.descriptor = os.open(pty, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)

    def copy(self) -> bool:
        """Records what there is, a piece at a time; False if there will be nothing more."""
        try:
            data = os.read(self.descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._recorder.write(data)
        return bool(data)

    def close(self) -> None:
        """Gives the pty back."""
        os.close(self.descriptor)


def read_tail(path: str) -> bytes:
    """The last 64 KiB of a console log; nothing where there is none.

    virtlogd begins a log anew when it is full, and the one before is PATH.0 then (virtlogd.conf: max_size, max_backups).
    """
    tail = _tail(path)
    return tail if len(tail) >= _TAIL_BYTES else (_tail(f"{path}.0") + tail)[-_TAIL_BYTES:]


def _tail(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, _TAIL_BYTES, max(0, os.fstat(fd).st_size - _TAIL_BYTES))
    finally:
        os.close(fd)


def show_to(path: str, uid: int) -> None:
    """An account can read a guest's console log, too, if there is one. OSError."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            acl.let_read(fd, uid)
        finally:
            os.close(fd)


def panic(path: str) -> str | None:
    """The last words of the guest's kernel, if it says it is dead; some kernels then wait for ever."""
    match = _PANIC.search(read_tail(path))
    return None if match is None else printable(match[0], _LINE_CHARS)


def gave_up(path: str) -> str | None:
    """Why the kit in the guest gave up before it had a share to say it by (`finish` of kit/lib.sh)."""
    match = _GAVE_UP.search(read_tail(path))
    return None if match is None else printable(match[1])


def printable_lines(text: bytes) -> list[str]:
    """The lines with something to read."""
    lines = (printable(line, _LINE_CHARS).rstrip() for line in re.split(rb"[\r\n]+", text))
    return [line for line in lines if line.strip()]


def printable_tail(text: bytes, count: int) -> str:
    """The last lines on one line."""
    return "; ".join(printable_lines(text)[-count:])


_ESC, _BEL = 0x1B, 0x07


class Plain:
    """A stream of a guest's without what a terminal would obey: escape sequences, also torn ones, and control characters."""

    def __init__(self) -> None:
        self._state = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> bytes:
        """What can be shown of more of it; lines end with a newline alone."""
        kept = bytes(byte for byte in data if self._shown(byte))
        return "".join(char for char in self._decode(kept) if char.isprintable() or char in "\n\t").encode()

    def _shown(self, byte: int) -> bool:
        """Whether a byte is text. ECMA-48: ESC alone, a control sequence up to its final byte, a string up to BEL or ESC \\."""
        if byte in b"\n":
            self._state = ""  # nothing that a guest begins hides its next line
            return True
        if byte == _ESC:
            self._state = "escape"
            return False
        if self._state == "escape":
            self._state = {ord("["): "sequence", ord("]"): "string", ord("P"): "string", ord("X"): "string",
                           ord("^"): "string", ord("_"): "string"}.get(byte, "more" if 0x20 <= byte <= 0x2F else "")
            return False
        if self._state == "sequence":
            self._state = "" if 0x40 <= byte <= 0x7E else "sequence"
            return False
        if self._state == "more":
            self._state = "more" if 0x20 <= byte <= 0x2F else ""
            return False
        if self._state == "string":
            self._state = "" if byte == _BEL else "string"
            return False
        return True
