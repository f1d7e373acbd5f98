"""The port of a played guest that waits for a job: what the kit's pool.sh does with it."""

import contextlib
import io
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_PATIENCE_SECONDS, _LOOK_SECONDS = 20.0, 0.002


def begun(path: str) -> Path:
    """What is there when a guest waits behind the socket `path`."""
    return Path(f"{path}.begun")


def taken(path: str) -> Path:
    """What is there while that guest has a job."""
    return Path(f"{path}.taken")


class Line:
    """One guest's end: says to whoever opens the port that it waits, until a job comes; then that it is busy."""

    def __init__(self, path: str, token: str, address: str, alive: Callable[[], bool], of_job: Callable[[str], None]) -> None:
        """`of_job` is called with the name of the job's user."""
        self.alive = alive
        self._path = path
        self._words = f"{token} {address}"
        self._of_job = of_job
        self._client: socket.socket | None = None

    def hear(self, client: socket.socket, source: BinaryIO) -> None:
        """Of one that has opened the port."""
        self._greet(client)
        line = source.readline()
        if taken(self._path).exists() and line == b"vmbatch 1 over\n":
            taken(self._path).unlink()
            self._greet(client)
            line = source.readline()
        said = re.fullmatch(rb"vmbatch 1 job ([0-9]+)\n", line)
        if said is None:
            client.close()
            return
        self._client = client
        taken(self._path).touch()
        data = source.read(int(said[1]))
        with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(data)) as context:
            member = context.extractfile("taken/parameters.sh")
            user = re.search(rb"^VMBATCH_USER='(.*)'$", member.read() if member else b"", re.MULTILINE)
            if user is not None:
                self._of_job(user[1].decode())

    def _greet(self, client: socket.socket) -> None:
        kind = "busy" if taken(self._path).exists() else "waiting"
        client.sendall(f"vmbatch 1 {kind} {self._words}\n".encode())

    def say(self, text: str) -> None:
        """To the node, as long as it listens."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.sendall(text.encode())


class Port:
    """The socket `path`, which is there before its guest, as QEMU's is; one guest at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._line: Line | None = None
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def accept() -> None:
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def begin(self, token: str, address: str, alive: Callable[[], bool], of_job: Callable[[str], None]) -> Line:
        """Another guest waits, and no earlier one."""
        line = self._line = Line(self._path, token, address, alive, of_job)
        begun(self._path).touch()
        return line

    def _serve(self, client: socket.socket) -> None:
        """By the guest that is there: the node may be here before libvirt has said that another one has taken its place."""
        over = time.monotonic() + _PATIENCE_SECONDS
        while ((line := self._line) is None or not line.alive()) and time.monotonic() < over:
            time.sleep(_LOOK_SECONDS)
        with contextlib.suppress(OSError), client.makefile("rb") as source:
            if line is not None:
                line.hear(client, source)
