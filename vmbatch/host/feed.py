"""A named pipe that is fed from a file, for a reader that must be given a path."""

import contextlib
import fcntl
import os
import select
import threading
import time

_PIPE_BYTES = 1 << 20
_OPEN_SECONDS = 0.002
_LOOK_SECONDS = 0.2


def remove(path: str) -> None:
    """Removes a pipe, if there is one, and lets a reader go that waits for somebody to feed it: none can come in between."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.unlink(path)
        finally:
            os.close(fd)


class Feed:
    """Writes `head`, then what the open `file` has from `offset` on, to whoever opens the pipe at `path`; in a thread of its own.

    The pipe is the file's in one piece: nothing of it passes through this process (splice(2)).
    """

    def __init__(self, path: str, head: bytes, file: int, offset: int) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(path, head, os.dup(file), offset), name="feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it, wherever it is."""
        self._over.set()
        self._thread.join()

    def _work(self, path: str, head: bytes, file: int, offset: int) -> None:
        try:
            pipe = self._open(path)
            if pipe is not None:
                with contextlib.suppress(OSError):
                    self._copy(pipe, head, file, offset)
                os.close(pipe)
        finally:
            os.close(file)

    def _open(self, path: str) -> int | None:
        """Once there is a reader; without one ENXIO (fifo(7))."""
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            time.sleep(_OPEN_SECONDS)
        return None

    def _copy(self, pipe: int, head: bytes, file: int, offset: int) -> None:
        with contextlib.suppress(OSError):  # beyond what pipe-user-pages-soft leaves, it is only slower
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        while head and self._wait(pipe):
            head = head[os.write(pipe, head):]
        size = os.fstat(file).st_size
        while offset < size and self._wait(pipe):
            offset += os.splice(file, pipe, min(size - offset, _PIPE_BYTES), offset_src=offset, flags=os.SPLICE_F_NONBLOCK)

    def _wait(self, pipe: int) -> bool:
        """Until the pipe takes something; False if nobody wants it any more."""
        while not self._over.is_set():
            if select.select([], [pipe], [], _LOOK_SECONDS)[1]:
                return True
        return False
