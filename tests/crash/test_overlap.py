"""Hooks of one job beside each other, as mom starts them when a job is deleted, requeued or started twice."""

import pytest

from .case import Case, places
from .pool import Pool
from .tracer import Point

pytestmark = pytest.mark.crash
_STEP = 5
_SCHEDULES = 60


@pytest.mark.parametrize("beside", ["epilogue", "killed", "two", "prologue"])
def test_hooks_beside_a_prologue_held_at_every_fifth_point(pool: Pool, prologue_points: list[Point], beside: str) -> None:
    assert not pool.count(Case("overlap", number, begin=beside) for number in places(prologue_points)[::_STEP])


def test_random_schedules(pool: Pool) -> None:
    assert not pool.count(Case("schedule", seed=seed) for seed in range(_SCHEDULES))
