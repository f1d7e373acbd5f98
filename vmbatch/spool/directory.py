"""A directory of one start of a job, with our mark in it."""

import os

from ..errors import NodeError
from ..host import file
from ..resource import Resource
from ..units import Deadline

MARK = ".vmbatch"


class Directory(Resource, frozen=True, tag="directory"):
    """`path` is absolute, `token` the start's, `mode` the permissions once it is ours."""

    path: str
    token: str
    mode: int

    def acquire(self) -> None:
        """Makes the directory, root's and closed until it carries the mark."""
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise NodeError(f"{self.path} cannot be made: {error.strerror}") from None
        file.write_new(os.path.join(self.path, MARK), self.token.encode(), 0o600)
        os.chmod(self.path, self.mode)

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes it with all in it, if it is marked as ours or empty."""
        if token_of(self.path) == self.token:
            file.remove_tree(self.path)
            return
        try:
            os.rmdir(self.path)
        except OSError:
            # absent, or another's: an empty mark of ours is half-made
            if _half_marked(self.path):
                file.remove_tree(self.path)


def token_of(path: str) -> str | None:
    """The token of the start that owns a directory; None if it is no such directory."""
    try:
        with open(os.path.join(path, MARK), encoding="ascii") as mark:
            return mark.read(33)
    except (OSError, UnicodeDecodeError):
        return None


def _half_marked(path: str) -> bool:
    try:
        return os.listdir(path) == [MARK] and not os.path.islink(path)
    except OSError:
        return False


def ours(parent: str) -> list[Directory]:
    """Every directory in `parent` that carries a mark."""
    try:
        names = sorted(os.listdir(parent))
    except FileNotFoundError:
        return []
    places = (os.path.join(parent, name) for name in names)
    return [Directory(path, token, 0) for path in places if (token := token_of(path))]
