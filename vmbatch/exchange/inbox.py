"""The messages of a guest in its directory on the share."""

import contextlib
import os

from ..errors import NodeError
from ..guest import MESSAGE_BYTES, Message, parse_message
from ..host import file


class Inbox:
    """`directory` is written by the guest; `local` says that its server is this node, so that nothing is cached."""

    def __init__(self, directory: str, token: str, *, local: bool) -> None:
        self._token = token
        self._local = local
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise NodeError(f"{directory}: {error.strerror}") from None

    def read(self, kind: str) -> Message | None:
        """The guest's message of this kind, or None so far: it may be half-written. NodeError for one that is not well-formed."""
        if not self._local:
            self._defeat_cache()
        data = file.read_hostile(self._fd, kind, MESSAGE_BYTES)
        if not data or (not data.endswith(b"\n") and len(data) <= MESSAGE_BYTES):
            return None
        message = parse_message(data, self._token)
        if message.kind != kind:
            raise NodeError(f"the guest wrote a {message.kind} message as its {kind} message")
        return message

    def _defeat_cache(self) -> None:
        """A change of our own makes an NFS client ask the server anew (fs/nfs/dir.c, nfs_force_lookup_revalidate)."""
        with contextlib.suppress(OSError):
            os.mkdir(".look", dir_fd=self._fd)
        with contextlib.suppress(OSError):
            os.rmdir(".look", dir_fd=self._fd)

    def close(self) -> None:
        """Gives the directory back."""
        os.close(self._fd)
