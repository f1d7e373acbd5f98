"""An ssh server that does as it is told: slow, broken, hostile, or only late."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
from paramiko import Channel, Ed25519Key, PKey, Transport
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

Script = Callable[[Channel, str], None]
Raw = Callable[[socket.socket], None]


class Server(paramiko.ServerInterface):
    """One connection: takes `key` unless `refusals` are left, and gives every command to `script`."""

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage

    def get_allowed_auths(self, username: str) -> str:
        return self.stage.methods

    def check_auth_publickey(self, username: str, key: PKey) -> int:
        self.stage.users.append(username)
        if self.stage.refusals > 0 or key.get_base64() != self.stage.key:
            self.stage.refusals -= 1
            return AUTH_FAILED
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: Channel, command: bytes) -> bool:
        if not self.stage.executes:
            return False
        self.stage.commands.append(command.decode())

        def play() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                self.stage.script(channel, command.decode())

        threading.Timer(0.02, play).start()
        return True


class Stage:
    """What the server does next, and what it has seen; connection number n is given to `raw[n]` where there is one."""

    def __init__(self, key: str, host_key: Path) -> None:
        self.key = key
        self.host_keys = [host_key]
        self.methods = "publickey"
        self.refusals = 0
        self.executes = True
        self.script: Script = succeed
        self.raw: dict[int, Raw] = {}
        self.every: Raw | None = None
        self.seen: list[float] = []
        self.users: list[str] = []
        self.commands: list[str] = []
        self.transports: list[Transport] = []
        self.port = 0

    def serve(self, client: socket.socket) -> None:
        number = len(self.seen)
        self.seen.append(time.monotonic())
        raw = self.raw.get(number, self.every)
        if raw is not None:
            with contextlib.suppress(OSError):
                raw(client)
            client.close()
            return
        transport = Transport(client)
        transport.add_server_key(Ed25519Key(filename=str(self.host_keys[min(number, len(self.host_keys) - 1)])))
        self.transports.append(transport)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            transport.start_server(server=Server(self))

    def cut(self) -> None:
        """Drops the newest connection."""
        self.transports[-1].sock.shutdown(socket.SHUT_RDWR)


def succeed(channel: Channel, _command: str) -> None:
    """Reads all input, exits with 0."""
    while channel.recv(1 << 20):
        pass
    finish(channel, 0)


def finish(channel: Channel, status: int, output: bytes = b"") -> None:
    if output:
        channel.sendall(output)
    channel.send_exit_status(status)
    channel.shutdown_write()
    channel.close()


@contextlib.contextmanager
def listening(stage: Stage) -> Iterator[None]:
    """Serves on a port of the loopback."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        stage.port = server.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=stage.serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for transport in stage.transports:
                transport.close()
