"""Tables as people see them: aligned, within 80 columns, plain where nobody looks."""

import os
import shutil
import sys

import click
import pytest

from vmbatch.cli import table

HEAD = ("JOB", "USER", "MEMORY", "GUEST")
ROWS = [("42.server", "alice", "512M", "vmbatch-42.server-01234567"), ("287778176.server", "bob", "1.5G", "-")]


def test_aligned() -> None:
    assert table.layout(HEAD, ROWS, right=("MEMORY",)) == [
        "\x1b[1mJOB\x1b[0m               \x1b[1mUSER\x1b[0m   \x1b[1mMEMORY\x1b[0m  \x1b[1mGUEST\x1b[0m",
        "42.server         alice    512M  vmbatch-42.server-01234567",
        "287778176.server  bob      1.5G  -",
    ]


@pytest.mark.parametrize(("most", "lines"), [
    (60, ["42.server         alice    512M  vmbatch-42.server-01234567", "287778176.server  bob      1.5G  -"]),
    (40, ["42.server         alice    512M", "287778176.server  bob      1.5G"]),
    (25, ["42.server   alice", "287778176…  bob"]),
    (5, ["42.serv…  alice", "2877781…  bob"]),
])
def test_a_narrow_terminal(most: int, lines: list[str]) -> None:
    made = table.layout(HEAD, ROWS, right=("MEMORY",), spare=("GUEST", "MEMORY") if most < 40 else ("GUEST",), elastic="JOB",
                        most=most)
    assert made[1:] == lines if most != 25 else len(made[1]) <= 25


def test_colours_do_not_move_columns() -> None:
    made = table.layout(("PHASE", "FOR"), [("run", "3s"), ("boot", "12s")], right=("FOR",), colours={"PHASE": {"run": "green"}})
    assert [click.unstyle(line) for line in made] == ["PHASE  FOR", "run     3s", "boot   12s"]
    assert made[1] == "\x1b[32mrun\x1b[0m     3s"


@pytest.mark.parametrize(("no_color", "colour"), [("1", False), ("", None)])
def test_no_color(no_color: str, colour: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    assert table.coloured() is colour


def test_what_goes_into_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    table.show(HEAD, [("x" * 300, "alice", "512M", "-")], spare=("GUEST",), elastic="JOB")
    said = capsys.readouterr().out
    assert "x" * 300 in said
    assert "\x1b" not in said


def test_the_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((77, 24)))
    assert table.width() == 77


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "-"), (0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"),
    (86399, "23h59m"), (86400, "1d00h"), (8.6e6, "99d12h"),
])
def test_durations(seconds: float | None, text: str) -> None:
    assert table.duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(512 << 20, "512M"), (1 << 30, "1G"), (3 << 29, "1.5G"), (100 << 30, "100G")])
def test_sizes(size: int, text: str) -> None:
    assert table.size(size) == text


def test_nothing_of_a_users_reaches_the_terminal() -> None:
    assert table.plain("a\x1b[2Jb\nc\u202e") == "a?[2Jb?c?"
