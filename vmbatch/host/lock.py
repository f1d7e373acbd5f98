"""Locks that end with whoever holds them (flock(2)): tried at once, or waited for until a deadline."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from ..errors import DeadlineError
from ..units import Deadline


def take(fd: int, *, shared: bool = False) -> bool:
    """Whether the lock of an open file is had; nobody is waited for. It ends when the file is closed."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait(fd: int, deadline: Deadline, alive: Callable[[], None] = lambda: None, *, pause: float = 0.02) -> bool:
    """As `take`, alone, tried again each `pause` seconds until the deadline; meanwhile asks `alive`, which may raise."""
    while not take(fd):
        alive()
        if deadline.passed():
            return False
        time.sleep(min(pause, deadline.left()))
    return True


@contextlib.contextmanager
def held(directory: str, deadline: Deadline, pause: float = 0.02) -> Iterator[None]:
    """While nobody else has the lock of a directory. DeadlineError, OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not wait(fd, deadline, pause=pause):
            raise DeadlineError(f"{directory} is in use", code="VB907")
        yield
    finally:
        os.close(fd)


def create(path: str) -> int:
    """Opens a file that is there for its lock alone, and makes it where it is not. OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def alone(path: str) -> Iterator[bool]:
    """Whether nobody else has the lock of such a file; if so nobody gets it while the `with` lasts. OSError."""
    fd = create(path)
    try:
        yield take(fd)
    finally:
        os.close(fd)
