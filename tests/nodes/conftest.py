"""Two nodes, two moms, and a job on both, inside the lab's node."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import leftover, node, place
from lab.mom import Job, Mom
from lab.second import Second, second

FIRST = "node"
"""The host name of the lab's own node."""


@pytest.fixture(autouse=True, scope="session")
def in_node() -> None:
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)


@pytest.fixture(scope="session")
def other() -> Iterator[Second]:
    """The second node."""
    with second(place.state() / "node2") as running:
        yield running


class Pair:
    """A job on both nodes, as its two moms have it; `first` and `sister` are the job at each."""

    def __init__(self, other: Second, script: bytes, *, queue: str = "busybox", slots: int = 2, job_id: str = "") -> None:
        self.mom = Mom(name=FIRST)
        self.other = other.mom
        self.first = self.mom.accept(script, queue=queue, hosts=(FIRST, other.mom.name), slots=slots, job_id=job_id, name="pair")
        self.sister = self.other.join(self.first)

    def join(self) -> int:
        """Runs the sister's prologue, as it is before the first node's."""
        return self.other.start_prologue(self.sister, "prologue.parallel").wait()

    def start(self) -> str:
        """Mom's verdict once both prologues have run."""
        assert self.join() == 0
        return self.mom.finish_prologue(self.mom.start_prologue(self.first))

    def end(self) -> list[int]:
        """Runs both epilogues, the sister's first."""
        return [self.end_sister(), self.end_first()]

    def end_sister(self) -> int:
        """Runs the sister's epilogue."""
        return self.other.start_epilogue(self.sister, name="epilogue.parallel").wait()

    def end_first(self) -> int:
        """Runs the first node's epilogue, after which mom forgets the job."""
        status = self.mom.start_epilogue(self.first).wait()
        self.mom.forget(self.first)
        return status

    @property
    def errors(self) -> str:
        """What the user reads."""
        return self.first.errors.decode()


@pytest.fixture
def pair(other: Second) -> Callable[..., Pair]:
    """Makes jobs on both nodes."""

    def make(script: bytes = b"#!/bin/sh\nhostname\n", **about: object) -> Pair:
        return Pair(other, script, **about)  # type: ignore[arg-type]

    return make


def left(other: Second) -> list[str]:
    """What is left on both nodes."""
    there = other.run([sys.executable, "-m", "lab.leftover"]).splitlines()
    return leftover.found() + [f"node2: {line}" for line in there if line]


@pytest.fixture
def nothing_left(other: Second) -> Iterator[None]:
    """Both nodes are as empty after the test as before."""
    assert left(other) == []
    yield
    assert left(other) == []


Replace = Callable[[str, str], AbstractContextManager[None]]


@pytest.fixture
def there(other: Second) -> Replace:
    """Puts another text in place of a file for a while, at the second node alone."""

    @contextmanager
    def replace(path: str, text: str) -> Iterator[None]:
        mine = other.directory / f"replaced{path.replace('/', '-')}"
        mine.write_text(text)
        other.run(["mount", "--bind", mine, path])
        try:
            yield
        finally:
            other.run(["umount", path])
            mine.unlink()

    return replace


def log(job: Job) -> str:
    """The job's log at the first node."""
    return Path(f"/var/log/vmbatch/{job.file_id}.log").read_text()
