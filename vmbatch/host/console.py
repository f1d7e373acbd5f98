"""What a guest wrote to its console: the guest's to choose, so bounded and stripped before anybody sees it."""

import os
import re

from ..guest import printable

_TAIL_BYTES = 64 << 10
_LINE_CHARS = 200
_PANIC = re.compile(rb"Kernel panic - not syncing[^\r\n]{0,200}")


def read_tail(path: str) -> bytes:
    """The last 64 KiB of a console log; nothing where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, _TAIL_BYTES, max(0, os.fstat(fd).st_size - _TAIL_BYTES))
    finally:
        os.close(fd)


def panic(path: str) -> str | None:
    """The last words of the guest's kernel, if it says it is dead; some kernels then wait for ever."""
    match = _PANIC.search(read_tail(path))
    return None if match is None else printable(match[0], _LINE_CHARS)


def printable_lines(text: bytes) -> list[str]:
    """The lines with something to read."""
    lines = (printable(line, _LINE_CHARS).rstrip() for line in re.split(rb"[\r\n]+", text))
    return [line for line in lines if line.strip()]


def printable_tail(text: bytes, count: int) -> str:
    """The last lines on one line."""
    return "; ".join(printable_lines(text)[-count:])
