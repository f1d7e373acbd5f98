"""A guest that waited for its job beside the same guest's own boot, and where the time of the job's prologue goes."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lab import place
from lab.mom import Mom
from vmbatch.report import figure
from vmbatch.report.figure import Figure

from . import site
from .beside import Seconds

_GUESTS = {"busybox": "disk", "Debian with systemd": "debian"}
"""The templates of the lab whose guests have disks, by what the guests are."""
_REFERENCE = "the same guest's boot"
_STEPS = {"take": "take", "context": "context", "give": "give", "settle": "boot", "login": "login", "ready": "ready"}
"""What of the prologue's log is shown, of a guest that waited."""
_REST_SECONDS = 5.0
"""For the refilled guest's own boot to be over, and the machine to be quiet."""


def figures(rounds: int = 5) -> Iterator[Figure]:
    """Both guests, each booted and taken in turns."""
    for name, template in _GUESTS.items():
        cold = site.template(template)
        with site.changed(templates={"benchcold": cold, "benchpool": pooled(cold)}):
            seconds = _measure(rounds)
        refill("no such template any more")
        group = f"From a pool, {name}"
        yield figure.beside(group, "prologue", seconds["benchpool"], seconds["benchcold"], _REFERENCE)
        yield figure.alone(group, "prologue from a pool", seconds["benchpool"], limit=1.0)
        for step in _STEPS:
            yield figure.alone(group, step, seconds[step])


def pooled(xml: str) -> str:
    """A template of the lab of which one guest waits."""
    return xml.replace("<vbhypervisor>", "<vbstart>POOL</vbstart><vbhypervisor>", 1)


def refill(what: str) -> None:
    """Has as many guests wait as should; the lab has no systemd that sees to it."""
    done = subprocess.run([place.ENVIRONMENT / "bin/vmbatch", "pool", "refill"], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stdout}{done.stderr}")


def _measure(rounds: int) -> Seconds:
    mom = Mom()
    seconds: Seconds = {}
    for number in range(rounds + 1):
        refill("benchpool")
        time.sleep(_REST_SECONDS)
        for queue in ("benchpool", "benchcold"):
            ended = mom.run(b"#!/bin/sh\nexec true\n", queue=queue)
            log = Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()
            if ended.verdict != "run" or ended.status or (queue == "benchpool" and "no guest that waits is taken" in log):
                raise RuntimeError(f"{queue}: {ended.verdict} {ended.errors.decode()} {log}")
            phases = dict(re.findall(r" prologue: phase ([a-z ]+) ([0-9.]+) s$", log, re.MULTILINE))
            if number:
                seconds.setdefault(queue, []).append(ended.seconds["prologue"])
                if queue == "benchpool":
                    for step, phase in _STEPS.items():
                        seconds.setdefault(step, []).append(float(phases[phase]))
    return seconds
