"""Turns: of all processes of a job that would connect to its guest at once, only a few do.

An ssh server drops strangers beyond a limit: sshd at random from 10 on (sshd_config(5), MaxStartups), dropbear all beyond 5.
"""

import fcntl
import os
import time

_AT_ONCE = 4
_PAUSE_SECONDS = 0.02


class Turn:
    """One of few turns, from its making until `over`, or the process's end. OSError where `directory` cannot be written."""

    def __init__(self, directory: str) -> None:
        self._fd = -1
        while self._fd < 0:
            self._fd = _free(directory)
            if self._fd < 0:
                time.sleep(_PAUSE_SECONDS)

    def over(self) -> None:
        """Lets the next one have it; may be said again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _free(directory: str) -> int:
    """The lock of a free turn, or -1."""
    for number in range(_AT_ONCE):
        fd = os.open(f"{directory}/turn.{number}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return fd
    return -1
