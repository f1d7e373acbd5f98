"""An NFS server that is not there, is none, or says no; the lab's real one answers in tests/guest/test_doctor.py."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vmbatch.errors import NodeError
from vmbatch.host import nfs
from vmbatch.units import Deadline

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(serve: Serve) -> Iterator[None]:
    """One connection on a port that takes the place of 2049."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before, nfs.PORT = nfs.PORT, listener.getsockname()[1]

        def work() -> None:
            with contextlib.suppress(OSError):
                peer = listener.accept()[0]
                with peer:
                    serve(peer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            nfs.PORT = before
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def reply(peer: socket.socket, body: bytes) -> None:
    """To one call, with its number, accepted."""
    length = struct.unpack(">I", peer.recv(4))[0] & 0x7FFFFFFF
    call = b""
    while len(call) < length:
        call += peer.recv(length - len(call))
    answer = call[:4] + struct.pack(">IIIII", 1, 0, 0, 0, 0) + body
    peer.sendall(struct.pack(">I", 0x80000000 | len(answer)) + answer)


def status(number: int) -> bytes:
    """Of a COMPOUND that failed at its first operation."""
    return struct.pack(">III", number, 0, 0)


@pytest.mark.parametrize(("number", "said"), [
    (1, "does not let this node in"), (2, "has nothing there"), (13, "does not let this node in"), (10021, "knows no NFS 4.1"),
    (10036, "answers with error 10036"),
])
def test_a_server_that_says_no(number: int, said: str) -> None:
    with server(lambda peer: reply(peer, status(number))), pytest.raises(nfs.NotShownError, match=said) as caught:
        nfs.check("127.0.0.1", "/share", Deadline(30))
    assert caught.value.status == number
    assert "the NFS server 127.0.0.1, asked for /share" in caught.value.what


@pytest.mark.parametrize("body", [b"", b"\0", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_server(body: bytes) -> None:
    with server(lambda peer: peer.sendall(body)), pytest.raises(NodeError, match=r"does not answer|does not take calls"):
        nfs.check("127.0.0.1", "/share", Deadline(2))


def test_an_answer_that_is_too_short() -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(1024)
        peer.sendall(struct.pack(">I", 0x80000004) + b"1234")

    with server(serve), pytest.raises(NodeError, match="does not answer"):
        nfs.ping("127.0.0.1", 3, Deadline(2))


def test_a_compound_whose_answer_ends_early() -> None:
    with server(lambda peer: reply(peer, struct.pack(">II", 0, 0))), pytest.raises(NodeError, match=r"what is not NFS 4.1"):
        nfs.check("127.0.0.1", "/share", Deadline(2))


def test_a_server_that_says_nothing() -> None:
    begin = time.monotonic()
    with server(lambda peer: time.sleep(2)), pytest.raises(NodeError, match="does not answer"):
        nfs.ping("127.0.0.1", 4, Deadline(0.5))
    assert time.monotonic() - begin < 15


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    before, nfs.PORT = nfs.PORT, port
    try:
        with pytest.raises(NodeError, match=r"the NFS server 127.0.0.1 does not answer: Connection refused"):
            nfs.ping("127.0.0.1", 4, Deadline(30))
    finally:
        nfs.PORT = before


def test_a_server_that_answers() -> None:
    with server(lambda peer: reply(peer, b"")):
        nfs.ping("127.0.0.1", 3, Deadline(30))


def test_an_endless_answer_is_not_read() -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(1024)
        peer.sendall(struct.pack(">I", 0xFFFFFFFF))
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(bytes(65536))

    begin = time.monotonic()
    with server(serve), pytest.raises(NodeError, match="does not take calls"):
        nfs.ping("127.0.0.1", 3, Deadline(60))
    assert time.monotonic() - begin < 15
