"""A copy-on-write overlay on an image that many jobs share."""

from ..host import process
from ..resource import Piece
from ..units import Deadline


class Overlay(Piece, frozen=True, tag="overlay"):
    """A qcow2 file at `path` over `backing`, which has `backing_format` and `size` bytes."""

    path: str
    backing: str
    backing_format: str
    size: int

    def make(self, deadline: Deadline) -> None:
        """Makes the overlay; with the size given, qemu-img does not open the image below."""
        process.run(
            ["/usr/bin/qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", self.backing_format, "-b", self.backing,
             self.path, str(self.size)], deadline)

    def __str__(self) -> str:
        return f"overlay {self.path} (qcow2) on {self.backing} ({self.backing_format})"
