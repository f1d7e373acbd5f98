"""Hooks killed with their session before and after every system call that touches the world; then nothing may be left."""

import dataclasses

import pytest

from .case import Case, new_places, places
from .pool import Pool
from .tracer import Point

pytestmark = pytest.mark.crash


def _kills(numbers: list[int], case: Case, cleanups: tuple[str, ...] = ("epilogue",)) -> list[Case]:
    """A kill before and one after each of the points; the ways to clean up take turns."""
    return [
        dataclasses.replace(case, at=number, after=after, cleanup=cleanups[(number + after) % len(cleanups)])
        for number in numbers for after in (False, True)
    ]


def test_prologue_killed_anywhere_leaves_nothing_after_its_epilogue(pool: Pool, prologue_points: list[Point]) -> None:
    cases = _kills(places(prologue_points), Case("prologue"))
    assert len(cases) > 200
    missed = pool.missed
    assert not pool.count(cases)
    assert pool.missed - missed < len(cases) / 20  # ssh does not write as often each time


@pytest.mark.parametrize("begin", ["failing", "remains", "own"])
def test_prologue_killed_on_another_course(pool: Pool, prologue_points: list[Point], begin: str) -> None:
    """`failing`: it undoes itself, as the guest fails; `remains`: it ends another job; `own`: it reads an image of the user's."""
    whole = pool.ask(Case("prologue", begin=begin))
    assert not whole.leaks
    cases = _kills(new_places(whole.points, prologue_points), Case("prologue", begin=begin))
    assert len(cases) > 30
    assert not pool.count(cases)


@pytest.mark.parametrize("begin", ["handed-over", "crashed"])
def test_epilogue_killed_anywhere_leaves_nothing_after_a_second_one_or_the_sweep(pool: Pool, begin: str) -> None:
    whole = pool.ask(Case("epilogue", begin=begin))
    assert not whole.leaks
    cases = _kills(places(whole.points), Case("epilogue", begin=begin), ("epilogue", "sweep"))
    assert len(cases) > 60
    if begin == "crashed":  # each waits two seconds for a request that may be under way: the second half is as the other course's
        cases = [case for case in cases if case.after]
    assert not pool.count(cases)


def test_points_are_not_a_few(prologue_points: list[Point]) -> None:
    calls = {point.call for point in prologue_points}
    assert {"mkdir", "openat", "linkat", "rename", "write", "fsync", "connect", "execve", "vfork", "fchown", "chmod"} <= calls
    programs = {point.program for point in prologue_points}
    assert {"prologue", "setpriv", "qemu-img", "cp", "ssh-keygen", "ssh"} <= programs
    assert any("libvirt-sock" in point.what for point in prologue_points)
    assert any(point.what == "port 22" for point in prologue_points)


@pytest.mark.parametrize("line", range(2, 8))
def test_journal_line_torn_at_any_byte(pool: Pool, line: int) -> None:
    assert not pool.count([Case("torn", line)])


def test_ten_moments(pool: Pool) -> None:
    assert not pool.count(Case("moment", milliseconds) for milliseconds in range(5, 300, 31))
