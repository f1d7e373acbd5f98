"""The job's script file as the batch system keeps it on the node: a new one for each start."""

import os
import stat

from ..errors import JobError, NodeError
from ..job import Script, User


def identify(path: str, user: User) -> Script | None:
    """The job's script file as it is now; None for an interactive job, which has none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}", code="VB917") from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, user.uid) or status.st_nlink != 1:
        raise JobError(f"{path} is not a regular file of {user.name} with one name", code="VB917")
    return Script(path, status.st_dev, status.st_ino, status.st_mtime_ns)


def is_gone(script: Script) -> bool:
    """Whether the batch system has taken the job's script file away: it keeps it until the epilogue has ended."""
    try:
        status = os.lstat(script.path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return (status.st_dev, status.st_ino, status.st_mtime_ns) != (script.device, script.inode, script.mtime_ns)
