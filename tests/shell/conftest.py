"""A guest on the loopback for all tests of the folder, and jobs that are handed over to it."""

from collections.abc import Callable, Iterator

import pytest

from lab import loopback, node
from lab.mom import Job, Mom


@pytest.fixture(autouse=True, scope="session")
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


@pytest.fixture(scope="session")
def mom() -> Mom:
    return Mom()


@pytest.fixture(scope="session")
def guest() -> Iterator[loopback.Guest]:
    with loopback.guest() as made:
        yield made


Accept = Callable[..., Job]


@pytest.fixture
def accept(mom: Mom, guest: loopback.Guest) -> Iterator[Accept]:
    """A job of a queue with guests whose prologue has handed it over."""
    jobs: list[Job] = []

    def made(script: str | bytes, **about: object) -> Job:
        data = script if isinstance(script, bytes) else script.encode()
        job = mom.accept(data, **about)  # type: ignore[arg-type]
        jobs.append(job)
        guest.hand_over(mom, job)
        return job

    yield made
    for job in jobs:
        guest.take_back(mom, job)
