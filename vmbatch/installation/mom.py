"""A pbs_mom's directory: whether it is fit for hooks of root's, and whether she is at work."""

import fcntl
import os
import stat

from ..errors import SiteError
from ..host import file


def check_directory(mom_priv: str) -> None:
    """SiteError unless it is a directory that root alone can change, under its own name."""
    try:
        status = os.lstat(mom_priv)
    except (FileNotFoundError, NotADirectoryError):
        raise SiteError(f"there is no {mom_priv}", "name the mom_priv of your pbs_mom with --mom-priv", code="VB918") from None
    if stat.S_ISLNK(status.st_mode):
        raise SiteError(f"{mom_priv} is a symbolic link", f"name it as what it is: --mom-priv {os.path.realpath(mom_priv)}",
                        code="VB918")
    if not stat.S_ISDIR(status.st_mode):
        raise SiteError(f"{mom_priv} is not a directory", "name the mom_priv of your pbs_mom with --mom-priv", code="VB918")
    file.check_trusted(mom_priv)


def runs(mom_priv: str) -> bool:
    """Whether a pbs_mom works in that directory: she keeps its `mom.lock` locked (resmom/mom_main.c, both families)."""
    try:
        fd = os.open(os.path.join(mom_priv, "mom.lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
