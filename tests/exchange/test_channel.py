"""Messages by a virtio-serial port: a socket, behind which is a guest that may write anything."""

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch.errors import NodeError
from vmbatch.exchange.channel import Channel
from vmbatch.guest import Message

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105
NOT_OURS = r"^the guest wrote a message that is not one of the kit's$"
ANNOUNCE = f"vmbatch 1 announce {TOKEN} 10.77.0.42\n".encode()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[tuple[Channel, socket.socket]]:
    """The node's end and the guest's."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        channel = Channel(path, TOKEN)
        guest, _ = server.accept()
        with guest:
            yield channel, guest
        channel.close()


def test_nothing_so_far(port: tuple[Channel, socket.socket]) -> None:
    assert port[0].read("announce") is None


def test_messages_in_any_order_and_any_pieces(port: tuple[Channel, socket.socket]) -> None:
    channel, guest = port
    guest.sendall(ANNOUNCE[:20])
    assert channel.read("announce") is None
    guest.sendall(ANNOUNCE[20:] + f"vmbatch 1 ready {TOKEN} -\nvmbatch 1 failed {TOKEN} a\x1b[1mb\n".encode())
    assert channel.read("failed") == Message("failed", text="ab")
    assert channel.read("announce") == Message("announce", address="10.77.0.42")
    assert channel.read("ready") == Message("ready")


def test_the_first_of_a_kind_counts(port: tuple[Channel, socket.socket]) -> None:
    channel, guest = port
    guest.sendall(ANNOUNCE + ANNOUNCE.replace(b".42", b".43"))
    assert channel.read("announce") == Message("announce", address="10.77.0.42")


@pytest.mark.parametrize("line", [b"\n", b"hello\n", b"\0" * 5000, ANNOUNCE.replace(TOKEN.encode(), b"f" * 32), b"x" * 4097,
                                  ANNOUNCE.replace(b"10.77.0.42", b"127.0.0.1")])
def test_what_is_no_message(port: tuple[Channel, socket.socket], line: bytes) -> None:
    channel, guest = port
    guest.sendall(line)
    with pytest.raises(NodeError, match=r"^the guest (wrote|says)"):
        channel.read("announce")


def test_a_flood_ends_the_start_and_wakes_nobody(port: tuple[Channel, socket.socket]) -> None:
    channel, guest = port
    said = f"the guest wrote more than {16 * 4096} bytes into its port for messages"
    refused: list[OSError] = []

    def flood() -> None:
        try:
            while True:
                guest.sendall(ANNOUNCE * 1000)
        except OSError as error:
            refused.append(error)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    while True:
        try:
            assert channel.read("ready") is None
        except NodeError as error:
            assert error.what == said
            break
    thread.join(10)
    assert [type(error) for error in refused] in ([BrokenPipeError], [ConnectionResetError])
    assert select.select([channel.descriptor], [], [], 0)[0] == []
    assert channel.read("announce") == Message("announce", address="10.77.0.42"), "what it said before still counts"
    with pytest.raises(NodeError, match=said):
        channel.read("failed")


def test_what_came_before_garbage_counts(port: tuple[Channel, socket.socket]) -> None:
    """The kit's own word on what failed is worth more than what came behind it."""
    channel, guest = port
    guest.sendall(f"vmbatch 1 failed {TOKEN} no room\n".encode() + b"x" * 9000 + b"\n")
    assert channel.read("failed") == Message("failed", text="no room")
    for kind in ("announce", "ready"):
        with pytest.raises(NodeError, match=NOT_OURS):
            channel.read(kind)


@pytest.mark.parametrize("size", [4096, 4097])
def test_a_line_without_end(port: tuple[Channel, socket.socket], size: int) -> None:
    channel, guest = port
    guest.sendall(b"x" * size)
    if size <= 4096:
        assert channel.read("announce") is None
    else:
        with pytest.raises(NodeError, match=NOT_OURS):
            channel.read("announce")


def test_what_wakes(port: tuple[Channel, socket.socket]) -> None:
    channel, guest = port

    def wakes() -> bool:
        return bool(select.select([channel.descriptor], [], [], 0)[0])

    assert not wakes()
    guest.sendall(ANNOUNCE[:5])
    assert wakes()
    assert channel.read("announce") is None
    assert not wakes()
    guest.close()
    assert wakes()
    assert channel.read("announce") is None
    assert not wakes(), "an end that woke for ever would cost a processor"


def test_close_gives_all_back(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        before = descriptors()
        for ended in (False, True):
            channel = Channel(path, TOKEN)
            guest, _ = server.accept()
            with guest:
                if ended:
                    guest.sendall(b"garbage\n")
                    with pytest.raises(NodeError):
                        channel.read("announce")
                channel.close()
    assert not descriptors() - before


def test_a_guest_that_has_gone(port: tuple[Channel, socket.socket]) -> None:
    channel, guest = port
    guest.sendall(ANNOUNCE)
    guest.close()
    assert channel.read("announce") == Message("announce", address="10.77.0.42")
    assert channel.read("ready") is None


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="does not answer: No such file or directory"):
        Channel(str(tmp_path / "socket"), TOKEN)
    with pytest.raises(NodeError, match="has a path longer than 107 bytes"):
        Channel(f"{tmp_path}/{'x' * 108}", TOKEN)
