"""The guard of this directory holds."""

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from vmbatch.host import process

from .conftest import FORBIDDEN, ImpureError

STARTS: dict[str, Callable[[], object]] = {
    "run": lambda: subprocess.run(["/bin/true"], check=False),
    "popen": lambda: subprocess.Popen(["/bin/true"]),
    "ours": lambda: process.start(["/bin/true"]),
    "connection": lambda: socket.create_connection(("127.0.0.1", 9)),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", 9)),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_forbidden(start: Callable[[], object]) -> None:
    with pytest.raises(ImpureError):
        start()


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_in_os(name: str) -> None:
    with pytest.raises(ImpureError):
        getattr(os, name)("/bin/true", [], {})
