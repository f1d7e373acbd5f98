"""Hooks killed with their session before and after every system call that touches the world; then nothing may be left."""

import dataclasses

import pytest

from vmbatch import registry

from .case import Case, new_places, places
from .pool import Pool
from .tracer import Point

pytestmark = pytest.mark.crash
_MANY = 60


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


@pytest.mark.parametrize("begin", ["failing", "keeping", "remains", "own", "party", "disk", "exported", "waiting"])
def test_prologue_killed_on_another_course(pool: Pool, prologue_points: list[Point], begin: str) -> None:
    """`failing`: it undoes itself, as the guest fails, and `keeping` some of it; `remains`: it ends another job; `own`: it reads
    an image of the user's; `party`: it meets another node of the job; `disk`: it writes into the guest's disk; `exported`: it
    mounts and exports the guest's part of the share, and starts who watches it; there DHCP's leases are listed, too;
    `waiting`: it takes a guest that waited."""
    whole = pool.ask(Case("prologue", begin=begin))
    assert not whole.leaks
    cases = _kills(new_places(whole.points, prologue_points), Case("prologue", begin=begin))
    assert len(cases) > 30
    cases = [case for case in cases if case.after]  # which is nearly to kill before the next call
    assert not pool.count(cases[::2] if len(cases) > _MANY else cases)


@pytest.mark.parametrize("begin", ["handed-over", "crashed"])
def test_epilogue_killed_anywhere_leaves_nothing_after_a_second_one_or_the_sweep(pool: Pool, begin: str) -> None:
    whole = pool.ask(Case("epilogue", begin=begin))
    assert not whole.leaks
    cases = _kills(places(whole.points), Case("epilogue", begin=begin), ("epilogue", "sweep"))
    assert len(cases) > 60
    if begin == "crashed":  # each waits two seconds for a request that may be under way: the second half is as the other course's
        cases = [case for case in cases if case.after]
    assert not pool.count(cases)


def test_epilogue_killed_anywhere_that_has_a_guest_wait_again(pool: Pool) -> None:
    """The guest waits, and is clean, or it is dead."""
    whole = pool.ask(Case("epilogue", begin="taken"))
    assert not whole.leaks
    assert {"port", "id_ed25519.pub", "jobs"} <= {point.what.rpartition("/")[2] for point in whole.points}
    cases = _kills(places(whole.points), Case("epilogue", begin="taken"), ("epilogue", "sweep"))
    assert len(cases) > 60
    assert not pool.count([case for case in cases if case.after])


def test_who_has_guests_wait_is_killed_anywhere(pool: Pool) -> None:
    whole = pool.ask(Case("refill"))
    assert not whole.leaks
    cases = [case for case in _kills(places(whole.points), Case("refill")) if case.after]
    assert len(cases) > 60
    assert not pool.count(cases[::2] if len(cases) > 2 * _MANY else cases)


def test_every_kind_of_resource_is_reached(pool: Pool) -> None:
    """A new kind needs a template, or a course, that has it."""
    answers = [pool.ask(Case("prologue", begin=begin)) for begin in ("nothing", "party", "exported")]
    assert [answer.leaks for answer in answers] == [[], [], []]
    assert {kind for answer in answers for kind in answer.kinds} == {
        "start", "handed-over", *(str(kind.__struct_config__.tag) for kind in registry.KINDS)}


def test_points_are_not_a_few(prologue_points: list[Point]) -> None:
    calls = {point.call for point in prologue_points}
    assert {"mkdir", "openat", "linkat", "rename", "write", "fsync", "connect", "execve", "vfork", "fchown", "chmod"} <= calls
    programs = {point.program for point in prologue_points}
    assert {"prologue", "setpriv", "qemu-img", "cp", "ssh-keygen", "ssh"} <= programs
    assert any("libvirt-sock" in point.what for point in prologue_points)
    assert any(point.what == "port 22" for point in prologue_points)


@pytest.mark.parametrize("line", range(2, 9))
def test_journal_line_torn(pool: Pool, line: int) -> None:
    assert not pool.count([Case("torn", line)])


def test_ten_moments(pool: Pool) -> None:
    assert not pool.count(Case("moment", milliseconds) for milliseconds in range(5, 300, 31))
