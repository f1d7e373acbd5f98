"""Parts of the crash tests' node."""

import socket
from pathlib import Path

from lab import nest


def test_a_daemon_answers_once_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert not nest.answers_at(path)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        assert not nest.answers_at(path)
        daemon.listen()
        assert nest.answers_at(path)
    assert not nest.answers_at(path)
