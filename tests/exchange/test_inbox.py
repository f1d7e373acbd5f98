"""Messages on the share: a directory in which a guest makes what it likes."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.descriptors import descriptors
from vmbatch.errors import NodeError
from vmbatch.exchange.inbox import Inbox
from vmbatch.guest import MESSAGE_BYTES, Message

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105
READY = f"vmbatch 1 ready {TOKEN} 10.77.0.42\n".encode()
NOT_OURS = "the guest wrote a message that is not one of the kit's"


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    before = descriptors()
    made = Inbox(str(tmp_path), TOKEN, local=True)
    yield made
    made.close()
    assert descriptors() == before


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def link_to(name: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(name)


def outside(path: Path) -> None:
    """The message of another job's guest, or what only root may read."""
    target = path.with_name("elsewhere")
    target.write_bytes(READY)
    path.symlink_to(target)


@pytest.mark.parametrize("make", [
    os.mkfifo, Path.mkdir, listen, outside, link_to("ready"), link_to("/dev/zero"), link_to("/etc/shadow"),
    lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)), lambda path: os.mknod(path, 0o060666, os.makedev(7, 0)),
], ids=["fifo", "directory", "socket", "link", "link to itself", "link to a device", "link to a secret", "zeros", "block device"])
def test_what_is_no_file_is_no_message(inbox: Inbox, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "ready")
    assert inbox.read("ready") is None


def test_a_message(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "ready").write_bytes(READY)
    assert inbox.read("ready") == Message("ready", address="10.77.0.42")
    assert inbox.read("announce") is None


def test_a_huge_file(inbox: Inbox, tmp_path: Path) -> None:
    """Sparse, and without an end in sight."""
    (tmp_path / "ready").touch()
    os.truncate(tmp_path / "ready", 1 << 40)
    with pytest.raises(NodeError) as caught:
        inbox.read("ready")
    assert caught.value.what == NOT_OURS


@pytest.mark.parametrize(("written", "said"), [
    (READY * 2, NOT_OURS), (READY.replace(b"vmbatch 1", b"vmbatch 2"), NOT_OURS), (b"\n", NOT_OURS),
    (READY.replace(TOKEN.encode(), b"f" * 32), "the guest wrote a message with another start's token"),
    (READY.replace(b" ready", b" announce"), "the guest wrote a announce message as its ready message"),
    (b"x" * (MESSAGE_BYTES + 1), NOT_OURS),
])
def test_forged_messages(inbox: Inbox, tmp_path: Path, written: bytes, said: str) -> None:
    (tmp_path / "ready").write_bytes(written)
    with pytest.raises(NodeError) as caught:
        inbox.read("ready")
    assert caught.value.what == said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, len(READY)), st.binary(max_size=9)).map(
    lambda change: READY[: change[0]] + change[1] + READY[change[0] + len(change[1]):])))
def test_any_bytes(inbox: Inbox, tmp_path: Path, written: bytes) -> None:
    """A message that can be shown and used, or an error, or nothing so far; never anything else."""
    (tmp_path / "ready").write_bytes(written)
    try:
        message = inbox.read("ready")
    except NodeError as error:
        assert error.what.isprintable()
        return
    assert message is None or (message.kind == "ready" and len(message.address) <= 45)
