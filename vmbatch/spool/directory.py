"""A directory of one start of a job, with our mark in it."""

import contextlib
import os
from typing import ClassVar

import msgspec

from ..errors import NodeError
from ..host import distant, file
from ..resource import Resource
from ..units import Deadline

MARK = ".vmbatch"


class Directory(Resource, frozen=True, tag="directory"):
    """`path` is absolute, `token` the start's, `mode` the permissions once it is ours, for root and the group `group`.

    `distant`: a server may not answer.
    """

    path: str
    token: str
    mode: int
    group: int = file.GROUP
    distant: bool = False
    apart: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"directory {self.path}"

    def acquire(self) -> None:
        """Makes the directory, root's and closed until it carries the mark."""
        if self.distant:
            distant.call(os.path.dirname(self.path), self._make)
        else:
            self._make()

    def _make(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise NodeError(f"{self.path} cannot be made: {error.strerror}", code="VB906") from None
        file.write_new(os.path.join(self.path, MARK), self.token.encode(), 0o600)
        os.chown(self.path, file.OWNER, self.group)
        os.chmod(self.path, self.mode)

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes it with all in it, if it is marked as ours, half-marked or empty."""
        if self.distant:
            distant.call(os.path.dirname(self.path), lambda: self._remove(deadline), deadline=deadline)
        else:
            self._remove(deadline)

    def _remove(self, deadline: Deadline) -> None:
        if token_of(self.path) == self.token or self._half_marked():
            file.remove_tree(self.path, deadline, last=MARK)  # whoever dies in here leaves what is still known as ours
            return
        with contextlib.suppress(OSError):  # absent, or another's
            os.rmdir(self.path)

    def _half_marked(self) -> bool:
        """Whether the mark is only begun: by a process that died, or, in a directory named after the start, a power loss."""
        mark = token_of(self.path)
        if mark is None or mark == self.token or not self.token.startswith(mark):
            return False
        return self.path.endswith(f".{self.token}") or os.listdir(self.path) == [MARK]


def token_of(path: str) -> str | None:
    """The token of the start that owns a directory; None if it is no such directory."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        mark = file.read_hostile(directory, MARK, 32)
        return None if mark is None else mark.decode("ascii")
    except UnicodeDecodeError:
        return None
    finally:
        os.close(directory)


def ours(parent: str, *, server: bool = False) -> list[Directory]:
    """Every directory in `parent` that carries a mark; with `server`, UnreachableError."""
    if server:
        found = distant.call(parent, lambda: ours(parent), list[Directory])
        return [msgspec.structs.replace(each, distant=True) for each in found]
    try:
        names = sorted(os.listdir(parent))
    except FileNotFoundError:
        return []
    places = (os.path.join(parent, name) for name in names)
    return [Directory(path, token, 0) for path in places if (token := token_of(path))]
