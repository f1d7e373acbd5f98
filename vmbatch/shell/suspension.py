"""A job that pbs_mom suspends: its processes in the guest stop, too, and go on with it.

mom sends SIGTSTP to the job's session, and SIGSTOP 50 ms later (resmom/requests.c, resume_suspend); by then we have passed on
nothing yet, and after it we cannot. So a process of ours outside the session looks on. Where we get no processor within those
50 ms, nobody does: the job in the guest goes on while its session on the node is stopped.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection

_WATCH_SECONDS = 2.0
_LOOK_SECONDS = 0.02


def begin(connection: Connection) -> int:
    """After SIGTSTP: passes that on, and a SIGSTOP if we are stopped within two seconds; the process that does it."""
    suspended = os.getpid()
    watcher = os.fork()
    if watcher:
        return watcher
    try:
        os.setsid()
        connection.signal("TSTP")
        over = time.monotonic() + _WATCH_SECONDS
        while not _is_stopped(suspended):
            if time.monotonic() > over or os.getppid() != suspended:
                os._exit(0)
            time.sleep(_LOOK_SECONDS)
        connection.signal("STOP")
    finally:
        os._exit(0)


def is_over(watcher: int) -> bool:
    """Whether that process has done its part, so that the job may go on."""
    try:
        return os.waitpid(watcher, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False
