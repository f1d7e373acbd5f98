"""Turns to connect to a guest."""

import os
import threading
from pathlib import Path

import pytest

from vmbatch.turn import Turn


def test_four_at_once_and_the_next_when_one_is_over(tmp_path: Path) -> None:
    turns = [Turn(str(tmp_path)) for _ in range(4)]
    got = threading.Event()

    def wait() -> None:
        Turn(str(tmp_path))
        got.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not got.wait(0.2)
    turns[2].over()
    turns[2].over()
    assert got.wait(10)


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        for _ in range(4):
            Turn(str(tmp_path))
        os._exit(0)
    os.waitpid(child, 0)
    assert len([Turn(str(tmp_path)) for _ in range(4)]) == 4


def test_where_nothing_can_be_written() -> None:
    with pytest.raises(OSError, match="No such file"):
        Turn("/nowhere")
