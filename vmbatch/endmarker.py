"""The end markers: which starts of a job are over, whoever else still works for them; docs/architecture.md has their rules."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

import msgspec

from .errors import EndedError
from .host import clock, file
from .job import slug
from .record import Start

DIRECTORY = "/run/vmbatch/ended"


class EndMarker(msgspec.Struct, frozen=True):
    """Who ended a job: every start that began no later than this process is over."""

    ended_by: clock.ProcessIdentity


def mark(job_id: str, by: clock.ProcessIdentity) -> None:
    """Ends every start of the job that began before the process `by`."""
    path = os.path.join(DIRECTORY, slug(job_id))
    parent = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        previous = _by(path)
        if not (previous and previous.boot == by.boot and previous.started >= by.started):
            file.replace(path, msgspec.json.encode(EndMarker(by)), 0o600)
    finally:
        os.close(parent)


def check_not_ended(start: Start) -> None:
    """EndedError if an epilogue, or a later start, has ended this one."""
    if is_ended(start.job, start.owner):
        raise EndedError(f"job {start.job} was ended by the batch system while its guest was being prepared")


def is_ended(job_id: str, owner: clock.ProcessIdentity) -> bool:
    """Whether an epilogue, or a later start of the job, has ended this one."""
    by = _by(os.path.join(DIRECTORY, slug(job_id)))
    return by is not None and by.boot == owner.boot and by.started >= owner.started and by.pid != owner.pid


def _by(path: str) -> clock.ProcessIdentity | None:
    try:
        with open(path, "rb") as opened:
            return msgspec.json.decode(opened.read(), type=EndMarker).ended_by
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def shell_over(start: Start, *, note: bool) -> float:
    """For how many seconds it has been known that a batch job's shell is gone; 0 if it is not, or nobody knows which it is.

    `note`: whether this is to be known from now on.
    """
    if start.script is None or start.leader is None or clock.started(start.leader.pid) == start.leader.started:
        return 0.0
    path = os.path.join(DIRECTORY, f"{slug(start.job)}.{start.token}")
    seen = _by(path)
    if seen is None and note:
        file.replace(path, msgspec.json.encode(EndMarker(clock.this_process())), 0o600)
    return 0.0 if seen is None else clock.since(seen.started)


def forget_old(seconds: float) -> None:
    """Removes end markers older than any prologue can be, and what was known of shells; the node's clock may be set meanwhile."""
    boot = clock.boot_id()
    for entry in os.scandir(DIRECTORY) if os.path.isdir(DIRECTORY) else ():
        by = _by(entry.path)
        with contextlib.suppress(FileNotFoundError):  # another sweep's
            if by is not None and by.boot == boot:
                age = clock.since(by.started)
            else:  # one that is just being written, or nobody's
                age = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)
            if age > seconds:
                os.unlink(entry.path)
