"""Waiting for several things at once: files in directories, pipes, a deadline."""

import contextlib
import ctypes
import os
import select
import threading

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x2, 0x8, 0x80, 0x100
"""Of inotify(7)."""
_EVENTS_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Wakes its owner when a file appears in a directory or a descriptor has something to read.

    A wake-up says no more than "look again", so none can be lost or misread.
    """

    def __init__(self) -> None:
        self._inotify = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._poll = select.poll()
        self._poll.register(self._inotify, select.POLLIN)
        self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._waking = threading.Lock()
        self._closed = False
        self._poll.register(self._pipe[0], select.POLLIN)

    def directory(self, path: str) -> None:
        """Wakes when a file in `path` is written, renamed there or made. OSError."""
        self._add(path, _CREATE | _MODIFY | _CLOSE_WRITE | _MOVED_TO)

    def file(self, path: str) -> None:
        """Wakes when a file is written. OSError."""
        self._add(path, _MODIFY)

    def _add(self, path: str, events: int) -> None:
        _checked(_libc.inotify_add_watch(self._inotify, os.fsencode(path), events), path)

    def descriptor(self, fd: int) -> None:
        """Wakes when `fd`, for instance a pidfd, becomes readable."""
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Stops watching a descriptor."""
        self._poll.unregister(fd)

    def wake(self) -> None:
        """From another thread, which may be late."""
        with self._waking, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._pipe[1], b"!")

    def wait(self, seconds: float) -> None:
        """Returns at the next wake-up, or after `seconds`."""
        self._poll.poll(max(0, int(seconds * 1000)))
        for source in (self._inotify, self._pipe[0]):
            with contextlib.suppress(BlockingIOError):
                os.read(source, _EVENTS_BYTES)

    def close(self) -> None:
        """Gives the descriptors back."""
        with self._waking:
            self._closed = True
            for descriptor in (self._inotify, *self._pipe):
                os.close(descriptor)


def _checked(result: int, path: str | None = None) -> int:
    """What a call of the C library has returned. OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
