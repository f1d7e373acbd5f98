"""The proof that a job may run: the record of this very start, which only the prologue can have written."""

from __future__ import annotations

import os

from ..handover import Handover, Mark, decode
from ..sshargs import HANDOVER
from . import RefusedError

_ANOTHER_USER = "the guest of job {} belongs to another user"
_ANOTHER_SHELL = "the guest was made for another start of this job, and only that start's shell may use it"
_ANOTHER_START = "the guest was made for an earlier start of this job: the prologue of this start did not end by itself"


def find(job_id: str, *, task: bool = False) -> tuple[str, Handover] | None:
    """The hand-over directory of the job and its record, proven; None if there is no record. RefusedError.

    `task`: this is no shell of the job, but a task that mom started later (PBS_TASKNUM is 1 for the shell).
    """
    name = job_id.replace("[", "-").replace("]", "")
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 200:
        return None
    place = f"{HANDOVER}/{name}"
    try:
        handover = decode(trusted(f"{place}/record"))
    except PermissionError:
        raise RefusedError(_ANOTHER_USER.format(job_id)) from None
    except OSError:
        return None
    except ValueError as error:
        raise RefusedError(f"{place}/record is {error} (admin: was VmBatch updated while the job ran?)") from None
    check(handover, job_id, task=task)
    return place, handover


def trusted(path: str) -> bytes:
    """A file of root's. RefusedError, OSError."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise RefusedError(f"{path} is not root's")
        return file.read()


def check(handover: Handover, job_id: str, *, task: bool = False) -> None:
    """The record must be this job's, this user's and this start's. RefusedError."""
    if handover.uid != os.getuid() or handover.job != job_id:
        raise RefusedError(_ANOTHER_USER.format(job_id))
    if handover.script is not None:
        script = handover.script
        try:
            status = os.stat(script.path, follow_symlinks=False)
        except OSError:
            raise RefusedError(f"its script {script.path} is not there any more") from None
        if (status.st_dev, status.st_ino, status.st_mtime_ns) != (script.device, script.inode, script.mtime_ns):
            raise RefusedError(_ANOTHER_START)
    if handover.leader is not None and not (task and handover.script is not None) and not _is_below(handover.leader):
        raise RefusedError(_ANOTHER_START if handover.script is None else _ANOTHER_SHELL)


def _is_below(leader: Mark) -> bool:
    """Whether this process is the leader, in its session, or its child: mom's process that ran the prologue becomes the shell of
    a batch job, leads the session of an interactive one (resmom/start_exec.c, TMomFinalizeChild), and is the parent of a task's
    on a sister.
    """
    if leader.pid not in (os.getpid(), os.getsid(0), os.getppid()):
        return False
    try:
        with open(f"/proc/{leader.pid}/stat", "rb", buffering=0) as file:
            return int(file.read().rpartition(b")")[2].split()[19]) == leader.started
    except (OSError, IndexError, ValueError):
        return False
