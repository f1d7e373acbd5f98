"""A differencing VHD and its parents as one raw image, for hypervisors that do not read parents."""

import os
from contextlib import ExitStack

from ..format import Layout, Read, vhd
from ..resource import Piece, Work
from . import layout


class Flatten(Piece, frozen=True, tag="flatten"):
    """The disk that the chain of VHDs shows, base first, as a raw file of `size` bytes at `path`."""

    chain: tuple[str, ...]
    path: str
    size: int

    def make(self, work: Work) -> None:
        """Copies what there is; the rest are holes."""
        layout.write(self.path, Layout(self.size, ()))
        with ExitStack() as opened, open(self.path, "r+b") as target:
            images = []
            for path in self.chain:
                file = opened.enter_context(open(path, "rb"))
                read = _reader(file.fileno())
                images.append((vhd.parse(read, os.fstat(file.fileno()).st_size), read))
            for offset, data in vhd.extents(images):
                work.alive()
                os.pwrite(target.fileno(), data, offset)

    def __str__(self) -> str:
        return f"flat copy {self.path} (raw) of {self.chain[-1]} and its {len(self.chain) - 1} parents"


def _reader(fd: int) -> Read:
    return lambda offset, length: os.pread(fd, length, offset)
