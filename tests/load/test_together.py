"""A hundred prologues at the same moment, and a short soak: all are served, and nothing is left."""

import subprocess
import sys

import pytest

from bench import together
from lab import node, place

pytestmark = pytest.mark.crash


@pytest.fixture(autouse=True)
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


def test_a_hundred_prologues_at_once() -> None:
    """No deadlock, and none waits for long behind all others; `python -m bench together` has figures."""
    result = together.play(100)
    print(together.show(result))
    assert result.codes == [0] * 200, result.errors
    assert result.left == []
    assert result.slow < 3 * result.median


def test_a_short_soak() -> None:
    """`python -m bench.soak` is the long one."""
    done = subprocess.run([sys.executable, "-m", "bench.soak", "--played", "60", "--real", "0", "--seed", "7"], cwd=place.CLONE,
                          stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert "60 jobs in " in done.stdout
    assert done.stdout.rstrip().endswith("Left: nothing"), done.stdout
    assert done.returncode == 0
