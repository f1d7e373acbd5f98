"""Any number of jobs cause one transfer of an image, even if the one that downloads is killed."""

from typing import Any

import pytest

from lab import nest, node

from .worker import SIZE

pytestmark = pytest.mark.crash
IN_FLIGHT = 12 << 20
"""What a killed process can have been sent and not have written: its queue of chunks, and the buffers of its socket."""


def play(jobs: int, kill_at: int) -> dict[str, Any]:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")
    result: dict[str, Any] = nest.apart("tests.load.worker", str(jobs), str(kill_at))
    return result


def test_fifty_prologues_one_transfer() -> None:
    result = play(50, 0)
    assert result["verdicts"] == ["run"] * 50, result["errors"]
    assert (result["starts"], result["requests"], result["sent"]) == (1, 1, SIZE)
    assert result["contents"] == [SIZE]
    assert result["left"] == []


@pytest.mark.parametrize("kill_at", [30, 60, 99])
def test_a_killed_download_is_taken_over(kill_at: int) -> None:
    result = play(6, kill_at)
    assert sorted(result["verdicts"]) == ["killed", *["run"] * 5], result["errors"]
    assert result["starts"] == 1, "the rest came by range"
    assert result["requests"] == 2
    assert SIZE <= result["sent"] <= SIZE + IN_FLIGHT
    assert result["kept_at_kill"] >= SIZE * kill_at // 100 - IN_FLIGHT
    assert result["contents"] == [SIZE]
    assert result["left"] == []
