"""The job's environment as the batch system made it, whichever way it came."""

import os

PREFIX = b"job:"
"""Of the names of all variables when the starter has run before us: no loader and no library knows them so."""

OPENPBS_PREFIX = "VMBATCH_JOB_"
"""Of the names that OpenPBS's hook (scripts/openpbs/vmbatch_hook.py) gives the user's variables, to the same end."""


def read(started: bool) -> dict[str, str]:
    """All variables; `started`: by the starter (shell/starter.c), whose own variables are none of the job's."""
    found = dict(os.environ)
    if started:
        found = {os.fsdecode(name[len(PREFIX):]): os.fsdecode(value)
                 for name, value in os.environb.items() if name.startswith(PREFIX)}
    hidden = {name[len(OPENPBS_PREFIX):]: value for name, value in found.items() if name.startswith(OPENPBS_PREFIX)}
    return {name: value for name, value in found.items() if not name.startswith(OPENPBS_PREFIX)} | hidden
