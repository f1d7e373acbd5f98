"""A pbs_mom whose hook finds programs of the test's in the place of VmBatch's."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import node
from lab.openpbs import Mom
from vmbatch.installation import hookfile

from .desk import Desk


@pytest.fixture(autouse=True, scope="session")
def in_node() -> None:
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # users can reach it
        top = Path(name)
        top.chmod(0o755)
        programs = top / "programs"
        programs.mkdir()
        hook = top / "vmbatch_hook.py"
        hook.write_bytes(hookfile.openpbs_hook(str(programs)))
        made = Desk(Mom(top / "pbs", hook=hook), programs)
        yield made
        made.clear()
