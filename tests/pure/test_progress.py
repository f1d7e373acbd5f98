"""What people and logs are told of a download."""

import io

import pytest

from vmbatch.image.progress import Progress, Terminal

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_for_each_tenth(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress(said.append, clock)
    for done in range(2001):
        progress(done * MIB, 2000 * MIB)
        clock.now += 0.01
    assert len(said) == 10
    assert said[3] == "40 %, 800 MiB of 2000 MiB, 100 MiB/s, 12 s left"
    assert said[9] == "100 %, 2000 MiB of 2000 MiB, 100 MiB/s"


def test_several_tenths_at_once_are_one_line(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress(said.append, clock)
    progress(0, 100 * MIB)
    clock.now += 1
    progress(55 * MIB, 100 * MIB)
    progress(59 * MIB, 100 * MIB)
    assert said == ["55 %, 55 MiB of 100 MiB, 55 MiB/s, 1 s left"]


def test_what_was_there_before_is_no_speed(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress(said.append, clock)
    progress(500 * MIB, 1000 * MIB)
    clock.now += 10
    progress(600 * MIB, 1000 * MIB)
    assert said == ["50 %, 500 MiB of 1000 MiB", "60 %, 600 MiB of 1000 MiB, 10 MiB/s, 40 s left"]


def test_from_the_beginning_again(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress(said.append, clock)
    progress(0, 1000 * MIB)
    clock.now += 10
    progress(500 * MIB, 1000 * MIB)
    progress(MIB, 1000 * MIB)
    clock.now += 1
    progress(101 * MIB, 1000 * MIB)
    assert said == ["50 %, 500 MiB of 1000 MiB, 50 MiB/s, 10 s left", "10 %, 101 MiB of 1000 MiB, 100 MiB/s, 9 s left"]


def test_a_size_that_is_not_known(clock: Clock) -> None:
    said: list[str] = []
    progress = Progress(said.append, clock)
    for done in range(601):
        progress(done * MIB, None)
        clock.now += 0.5
    assert said == ["256 MiB, 2 MiB/s", "512 MiB, 2 MiB/s"]


def test_nothing_to_do(clock: Clock) -> None:
    said: list[str] = []
    Progress(said.append, clock)(0, 0)
    assert said == []


def test_one_line_for_a_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, clock)
    for done in range(101):
        terminal(done * MIB, 100 * MIB)
        clock.now += 1 / 64
    shown = stream.getvalue().split("\r")
    assert shown[0] == ""
    assert len(shown) == 1 + 8 + 1, "five in a second, and the last one"
    assert shown[1] == "0 %, 0 MiB of 100 MiB"
    assert shown[2].rstrip() == "13 %, 13 MiB of 100 MiB, 64 MiB/s, 1 s left"
    assert shown[-1].rstrip(" ").startswith("100 %, 100 MiB of 100 MiB, 64 MiB/s")
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\n") == 1


def test_nothing_of_a_longer_line_remains(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, clock)
    terminal(0, 1000 * MIB)
    clock.now += 1
    terminal(MIB, 1000 * MIB)
    long = stream.getvalue().rsplit("\r", 1)[1]
    clock.now += 1
    terminal(1000 * MIB, 1000 * MIB)
    assert len(stream.getvalue().rsplit("\r", 1)[1].rstrip("\n")) >= len(long)


def test_a_line_that_stays_unfinished_is_ended(clock: Clock) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, clock)
    terminal.end()
    assert stream.getvalue() == ""
    terminal(MIB, None)
    terminal.end()
    terminal.end()
    assert stream.getvalue() == "\r1 MiB\n"
