"""Disk image formats as bytes: headers written and strictly read. Nothing here opens a file, and nothing is probed."""

from collections.abc import Callable

import msgspec

Read = Callable[[int, int], bytes]
"""`read(offset, length)` of an image, as os.pread: fewer bytes at the end of the file."""


class FormatError(ValueError):
    """An image that is not what it must be; the text continues "the image NAME ...", such as "has a backing file"."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class Layout(msgspec.Struct, frozen=True):
    """A file to write: `size` bytes, zero but for `parts`, each (offset, bytes)."""

    size: int
    parts: tuple[tuple[int, bytes], ...]
