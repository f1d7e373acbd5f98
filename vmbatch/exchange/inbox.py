"""The messages of a guest in its directory on the share."""

import contextlib
import errno
import os

from ..errors import NodeError, UnreachableError
from ..guest import MESSAGE_BYTES, Message, parse_message
from ..host import distant, file

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Inbox:
    """`directory` is written by the guest; `local`: its server is this node, so that it answers, and nothing is cached."""

    def __init__(self, directory: str, token: str, *, local: bool) -> None:
        self._directory = directory
        self._token = token
        self._fd: int | None = None
        if local:
            self._fd = _open(directory)

    def read(self, kind: str) -> Message | None:
        """The guest's message of this kind, or None so far: it may be half-written. NodeError for one that is not well-formed."""
        if self._fd is not None:
            data = file.read_hostile(self._fd, kind, MESSAGE_BYTES)
        else:
            data = distant.call(self._directory, lambda: self._fetch(kind), bytes | None)
        if not data or (not data.endswith(b"\n") and len(data) <= MESSAGE_BYTES):
            return None
        message = parse_message(data, self._token)
        if message.kind != kind:
            raise NodeError(f"the guest wrote a {message.kind} message as its {kind} message", code="VB709")
        return message

    def _fetch(self, kind: str) -> bytes | None:
        """A change of our own makes an NFS client ask the server anew (fs/nfs/dir.c, nfs_force_lookup_revalidate)."""
        fd = _open(self._directory)
        with contextlib.suppress(OSError):
            os.mkdir(".look", dir_fd=fd)
        with contextlib.suppress(OSError):
            os.rmdir(".look", dir_fd=fd)
        return file.read_hostile(fd, kind, MESSAGE_BYTES)

    def close(self) -> None:
        """Gives the directory back."""
        if self._fd is not None:
            os.close(self._fd)


def _open(directory: str) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        kind = NodeError if error.errno in _GONE else UnreachableError
        raise kind(f"{directory}: {error.strerror}") from None
