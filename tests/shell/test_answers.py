"""What a guest answers to short commands is bounded: by a program in ssh's place."""

import subprocess
import sys

import pytest

from vmbatch.shell import connection


def answer(program: str) -> tuple[int, bytes]:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        return connection._answer(running)


def test_a_short_answer() -> None:
    assert answer("print(7); raise SystemExit(3)") == (3, b"7\n")


@pytest.mark.parametrize("program", ["import os\nwhile True: os.write(1, b'9' * 65536)", "print('9' * 5000)"])
def test_a_flood(program: str) -> None:
    assert answer(program) == (connection.FAILURE, b"")


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "import os, time; os.close(1); time.sleep(60)"])
def test_no_answer(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(connection, "_COMMAND_SECONDS", 0.3)
    assert answer(program) == (connection.FAILURE, b"")
