"""A matrix that cannot fail proves nothing: each of these mistakes must be found."""

import pytest

from .case import Case
from .mutations import MUTANTS, Points
from .pool import Pool
from .tracer import Point

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_mutant_leaks(pool: Pool, prologue_points: list[Point], caught: set[str], name: str) -> None:
    points = Points(prologue_points, pool.ask(Case("epilogue", begin="handed-over")).points)
    played = pool.play(MUTANTS[name](points))
    leaks = [leak for _, answer in played for leak in answer.leaks]
    assert not any("test itself failed" in leak for leak in leaks), leaks
    assert leaks, f"{len(played)} runs did not find the mistake"
    caught.add(name)
