"""The process that leads the job's session on the node: what proves a job's shell where there is no script file."""

import os

from ..host import clock
from ..job import Leader


def parent() -> Leader | None:
    """The process that started this hook; None if it is no more."""
    pid = os.getppid()
    started = clock.started(pid)
    return None if started is None else Leader(pid, started)
