"""A node for the scenes, made once."""

from collections.abc import Iterator

import pytest

from lab import node

from .pool import Worker


@pytest.fixture(scope="session")
def nest() -> Iterator[Worker]:
    """A node of its own inside the lab's."""
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)
    worker = Worker()
    yield worker
    worker.close()
