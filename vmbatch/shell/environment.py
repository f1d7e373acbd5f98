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
    return {name.removeprefix(OPENPBS_PREFIX): found[name] for name in sorted(found)}
