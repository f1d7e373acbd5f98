"""mom_priv/config: what the pbs_mom of Torque or OpenPBS is told there, of which the last line counts."""

import contextlib
import os
import re

from ..errors import SiteError


def prologalarm(mom_directory: str, default: int) -> int:
    """`$prologalarm`, in seconds; `default` if it is not set. SiteError."""
    try:
        return int(_last(mom_directory, r"\$prologalarm\s+(\d{1,6})\s*(#.*)?$") or default)
    except OSError as error:
        raise SiteError(f"{mom_directory}/config: {error.strerror}", code="VB107") from None


def job_starter(mom_directory: str) -> str:
    """The program of `$job_starter`; '' if it is not set, or nobody can say."""
    with contextlib.suppress(OSError):
        return _last(mom_directory, r"\$job_starter\s+(\S+)")
    return ""


def _last(mom_directory: str, setting: str) -> str:
    """What the group of this regular expression has in the last line that it fits; '' if there is none. OSError."""
    found = ""
    with (contextlib.suppress(FileNotFoundError),
          open(os.path.join(mom_directory, "config"), encoding="utf-8", errors="replace") as config):
        for line in config:
            if match := re.match(rf"\s*{setting}", line):
                found = match[1]
    return found
