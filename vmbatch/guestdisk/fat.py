"""FAT in user space: mtools(1) work on the guest's file system as an account without rights. No links, owners or modes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..errors import CommandError, NodeError
from ..format import FormatError
from ..units import Deadline
from .files import READ_LIMIT, File, Item, Link, check, lent, parents
from .view import View

_TOOLS = "/usr/bin"
_FORBIDDEN = re.compile(r'[<>:"|?*\\]|[. ](?:/|$)')
"""mtools would write another name instead."""
_SIZE_LIMIT = (4 << 30) - 1
_NOT_FOUND = re.compile(r"not found|no match|does not exist|No such file", re.IGNORECASE)
_STARTERS = ("setpriv: ", "prlimit: ", "/usr/bin/prlimit: ", "/usr/bin/env: ")


class Fat:
    """The file system at `offset` of the disk, a files.Guest. `scratch` is a directory with room for a copy of each file."""

    def __init__(self, view: View, offset: int, scratch: str, deadline: Deadline) -> None:
        self._view, self._offset, self._scratch, self._deadline = view, offset, scratch, deadline

    def look(self, paths: Sequence[str]) -> None:
        """As files.Guest; there is nothing to gain."""

    def real(self, path: str) -> str:
        """As files.Guest."""
        if _FORBIDDEN.search(path):
            return ""
        try:
            self._run("mattrib", f"::{path}")
        except CommandError as error:
            if error.status < 0 or not _NOT_FOUND.search(error.output):
                raise _unusable(error) from None
            return ""
        return path

    def read(self, path: str) -> str:
        """As files.Guest."""
        try:
            if _FORBIDDEN.search(path) or self._run("mdir", "-b", f"::{path}").splitlines() != [f"::{path}"]:
                return ""
            text = self._run("mcopy", f"::{path}", "-", quiet=True)
        except CommandError:
            return ""
        return text if len(text.encode()) <= READ_LIMIT else ""

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        """As files.Guest, but for links, which FAT cannot have. FormatError."""
        check(items)
        self._deadline = deadline
        for item in items:
            if isinstance(item, Link):
                raise FormatError(f"has a FAT file system, which cannot have the symbolic link {item.path}")
            if _FORBIDDEN.search(item.path):
                raise FormatError(f"has a FAT file system, which cannot have a file {item.path!r}")
        folded = [item.path.casefold() for item in items]
        if len(set(folded)) < len(folded):
            raise FormatError("has a FAT file system, which cannot tell apart names by their capitals")
        for directory in dict.fromkeys(path for item in items for path in parents(item.path)):
            if not self.real(directory):
                self._do("mmd", f"::{directory}")
        for item in items:
            if isinstance(item, File):
                self._put(item)

    def _put(self, item: File) -> None:
        if self.real(item.path):
            self._do("mdel", f"::{item.path}")
        with lent(item, self._scratch) as fd:
            if os.fstat(fd).st_size > _SIZE_LIMIT:
                raise FormatError(f"has a FAT file system, in which {item.path} cannot have more than 4 GiB")
            self._do("mcopy", f"/dev/fd/{fd}", f"::{item.path}", fds=(fd,))

    def _do(self, tool: str, *arguments: str, fds: tuple[int, ...] = ()) -> None:
        try:
            self._run(tool, *arguments, fds=fds)
        except CommandError as error:
            if re.search(r"Disk full|No free cluster", error.output):
                raise FormatError("has a FAT file system without enough room left for the context") from None
            if re.search(r"No space left on device|Input/output error", error.output):
                raise NodeError(f"a job's disk cannot be written to: {error.what}", "is the spool's file system full?",
                                code="VB405") from None
            raise _unusable(error) from None

    def _run(self, tool: str, *arguments: str, fds: tuple[int, ...] = (), quiet: bool = False) -> str:
        """mtools ask for a whole number of tracks unless told not to (mtools.conf(5), mtools_skip_check)."""
        return self._view.run(
            ["/usr/bin/env", "MTOOLS_SKIP_CHECK=1", f"{_TOOLS}/{tool}", "-i", f"{self._view.path}@@{self._offset}", *arguments],
            self._deadline, pass_fds=fds, quiet=quiet)


def _unusable(error: CommandError) -> FormatError | CommandError:
    """What mtools say of a broken file system; an error of the node's stays one."""
    if error.output.startswith(_STARTERS):
        return error
    said = "".join(letter for letter in (error.output.strip().splitlines() or [""])[-1] if letter.isprintable())
    return FormatError(f"has a FAT file system that mtools cannot work on: {said[:200] or error.what}",
                       "check the image with fsck.vfat")
