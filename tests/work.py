"""What pieces are made with."""

from vmbatch.resource import Work
from vmbatch.units import Deadline


def work() -> Work:
    """A minute from now, nobody to ask, nobody to tell."""
    return Work(Deadline(60), lambda: None, lambda _line: None)
