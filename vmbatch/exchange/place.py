"""The part of the share that one guest may mount."""

import os

from ..resource import Piece, Work


class GuestPlace(Piece, frozen=True, tag="guest-place"):
    """`path` on the share, which root of the guest, `owner` there, may write."""

    path: str
    owner: int

    def make(self, work: Work) -> None:
        """Makes the directory."""
        os.mkdir(self.path, 0o700)
        os.chown(self.path, self.owner, self.owner)

    def __str__(self) -> str:
        return f"place {self.path} for uid {self.owner}"
