"""A job's own full copy of an image."""

from ..host import process
from ..resource import Piece, Work


class Duplicate(Piece, frozen=True, tag="duplicate"):
    """A copy of the file `source` at `path`."""

    source: str
    path: str

    def make(self, work: Work) -> None:
        """Copies; shares blocks where the file system can, and holes stay holes."""
        process.run(
            ["/usr/bin/cp", "--reflink=auto", "--sparse=auto", "--no-preserve=all", "--", self.source, self.path], work.deadline)

    def __str__(self) -> str:
        return f"copy {self.path} of {self.source}"
