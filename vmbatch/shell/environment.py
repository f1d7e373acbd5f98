"""The job's environment as the batch system made it, whichever way it came."""

import os

PREFIX = b"job:"
"""Of the names of all variables when the starter has run before us: no loader and no library knows them so."""

OPENPBS_PREFIX = "VMBATCH_JOB_"
"""Of the names that OpenPBS's hook (scripts/openpbs/vmbatch_hook.py) gives the user's variables, to the same end."""


def read(started: bool) -> dict[str, str]:
    """All variables; `started`: by the starter (shell/starter.c), whose own variables are none of the job's."""
    if not started:
        return dict(os.environ)
    found = {}
    for name, value in os.environb.items():
        if name.startswith(PREFIX):
            found[os.fsdecode(name[len(PREFIX):])] = os.fsdecode(value)
    return found


def of_guest(environ: dict[str, str]) -> dict[str, str]:
    """The same for a job in its guest: the user's variables have their own names again."""
    hidden = {name: value for name, value in environ.items() if name.startswith(OPENPBS_PREFIX)}
    kept = {name: value for name, value in environ.items() if name not in hidden}
    return kept | {name.removeprefix(OPENPBS_PREFIX): value for name, value in hidden.items()}
