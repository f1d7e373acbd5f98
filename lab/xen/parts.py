"""What the outer machine is booted from: three disks, each built anew only when what it is made of has changed."""

from pathlib import Path
from typing import NamedTuple

from ..cache import built
from . import dom0, guest, software


class Parts(NamedTuple):
    """Directories of the lab's cache: dom0 itself, its guests' images, this project as installed in it."""

    dom0: Path
    guests: Path
    software: Path


def directories() -> Parts:
    """All parts, built first if need be."""
    return Parts(
        built("dom0", dom0.INPUTS, dom0.build),
        built("xenguests", guest.INPUTS, guest.build),
        built("xensoftware", software.INPUTS, software.build),
    )
