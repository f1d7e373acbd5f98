"""Hooks that nobody kills, and whose world fails: a full disk, a libvirtd or a share that hangs or goes away."""

import dataclasses

import pytest

from .case import NOT_REACHED, Answer, Case, places
from .pool import Pool
from .tracer import Point
from .trouble import concerns, starts, writes

pytestmark = pytest.mark.crash


_MOST = 30
"""How often a prologue asks how its guest is depends on the machine."""


def _all(points: list[Point], case: Case) -> list[Case]:
    return [dataclasses.replace(case, at=number) for number in places(points)]


def test_a_disk_that_is_full_at_any_write_of_a_prologue(pool: Pool, prologue_points: list[Point]) -> None:
    """For good, and at every third for a moment: it says so, puts the job back into its queue, and leaves nothing by itself."""
    points = [point for point in prologue_points if writes(point)]
    cases = _all(points, Case("full", begin="prologue", after=True)) + _all(points, Case("full", begin="prologue"))[::3]
    assert len(cases) > 60
    assert not pool.count(cases)


def test_a_disk_that_is_full_at_any_write_of_an_epilogue(pool: Pool) -> None:
    whole = pool.ask(Case("epilogue", begin="handed-over"))
    cases = _all([point for point in whole.points if writes(point)], Case("full", begin="epilogue", after=True))
    assert len(cases) > 5
    assert not pool.count(cases)


def test_no_helper_begins_without_its_parent(pool: Pool, prologue_points: list[Point]) -> None:
    """As where the kernel kills the prologue for want of memory, and nothing else."""
    cases = _all([point for point in prologue_points if starts(point)], Case("lonely", begin="prologue"))
    assert len(cases) > 5
    assert not pool.count(cases)


def _whole(pool: Pool, case: Case, step: int = 1) -> list[Case]:
    """A case for each point, or every second one, at which the victim is needed: equal ones are different requests."""
    whole: Answer = pool.ask(case)
    assert (whole.leaks, whole.where) == ([], NOT_REACHED)
    needed = sum(concerns(case.victim)(point) for point in whole.points)
    assert needed > 2
    return [dataclasses.replace(case, at=number) for number in range(1, min(needed, _MOST) + 1, step)]


@pytest.mark.parametrize("begin", ["prologue", "epilogue"])
@pytest.mark.parametrize("victim", ["libvirtd", "share"])
def test_who_hangs_is_not_waited_for_for_ever(pool: Pool, victim: str, begin: str) -> None:
    """The hook ends although libvirtd, or the share's server, does not answer; what it leaves, a later epilogue removes."""
    assert not pool.count(_whole(pool, Case("stopped", victim=victim, begin=begin, mutation="impatient"), 2))


@pytest.mark.parametrize("begin", ["prologue", "epilogue"])
def test_libvirtd_restarted_at_any_step(pool: Pool, begin: str) -> None:
    assert not pool.count(_whole(pool, Case("restarted", victim="libvirtd", begin=begin, mutation="impatient"), 2))


def test_a_request_in_the_hands_of_libvirtd_when_its_prologue_is_killed(pool: Pool) -> None:
    assert not pool.count(_whole(pool, Case("flying", victim="libvirtd", begin="prologue")))
