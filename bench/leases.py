"""How long guests wait for their network: `python -m bench.leases [GUESTS [ROUNDS]]`, real guests at once, in the lab's node.

The seconds are those of the hooks' logs: `guest lease` is from a lease, as dnsmasq's helper has written it down, until the
guest's interface is open, `guest filter` the part of that in which libvirt makes the filter.
"""

import re
import statistics
import sys
from pathlib import Path

from lab.mom import Job, Mom

SCRIPT = b"#!/bin/sh\nexit 0\n"
_PHASES = ("network filter", "start", "guest filter", "guest lease", "guest network", "guest shares", "boot", "release")


def measure(guests: int, rounds: int) -> dict[str, list[float]]:
    """Seconds by phase of all guests that started. RuntimeError if one did not."""
    mom, found = Mom(), dict[str, list[float]]()
    for _ in range(rounds):
        jobs = [mom.accept(SCRIPT, queue="busybox") for _ in range(guests)]
        verdicts = [mom.finish_prologue(prologue) for prologue in [mom.start_prologue(job) for job in jobs]]
        for epilogue in [mom.start_epilogue(job) for job in jobs]:
            epilogue.wait()
        for job, verdict in zip(jobs, verdicts, strict=True):
            if verdict != "run":
                raise RuntimeError(job.errors.decode())
            for phase, seconds in _logged(job):
                found.setdefault(phase, []).append(seconds)
            mom.forget(job)
    return found


def _logged(job: Job) -> list[tuple[str, float]]:
    text = Path(f"/var/log/vmbatch/{job.file_id}.log").read_text()
    return [(phase, float(seconds)) for phase, seconds in re.findall(r": phase ([a-z ]+) (\d+\.\d+) s$", text, re.MULTILINE)]


def main(guests: int = 4, rounds: int = 3) -> None:
    """Prints the report."""
    print(f"### {guests} guests at once, {rounds} times\n\n| phase | median | least | most |\n|---|---|---|---|")
    found = measure(guests, rounds)
    for phase in _PHASES:
        seconds = found.get(phase, [0.0])
        print(f"| {phase} | {statistics.median(seconds):.3f} s | {min(seconds):.3f} s | {max(seconds):.3f} s |")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3]))
