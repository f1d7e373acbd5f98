"""Workers for the crash tests, and their tally at the end of the run."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lab import node

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


_TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[_TALLY]
    if tally.runs or tally.caught:
        terminalreporter.write_line(
            f"crash matrix: {tally.runs} runs, {tally.leaks} leaks, {len(tally.caught)} of {len(MUTANTS)} mutants caught")


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")
    workers = Pool()
    yield workers
    workers.close()
    tally = request.config.stash[_TALLY]
    tally.runs, tally.leaks = workers.runs, workers.leaks


@pytest.fixture(scope="session")
def prologue_points(pool: Pool) -> list[Point]:
    """The points of a prologue that nobody interrupts."""
    return pool.ask(Case("prologue")).points


@pytest.fixture(scope="session")
def caught(request: pytest.FixtureRequest) -> set[str]:
    """The mutants that were found out so far."""
    return request.config.stash[_TALLY].caught
