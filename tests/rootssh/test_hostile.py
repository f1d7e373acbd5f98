"""Servers that are late, broken or hostile: what is tried again, what is not, and that nothing lasts longer than the deadline."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paramiko import Channel

from tests.descriptors import descriptors
from vmbatch.errors import DeadlineError, EndedError, NodeError, SiteError
from vmbatch.host import rootssh
from vmbatch.host.rootssh import Connection, DroppedError, RootAccess

from . import server
from .conftest import work
from .machine import free_port, make_key, public
from .server import Stage, finish, listening

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(place: Path) -> Iterator[Stage]:
    key = make_key(place / "root_key")
    made = Stage(public(key).split()[1], make_key(place / "host_key"))
    with listening(made):
        yield made


def access(place: Path, stage: Stage, *, first_use: bool = False) -> RootAccess:
    pinned = () if first_use else (public(place / "host_key"),)
    return RootAccess(key=str(place / "root_key"), host_keys=pinned, first_use=first_use, port=stage.port)


def test_a_command_runs(place: Path, stage: Stage) -> None:
    said: list[str] = []

    def script(channel: Channel, command: str) -> None:
        got = b""
        while data := channel.recv(1 << 20):
            got += data
        channel.send_stderr(b"to stderr\n")
        finish(channel, 3, b"%d bytes for %s\n\n  \n" % (len(got), command.encode()))

    stage.script = script
    with Connection("127.0.0.1", access(place, stage), work(said=said)) as connection:
        outcome = connection.run("true", [b"x" * 100000, b"", b"y" * 3000000])
    assert (outcome.status, outcome.lines) == (3, ("to stderr", "3100000 bytes for true"))
    assert connection.host_key == public(place / "host_key")
    assert (stage.users, stage.commands, said) == (["root"], ["true"], [])


def test_refused_then_up(place: Path) -> None:
    """Nobody listens at first; the pauses are not shorter than a quarter of a second."""
    make_key(place / "root_key")
    make_key(place / "host_key")
    port, said = free_port(), list[str]()
    begin = time.monotonic()
    with (
        pytest.raises(DeadlineError) as caught,
        Connection(
            "127.0.0.1",
            RootAccess(key=str(place / "root_key"), first_use=True, port=port),
            work(1.5, said=said),
        ),
    ):
        pass
    assert caught.value.what == "root's ssh to the guest at 127.0.0.1 was not done in time: connection refused"
    assert 1.4 < time.monotonic() - begin < 15
    assert said == ["ssh to 127.0.0.1: connection refused; trying again"]


def test_no_route(place: Path) -> None:
    key = make_key(place / "root_key")
    with (
        pytest.raises(DeadlineError) as caught,
        Connection(
            "2001:db8::77",
            RootAccess(key=str(key), first_use=True),
            work(0.5),
        ),
    ):
        pass
    assert caught.value.what == "root's ssh to the guest at 2001:db8::77 was not done in time: network is unreachable"


@pytest.mark.parametrize("address", ["guest.example.org", "127.0.0.1 -oProxyCommand=x", "", "127.0.0.1/24"])
def test_only_numbers_are_addresses(place: Path, address: str) -> None:
    key = make_key(place / "root_key")
    with pytest.raises(NodeError) as caught, Connection(address, RootAccess(key=str(key), first_use=True), work(5)):
        pass
    assert caught.value.what == f"{address!r} is not the address of a guest"


def say(text: bytes) -> server.Raw:
    return lambda client: client.sendall(text)


def silent(client: socket.socket) -> None:
    time.sleep(30)


def version_then_nothing(client: socket.socket) -> None:
    client.sendall(b"SSH-2.0-slow\r\n")
    client.recv(100)


@pytest.mark.parametrize(
    "raw, cause",
    [
        (lambda _client: None, "sshd ends the connection before its first word"),
        (say(b"Exceeded MaxStartups\r\n"), "sshd ends the connection before its first word"),
        (say(b"SSH-2.0-x\r\n"), "the connection ended in its handshake"),
        (version_then_nothing, "the connection ended in its handshake"),
    ],
    ids=["closed", "full", "version", "dropped"],
)
def test_broken_handshakes_are_tried_again(place: Path, stage: Stage, raw: server.Raw, cause: str) -> None:
    said: list[str] = []
    stage.raw = {0: raw, 1: raw}
    with Connection("127.0.0.1", access(place, stage), work(20, said=said)) as connection:
        assert connection.run("true").status == 0
    assert len(said) == 1 and said[0].startswith(f"ssh to 127.0.0.1: {cause}")
    assert len(stage.seen) == 3
    assert all(later - sooner >= 0.25 for sooner, later in zip(stage.seen, stage.seen[1:], strict=False))


def test_a_late_banner_is_tried_again(place: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootssh, "_BANNER_SECONDS", 0.5)
    said: list[str] = []
    stage.raw = {0: silent}
    with Connection("127.0.0.1", access(place, stage), work(20, said=said)):
        pass
    assert said == ["ssh to 127.0.0.1: sshd says nothing; trying again"]


def test_a_silent_server_ends_at_the_deadline(place: Path, stage: Stage) -> None:
    stage.every = silent
    begin = time.monotonic()
    with pytest.raises(DeadlineError) as caught, Connection("127.0.0.1", access(place, stage), work(1)):
        pass
    assert time.monotonic() - begin < 15
    assert caught.value.what == "root's ssh to the guest at 127.0.0.1 was not done in time: nothing has answered yet"


@pytest.mark.parametrize(
    "text, what, hint",
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n" * 200,
            " is not an sshd; it says 'HTTP/1.1 400 Bad Request'",
            "see <vbrootssh port='...'>",
        ),
        (b"\x1b[31mred\x07\r\n" * 200, " is not an sshd; it says 'red'", "see <vbrootssh port='...'>"),
        (b"SSH-1.5-old\r\n", " speaks an ssh older than version 2", "use CDROM or DISK for such a guest"),
    ],
    ids=["http", "escapes", "ssh1"],
)
def test_what_is_no_sshd_is_not_tried_again(place: Path, stage: Stage, text: bytes, what: str, hint: str) -> None:
    def raw(client: socket.socket) -> None:
        client.sendall(text)
        time.sleep(5)

    stage.every = raw
    with pytest.raises(SiteError) as caught, Connection("127.0.0.1", access(place, stage), work(20)):
        pass
    assert (caught.value.what, caught.value.hint) == (f"what answers at 127.0.0.1 port {stage.port}{what}", hint)
    assert len(stage.seen) == 1


@pytest.mark.error("VB506")
def test_a_flood_instead_of_a_banner(place: Path, stage: Stage) -> None:
    """A line without end: paramiko would take it all."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def raw(client: socket.socket) -> None:
        while True:
            client.sendall(b"x" * (1 << 20))

    stage.every = raw
    begin = time.monotonic()
    with pytest.raises(NodeError) as caught, Connection("127.0.0.1", access(place, stage), work(20)):
        pass
    assert caught.value.what == f"what answers at 127.0.0.1 port {stage.port} sends without end, and is not an sshd"
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_wrong_host_key(place: Path, stage: Stage) -> None:
    stage.host_keys = [make_key(place / "another")]
    with pytest.raises(SiteError) as caught, Connection("127.0.0.1", access(place, stage), work(20)):
        pass
    listed = subprocess.run(["ssh-keygen", "-lf", str(place / "another")], capture_output=True, text=True, check=True).stdout
    shown = listed.split()[1]
    assert caught.value.what == f"the guest at 127.0.0.1 shows another host key than the pinned one: ssh-ed25519 {shown}"
    assert (len(stage.seen), stage.users) == (1, [])


def test_a_pinned_type_that_the_guest_does_not_have(place: Path, stage: Stage) -> None:
    wanted = RootAccess(key=str(place / "root_key"), host_keys=(public(make_key(place / "rsa", "rsa")),), port=stage.port)
    with pytest.raises(SiteError) as caught, Connection("127.0.0.1", wanted, work(20)):
        pass
    assert caught.value.what == "the guest at 127.0.0.1 has no host key of the pinned type (ssh-rsa)"
    assert stage.users == []


def test_first_use_takes_what_it_sees(place: Path, stage: Stage) -> None:
    with Connection("127.0.0.1", access(place, stage, first_use=True), work(20)) as connection:
        assert connection.host_key == public(place / "host_key")


def test_a_key_that_comes_late(place: Path, stage: Stage) -> None:
    said: list[str] = []
    stage.refusals = 2
    with Connection("127.0.0.1", access(place, stage), work(20, said=said)):
        pass
    assert len(stage.seen) == 3
    assert stage.seen[1] - stage.seen[0] >= 1 and stage.seen[2] - stage.seen[1] >= 2
    assert len(said) == 1
    assert said[0].startswith("ssh to 127.0.0.1: its sshd refuses root's key ssh-ed25519 SHA256:")


def test_a_key_that_never_comes(place: Path, stage: Stage) -> None:
    stage.refusals = 100
    with pytest.raises(SiteError) as caught, Connection("127.0.0.1", access(place, stage), work(5)):
        pass
    assert caught.value.what.startswith(
        "the guest at 127.0.0.1 does not let root in: its sshd refuses root's key ssh-ed25519 SHA256:"
    )
    assert caught.value.hint == (f"its image must have the public half of {place}/root_key for root, and an sshd that takes it")


def test_passwords_only(place: Path, stage: Stage) -> None:
    stage.methods = "password,keyboard-\x1b[2Jinteractive"
    stage.key = ""
    with pytest.raises(SiteError) as caught, Connection("127.0.0.1", access(place, stage), work(4)):
        pass
    assert caught.value.what == (
        "the guest at 127.0.0.1 does not let root in: its sshd takes no key of root's, only password, keyboard-interactive"
    )


def test_a_dropped_command(place: Path, stage: Stage) -> None:
    def script(channel: Channel, _command: str) -> None:
        channel.recv(1000)
        stage.cut()

    stage.script = script
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(DroppedError) as caught:
        connection.run("true", (b"x" * 100000 for _ in range(100)))
    assert caught.value.what == "the ssh connection to the guest at 127.0.0.1 was dropped"


def test_dropped_while_output_comes(place: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is found gone when the window is to be opened anew."""
    real = Channel.recv

    def recv(channel: Channel, size: int) -> bytes:
        if threading.current_thread().name == "root's ssh":
            raise EOFError
        return real(channel, size)

    def script(channel: Channel, _command: str) -> None:
        channel.sendall(b"x")
        stage.cut()

    monkeypatch.setattr(Channel, "recv", recv)
    stage.script = script
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(DroppedError):
        connection.run("true")


def test_a_killed_command(place: Path, stage: Stage) -> None:
    """A channel that is closed without a status, on a connection that lives."""
    stage.script = lambda channel, _command: channel.close()
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection:
        assert connection.run("true").status == -1


def test_a_command_that_ends_before_it_has_read_all(place: Path, stage: Stage) -> None:
    stage.script = lambda channel, _command: finish(channel, 2, b"tar: disk full\n")
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection:
        outcome = connection.run("true", (b"x" * 100000 for _ in range(1000)))
    assert (outcome.status, outcome.lines) == (2, ("tar: disk full",))


def test_a_command_that_never_ends(place: Path, stage: Stage) -> None:
    stage.script = lambda channel, _command: None
    begin = time.monotonic()
    with pytest.raises(DeadlineError) as caught, Connection("127.0.0.1", access(place, stage), work(5)) as connection:
        connection.run("true")
    assert caught.value.what.endswith("was not done in time: a command in the guest has not ended")
    assert 4.9 < time.monotonic() - begin < 15


def test_a_server_that_does_not_read(place: Path, stage: Stage) -> None:
    """The window is used up, and never opened again."""
    stage.script = lambda channel, _command: None
    begin = time.monotonic()
    with pytest.raises(DeadlineError), Connection("127.0.0.1", access(place, stage), work(5)) as connection:
        connection.run("true", (b"x" * 100000 for _ in range(1000)))
    assert time.monotonic() - begin < 15


def test_what_runs_on_in_the_background(place: Path, stage: Stage) -> None:
    """A status has come, but something holds the output open."""

    def script(channel: Channel, _command: str) -> None:
        channel.sendall(b"started\n")
        channel.send_exit_status(0)

    stage.script = script
    begin = time.monotonic()
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection:
        outcome = connection.run("true")
    assert (outcome.status, outcome.lines) == (0, ("started",))
    assert time.monotonic() - begin < 15


def test_output_without_end(place: Path, stage: Stage) -> None:
    def script(channel: Channel, _command: str) -> None:
        while True:
            channel.sendall(b"\x1b[1mnoise\n" * 10000)

    stage.script = script
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(NodeError) as caught:
        connection.run("true")
    assert caught.value.what == "the guest at 127.0.0.1 sends without end over ssh"
    assert not isinstance(caught.value, DroppedError)


def test_output_that_heeds_no_window(place: Path, stage: Stage) -> None:
    """paramiko keeps whatever a server sends."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def script(channel: Channel, _command: str) -> None:
        while True:
            channel.out_window_size = 1 << 30
            channel.sendall(b"x" * (1 << 20))

    stage.script = script
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(NodeError) as caught:
        connection.run("true")
    assert caught.value.what == "the guest at 127.0.0.1 sends without end over ssh"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_the_end_of_the_output_is_kept_and_made_plain(place: Path, stage: Stage) -> None:
    noise = b"line of noise\n" * 3000
    stage.script = lambda channel, _command: finish(channel, 1, noise + b"\x1b]0;title\x07\x1b[31mthe \x00reason\xff\x1b[0m\r\n")
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection:
        outcome = connection.run("true")
    assert outcome.lines[-1] == "the reason\N{REPLACEMENT CHARACTER}"
    assert sum(len(line) for line in outcome.lines) < 16384


def test_no_commands(place: Path, stage: Stage) -> None:
    stage.executes = False
    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(NodeError) as caught:
        connection.run("true")
    assert (caught.value.what, caught.value.hint) == (
        "the guest at 127.0.0.1 lets root in, but runs no command for it",
        "see ForceCommand, and root's shell, in the image",
    )


def test_what_the_input_raises_comes_through(place: Path, stage: Stage) -> None:
    def feed() -> Iterator[bytes]:
        yield b"x"
        raise OSError(5, "the node's own disk")

    with Connection("127.0.0.1", access(place, stage), work(20)) as connection, pytest.raises(OSError, match="the node's own"):
        connection.run("true", feed())


@pytest.mark.parametrize("when", ["connecting", "waiting", "running"])
def test_a_job_that_is_over(place: Path, stage: Stage, when: str) -> None:
    """It is noticed within a fraction of a second, whatever is being waited for; no thread or descriptor is left."""
    over = time.monotonic() + 0.6

    def alive() -> None:
        if time.monotonic() > over:
            raise EndedError("the job is over")

    if when == "connecting":
        stage.every = silent
    elif when == "waiting":
        stage.refusals = 100
    stage.script = lambda channel, _command: None
    before = descriptors()
    with pytest.raises(EndedError), Connection("127.0.0.1", access(place, stage), work(20, alive)) as connection:
        connection.run("true")
    assert time.monotonic() - over < 15
    for transport in stage.transports:
        transport.close()
        transport.join(2)
    assert len(descriptors() - before) <= 1


def test_nothing_on_stderr(place: Path, stage: Stage) -> None:
    """The job's user reads it: paramiko's own words about a broken connection have no place there."""
    broken = say(b"SSH-2.0-x\r\n" + b"\0\0\0\7" + bytes(100))
    stage.raw = {0: broken, 1: broken}
    code = (
        "import sys; from tests.rootssh.conftest import work; from vmbatch.host.rootssh import *\n"
        "root = RootAccess(key=sys.argv[1], first_use=True, port=int(sys.argv[2]))\n"
        "with Connection('127.0.0.1', root, work(40)): print('in')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place / "root_key"), str(stage.port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("in\n", "")
    assert len(stage.seen) == 3
