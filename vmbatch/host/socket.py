"""Unix sockets of other programs."""

import os
import socket

from ..errors import NodeError

_PATH_BYTES = 107
"""unix(7): sun_path, with its zero byte."""


def connect(path: str) -> int:
    """A connection to the stream socket at `path`, as a descriptor that never blocks. NodeError."""
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise NodeError(f"the socket {path} has a path longer than {_PATH_BYTES} bytes", code="VB709")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        try:
            made.connect(path)
        except OSError as error:
            raise NodeError(f"the socket {path} does not answer: {error.strerror}", code="VB709") from None
        made.setblocking(False)
        return made.detach()
