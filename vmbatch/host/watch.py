"""Waiting for several things at once: files in directories, pipes, a deadline."""

import contextlib
import os
import select

from inotify_simple import INotify, flags


class Watch:
    """Wakes its owner when a file appears in a directory or a descriptor has something to read.

    A wake-up says no more than "look again", so none can be lost or misread.
    """

    def __init__(self) -> None:
        self._inotify = INotify()
        self._poll = select.poll()
        self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._pipe[0], select.POLLIN)

    def directory(self, path: str) -> None:
        """Wakes when a file in `path` is written, renamed there or made."""
        self._inotify.add_watch(path, flags.CREATE | flags.MODIFY | flags.CLOSE_WRITE | flags.MOVED_TO)

    def file(self, path: str) -> None:
        """Wakes when a file is written."""
        self._inotify.add_watch(path, flags.MODIFY)

    def descriptor(self, fd: int) -> None:
        """Wakes when `fd`, for instance a pidfd, becomes readable."""
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Stops watching a descriptor."""
        self._poll.unregister(fd)

    def wake(self) -> None:
        """From another thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe[1], b"!")

    def wait(self, seconds: float) -> None:
        """Returns at the next wake-up, or after `seconds`."""
        self._poll.poll(max(0, int(seconds * 1000)))
        self._inotify.read(timeout=0)
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)

    def close(self) -> None:
        """Gives the descriptors back; `wake` may still be called by a late thread."""
        self._inotify.close()
