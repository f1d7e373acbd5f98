"""Workers for the crash tests, and their tally at the end of the run."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lab import node
from tests import summary

from .case import Case
from .mutations import MUTANTS
from .pool import Pool
from .tracer import Point


@dataclass
class Tally:
    """Runs that must leave nothing, leaks, and mutants that were found out."""

    runs: int = 0
    leaks: int = 0
    caught: set[str] = field(default_factory=set)


_tally = Tally()


def _line() -> str:
    if not _tally.runs and not _tally.caught:
        return ""
    return f"crash matrix: {_tally.runs} runs, {_tally.leaks} leaks, {len(_tally.caught)} of {len(MUTANTS)} mutants caught"


summary.FUNCTIONS.append(_line)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")
    workers = Pool()
    yield workers
    workers.close()
    _tally.runs, _tally.leaks = workers.runs, workers.leaks


@pytest.fixture(scope="session")
def prologue_points(pool: Pool) -> list[Point]:
    """The points of a prologue that nobody interrupts."""
    return pool.ask(Case("prologue")).points


@pytest.fixture(scope="session")
def caught() -> set[str]:
    """The mutants that were found out so far."""
    return _tally.caught
