"""Many prologues at the same moment on one node, with played guests, which take no time: all of it is our own.

What is compared is what a prologue took in the median, and at the 99th percentile; and the node's seconds for each start.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import mom, nest
from lab.remains import QuietNode
from vmbatch.report import figure
from vmbatch.report.figure import Figure

_SECONDS = 280.0
_NUMBERS = (1, 2, 5, 10, 20, 50)


@dataclass
class Result:
    """`codes`: exit statuses of prologues and of epilogues; `seconds`: of each prologue."""

    codes: list[int]
    seconds: list[float]
    errors: list[str]
    left: list[str]

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def slow(self) -> float:
        """The 99th percentile of the seconds."""
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[98]


def play(jobs: int) -> Result:
    """In a node of its own."""
    return Result(**nest.apart("bench.together", "inside", str(jobs)))


def inside(scratch: str, number: str) -> Result:
    """All prologues, then all epilogues, each at once."""
    nest.enter(Path(scratch), nest.CONFIG.replace("[timeouts]\n", "[timeouts]\nscale = 10\n"))
    Path("/etc/vmbatch/domains/crash.xml").write_text(nest.TEMPLATE.replace(nest.ONCE, ""))
    node, house = QuietNode(), mom.Mom()
    jobs = [house.accept(b"#!/bin/sh\n", queue=nest.QUEUE) for _ in range(int(number))]
    seconds: list[float] = []

    def start(job: mom.Job) -> int:
        begin = time.monotonic()
        code = house.start_prologue(job).wait(_SECONDS)
        seconds.append(time.monotonic() - begin)
        return code

    codes = _all_at_once(jobs, start) + _all_at_once(jobs, lambda job: house.start_epilogue(job).wait(_SECONDS))
    errors = [text for job in jobs if (text := job.errors.decode())]
    for job in jobs:
        house.forget(job)
    return Result(codes, seconds, errors, node.left())


def _all_at_once(jobs: list[mom.Job], act: Callable[[mom.Job], int]) -> list[int]:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda job=job: codes.append(act(job))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def show(result: Result) -> str:
    """Markdown."""
    return (f"### {len(result.seconds)} prologues at once\n\n"
            f"Median {result.median:.1f} s, 99th percentile {result.slow:.1f} s: {result.slow / result.median:.2f} times "
            f"the median. {sum(code != 0 for code in result.codes)} hooks failed, {len(result.left)} things are left.\n")


def figures(rounds: int = 3) -> Iterator[Figure]:
    """From one at a time to 50 at once."""
    each: dict[int, list[float]] = {number: [] for number in _NUMBERS}
    last: list[Result] = []
    for _ in range(rounds):
        for number in _NUMBERS:
            result = play(number)
            if any(result.codes) or result.left:
                raise RuntimeError(f"{number} at once: {result}")
            each[number].append(max(result.seconds) / number)
            last = [*last, result] if number == _NUMBERS[-1] else last
    most = _NUMBERS[-1]
    group = "Prologues at once, played guests"
    yield figure.beside(group, f"{most} at once: 99th percentile", [result.slow for result in last],
                        [result.median for result in last], "the median of the same prologues", limit=3.0)
    for number in _NUMBERS[1:]:
        yield figure.beside(f"{group}: the node's seconds for each", f"{number} at once", each[number], each[1], "one at a time")


if __name__ == "__main__":
    answers = nest.answers()
    answers.write(json.dumps(asdict(inside(sys.argv[1], sys.argv[3]))))
    answers.flush()
