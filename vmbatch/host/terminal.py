"""A process that has our streams but never our terminal: it leads a session of its own, and what is a terminal is copied.

Who has root's terminal could write into its input (ioctl_tty(2), TIOCSTI); so no process of a user's gets it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import termios
import time
import tty
from collections.abc import Callable, Iterable
from typing import Any

from ..job import User

_PIECE = 64 << 10
_PDEATHSIG = 1
_DRAIN_SECONDS = 1.0
_PERSISTENT = 3
"""So many times the same request to end is meant."""
_GRACE_SECONDS = 10.0
TIMED_OUT = 124
"""Exit status, as timeout(1) has it."""


class _Copy:
    """From one descriptor to another, a piece at a time; never holds more than one."""

    def __init__(self, source: int, sink: int, *, close: bool) -> None:
        self.source, self.sink, self.close = source, sink, close

    def step(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self.source, _PIECE)
            view = memoryview(data)
            while view:
                view = view[os.write(self.sink, view):]
        except OSError:
            data = b""
        if not data and self.close:
            with contextlib.suppress(OSError):
                os.close(self.sink)
        return bool(data)


class Apart:
    """Runs `work` in a process of `user`, or of ours, whose exit status it returns; `work` is told whether it has a terminal.

    That is one of its own where our standard input and output are terminals. From now on, until `wait` is done, the signals
    `forwarded` are for that process.
    """

    def __init__(self, work: Callable[[bool], int], user: User | None, forwarded: Iterable[int]) -> None:
        self.terminal = os.isatty(0) and os.isatty(1)
        self._inward: list[_Copy] = []
        self._outward: list[_Copy] = []
        given = [0, 1, 2]
        if self.terminal:
            self._master, slave = os.openpty()
            self._resize()
            given = [slave, slave, slave if os.isatty(2) else 2]
            self._inward.append(_Copy(0, self._master, close=False))
            self._outward.append(_Copy(self._master, 1, close=False))
        else:
            for number in (0, 1, 2):
                if os.isatty(number):
                    source, sink = os.pipe2(os.O_CLOEXEC)
                    given[number] = sink if number else source
                    (self._outward if number else self._inward).append(
                        _Copy(source, number, close=False) if number else _Copy(0, sink, close=True))
        parent = os.getpid()
        self._got: list[int] = []
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        numbers = (*forwarded, int(signal.SIGWINCH))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._before = {number: signal.signal(number, lambda number, _frame: self._got.append(number)) for number in numbers}
        self._wakeup = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self.pid = os.fork()
        if not self.pid:
            _become(work, user, given, parent, terminal=self.terminal)
        for descriptor in {each for each in given if each > 2}:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0)))

    def wait(self, seconds: float | None = None) -> int:
        """Carries the streams and passes signals on until the process ends; its exit status.

        It is asked to end after so many seconds (`TIMED_OUT`), and made to ten seconds later, as by the third same signal.
        """
        before: Any = termios.tcgetattr(0) if self.terminal else None
        try:
            if before is not None:
                self._resize()  # it may have changed meanwhile
                tty.setraw(0)
            return self._carry(seconds)
        finally:
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            for descriptor in (self._wake, self._waker):
                os.close(descriptor)

    def _carry(self, seconds: float | None) -> int:
        handle = os.pidfd_open(self.pid)
        over = None if seconds is None else time.monotonic() + seconds
        copies, seen, late = [*self._inward, *self._outward], dict[int, int](), False
        try:
            while True:
                left = None if over is None else max(0.0, over - time.monotonic())
                ready = select.select([handle, self._wake, *(copy.source for copy in copies)], [], [], left)[0]
                if self._wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                while self._got:
                    self._pass_on(self._got.pop(0), handle, seen)
                copies = [copy for copy in copies if copy.source not in ready or copy.step()]
                if handle in ready:
                    self._drain([copy for copy in copies if copy in self._outward])
                    code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                    return TIMED_OUT if late else code if code >= 0 else 128 - code
                if over is not None and time.monotonic() >= over:
                    signal.pidfd_send_signal(handle, signal.SIGKILL if late else signal.SIGTERM)
                    late, over = True, time.monotonic() + _GRACE_SECONDS
        finally:
            os.close(handle)

    def _pass_on(self, number: int, handle: int, seen: dict[int, int]) -> None:
        if number == signal.SIGWINCH:
            if self.terminal:
                self._resize()
            return
        seen[number] = seen.get(number, 0) + 1
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL if seen[number] >= _PERSISTENT else number)

    def _drain(self, copies: list[_Copy]) -> None:
        """What the process had written when it ended; another one may hold the other end open."""
        over = time.monotonic() + _DRAIN_SECONDS
        while copies and time.monotonic() < over:
            ready = select.select([copy.source for copy in copies], [], [], 0)[0]
            if not ready:
                return
            copies = [copy for copy in copies if copy.source not in ready or copy.step()]


def _become(work: Callable[[bool], int], user: User | None, given: list[int], parent: int, *, terminal: bool) -> None:
    """The process's own life; never returns."""
    status = 255
    try:
        os.setsid()
        for ending in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(ending, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if terminal:
            fcntl.ioctl(given[0], termios.TIOCSCTTY, 0)
        for number, descriptor in enumerate(given):
            if descriptor != number:
                os.dup2(descriptor, number)
        os.closerange(3, 1 << 20)
        if user is not None:
            os.setgroups([group.gid for group in user.groups])
            os.setresgid(user.group.gid, user.group.gid, user.group.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.umask(0o022)
            status = work(terminal)
    except BaseException as error:
        os.write(2, f"vmbatch: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)
