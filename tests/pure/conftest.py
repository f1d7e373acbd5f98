"""The guard against processes and connections, and golden files."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbatch.batch import failures

GOLDEN = Path(__file__).parent / "golden"
FORBIDDEN = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve", "execvp", "execvpe", "system", "popen")


class ImpureError(AssertionError):
    """A pure test went outside."""


def _forbid(*_arguments: object, **_named: object) -> None:
    raise ImpureError("a pure test starts a process or connects")


@pytest.fixture(autouse=True)
def pure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(failures, "PATH", str(tmp_path / "count/failures"))
    for name in FORBIDDEN:
        monkeypatch.setattr(os, name, _forbid)
    monkeypatch.setattr(subprocess.Popen, "__init__", _forbid)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _forbid)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the golden file of this name, or writes it with --regenerate."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regenerate"):
            path.write_text(text)
        assert path.exists(), f"{path} is missing: look at it after pytest --regenerate"
        assert text == path.read_text(), f"{path} differs; if it should, pytest --regenerate"

    return compare
