"""How far a download is: lines for a log, or one line that changes for somebody at a terminal."""

import time
from collections.abc import Callable
from typing import TextIO

_MIB = 1 << 20
_UNKNOWN_STEP = 256 * _MIB
_TERMINAL_SECONDS = 0.2


class _Rate:
    """Bytes a second since the first call; what was there before does not count."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begin = (0.0, -1)
        self._done = -1

    def text(self, done: int, total: int | None) -> str:
        """As people read it."""
        if self._begin[1] < 0 or done < self._done:
            self._begin = (self._clock(), done)
        self._done = done
        seconds = self._clock() - self._begin[0]
        rate = (done - self._begin[1]) / seconds if seconds > 0 else 0.0
        parts = [f"{done // _MIB} MiB"]
        if total is not None:
            parts = [f"{done * 100 // max(1, total)} %", f"{done // _MIB} MiB of {total // _MIB} MiB"]
        if rate > 0:
            parts.append(f"{rate / _MIB:.0f} MiB/s")
            if total is not None and done < total:
                parts.append(f"{(total - done) / rate:.0f} s left")
        return ", ".join(parts)


class Progress:
    """Called with (bytes done, bytes in all or None): a line for each 10 %, or each 256 MiB of a size unknown, of `name`."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic, *, name: str = "") -> None:
        self._say = say
        self._before = f"{name}: " if name else ""
        self._rate = _Rate(clock)
        self._last = 0

    def __call__(self, done: int, total: int | None) -> None:
        step = done * 10 // total if total else done // _UNKNOWN_STEP
        text = self._rate.text(done, total)
        if step > self._last:
            self._say(self._before + text)
        self._last = step


class Terminal:
    """The same on one line, at most five times a second; a newline when all is done, or at `end`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._rate = _Rate(clock)
        self._next = 0.0
        self._width = 0

    def __call__(self, done: int, total: int | None) -> None:
        text = self._rate.text(done, total)
        if done != total and self._clock() < self._next:
            return
        self._next = self._clock() + _TERMINAL_SECONDS
        self._stream.write("\r" + text.ljust(self._width))
        self._width = len(text)
        if done == total:
            self.end()
        self._stream.flush()

    def end(self) -> None:
        """Leaves the line, for whatever comes next."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
        self._width = 0
