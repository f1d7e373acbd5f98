"""Writes a new file as a format lays it out."""

import os

from ..format import Layout


def write(path: str, layout: Layout, mode: int = 0o600) -> None:
    """A file that must not be there yet; what the layout leaves out is a hole."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.ftruncate(fd, layout.size)
        for offset, data in layout.parts:
            os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
