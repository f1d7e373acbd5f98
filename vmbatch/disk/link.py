"""An image of the node's store in use by a job: while the second name is there, the image is not evicted."""

import os

from ..resource import Piece, Work


class Link(Piece, frozen=True, tag="link"):
    """The file `source` under the name `path` as well, on the same file system."""

    source: str
    path: str

    def make(self, work: Work) -> None:
        """Gives the file its second name."""
        os.link(self.source, self.path)

    def __str__(self) -> str:
        return f"image {self.path} of the store"
