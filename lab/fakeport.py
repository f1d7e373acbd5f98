"""The port of a played guest that waits for a job: what the kit's pool.sh does with it."""

import contextlib
import io
import re
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

CHANNEL = "org.vmbatch.0"
_listening: dict[str, socket.socket] = {}


def path_of(xml: str) -> str | None:
    """Where a running domain has its port."""
    for channel in re.findall(r"<channel\b.*?</channel>", xml, re.DOTALL):
        found = re.search(r"<source\b[^>]*\bpath='([^']+)'", channel)
        if CHANNEL in channel and found:
            return found[1]
    return None


def taken(path: str) -> Path:
    """Where it stands for which start the guest has heard of its job."""
    return Path(f"{path}.taken")


class Port:
    """Behind the socket `path`: says that the guest waits to whoever opens it, until a job comes; then it is for messages."""

    def __init__(self, path: str, token: str, address: str, of_job: Callable[[str], None]) -> None:
        """`of_job` is called with the name of the job's user."""
        if path in _listening:
            _listening[path].shutdown(socket.SHUT_RDWR)
        Path(path).unlink(missing_ok=True)
        self._listener = _listening[path] = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._path = path
        self._token = token
        self._address = address
        self._of_job = of_job
        self._client: socket.socket | None = None
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError), self._listener:
            while self._client is None:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError), client.makefile("rb") as source:
                    self._hear(client, source)

    def _hear(self, client: socket.socket, source: BinaryIO) -> None:
        client.sendall(f"vmbatch 1 waiting {self._token} {self._address}\n".encode())
        said = re.fullmatch(rb"vmbatch 1 job ([0-9]+)\n", source.readline())
        if said is None:
            client.close()
            return
        self._client = client
        taken(self._path).write_text(self._token)
        data = source.read(int(said[1]))
        with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(data)) as context:
            member = context.extractfile("taken/parameters.sh")
            user = re.search(rb"^VMBATCH_USER='(.*)'$", member.read() if member else b"", re.MULTILINE)
            if user is not None:
                self._of_job(user[1].decode())

    def say(self, line: str) -> None:
        """To the node, as long as it listens."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.sendall(line.encode())
