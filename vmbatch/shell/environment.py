"""The job's environment as the batch system made it, whichever way it came."""

import os

PREFIX = b"job:"
"""Of the names of all variables when the starter has run before us: no loader and no library knows them so."""


def read(started: bool) -> dict[str, str]:
    """All variables; `started`: by the starter (shell/starter.c), whose own variables are none of the job's."""
    if not started:
        return dict(os.environ)
    found = {}
    for name, value in os.environb.items():
        if name.startswith(PREFIX):
            found[os.fsdecode(name[len(PREFIX):])] = os.fsdecode(value)
    return found
