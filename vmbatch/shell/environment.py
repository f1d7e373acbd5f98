"""The job's environment as the batch system made it, whichever way it came."""

import os

PREFIX = b"job:"
"""Of the names of all variables when the starter has run before us: no loader and no library knows them so."""


OPENPBS_PREFIX = "VMBATCH_JOB_"
"""Of the names that OpenPBS's hook (scripts/openpbs/vmbatch_hook.py) gives the user's variables, to the same end."""


def read(started: bool) -> dict[str, str]:
    """All variables; `started`: by the starter (shell/starter.c), whose own variables are none of the job's."""
    found = {}
    for name, value in sorted(os.environb.items()):
        if not started or name.startswith(PREFIX):
            own = name[len(PREFIX):] if started else name
            found[os.fsdecode(own).removeprefix(OPENPBS_PREFIX)] = os.fsdecode(value)
    return found
