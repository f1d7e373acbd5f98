"""Many prologues at the same moment on one node, with played guests: `python -m bench.together [JOBS]`, in the lab's node.

The guests take no time, so that all of it is our own. What is compared is what a prologue took in the median, and at the 99th
percentile.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import mom, nest
from lab.remains import QuietNode

_SECONDS = 280.0


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


def main(jobs: int = 100) -> None:
    """Prints the report."""
    print(show(play(jobs)))


if __name__ == "__main__":
    if sys.argv[2:3] == ["inside"]:
        answers = nest.answers()
        answers.write(json.dumps(asdict(inside(sys.argv[1], sys.argv[3]))))
        answers.flush()
    else:
        main(*(int(word) for word in sys.argv[1:2]))
