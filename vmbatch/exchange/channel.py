"""A guest's virtio-serial port, through which its messages come, and what a guest gets that has waited for its job."""

import os
import select
from collections.abc import Callable, Iterable

from ..errors import NodeError
from ..guest import MESSAGE_BYTES, Message, parse_message
from ..host import socket, virt

_IN_ALL = 16 * MESSAGE_BYTES
"""What a guest may write; the kit writes a few messages."""
_PAUSE_SECONDS = 0.1


def open_port(uri: str, uuid: str, token: str) -> "Channel":
    """The port of a running guest. NodeError."""
    from ..template import channel_path

    path = channel_path(virt.running_xml(uri, uuid))
    if path is None:
        raise NodeError("libvirt has given the guest no socket for its messages", code="VB703")
    return Channel(path, token)


class Channel:
    """`path` is the socket of the guest's port. What a guest writes is hostile: of each kind the first message counts.

    `descriptor` has something to read when it is worth looking, and never again once the guest has ended or said too much.
    """

    def __init__(self, path: str, token: str) -> None:
        """NodeError if nobody listens there."""
        self._socket: int | None = socket.connect(path)
        self._poll = select.epoll()
        self._poll.register(self._socket, select.EPOLLIN)
        self.descriptor = self._poll.fileno()
        self._token = token
        self._left = _IN_ALL
        self._rest = b""
        self._wrong = ""
        self._messages: dict[str, Message] = {}

    def read(self, kind: str) -> Message | None:
        """The guest's message of this kind, or None so far. NodeError for a line that is not well-formed, and for a flood."""
        while self._socket is not None:
            data = self._take(self._socket)
            if not data:
                break
            try:
                self._understand(data)
            except NodeError as error:
                self._wrong = error.what
                self._leave()
        if self._wrong and kind not in self._messages:
            raise NodeError(self._wrong, code="VB709")
        return self._messages.get(kind)

    def send(self, pieces: Iterable[bytes], alive: Callable[[], None]) -> None:
        """Gives the guest all of it; `alive` is asked while the guest does not take it. NodeError for one that has left."""
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if self._socket is None:
                    raise NodeError("the guest has ended", code="VB706")
                try:
                    rest = rest[os.write(self._socket, rest):]
                except BlockingIOError:
                    alive()
                    select.select([], [self._socket], [], _PAUSE_SECONDS)
                except OSError as error:
                    raise NodeError(f"the guest's port takes nothing more: {error.strerror}", code="VB706") from None

    def _take(self, source: int) -> bytes:
        """What there is, and no more than so much at once; nothing once the guest has ended, which libvirt says."""
        try:
            data = os.read(source, MESSAGE_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._leave()
        return data

    def _understand(self, data: bytes) -> None:
        self._left -= len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = parse_message(line + b"\n", self._token)
            self._messages.setdefault(message.kind, message)
        if len(self._rest) > MESSAGE_BYTES:
            raise NodeError("the guest wrote a message that is not one of the kit's", code="VB709")
        if self._left < 0:
            raise NodeError(f"the guest wrote more than {_IN_ALL} bytes into its port for messages", code="VB709")

    def _leave(self) -> None:
        """Gives the port back: what has ended would wake its reader again and again."""
        if self._socket is not None:
            self._poll.unregister(self._socket)
            os.close(self._socket)
            self._socket = None

    def close(self) -> None:
        """Gives all back."""
        self._leave()
        self._poll.close()
