"""The part of the share that one guest may mount."""

import os

from ..host import distant
from ..resource import Piece, Work


class GuestPlace(Piece, frozen=True, tag="guest-place"):
    """`path` on the share, which root of the guest, `owner` there, may write."""

    path: str
    owner: int

    def make(self, work: Work) -> None:
        """Makes the directory."""
        distant.call(os.path.dirname(self.path), self._make)

    def _make(self) -> None:
        os.mkdir(self.path, 0o700)
        os.chown(self.path, self.owner, self.owner)

    def __str__(self) -> str:
        return f"place {self.path} for uid {self.owner}"
