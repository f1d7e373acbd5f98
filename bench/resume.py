"""A guest that goes on from a saved one beside the same guest's own boot, and where the time of both goes."""

import re
import subprocess
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
_STEPS = {"start": "start", "kernel": "guest kernel", "prolog to epilog": "guest boot", "share": "guest shares", "login": "login"}
"""What of a prologue's log is shown: the guest's own parts are seconds since it began, or went on."""


def figures(rounds: int = 5) -> Iterator[Figure]:
    """Both guests, each booted and resumed in turns."""
    for name, template in _GUESTS.items():
        cold = site.template(template)
        with site.changed(templates={"benchcold": cold, "benchsaved": resumed(cold)}):
            save("benchsaved")
            seconds = _measure(rounds)
        group = f"From a saved guest, {name}"
        yield figure.beside(group, "prologue", seconds["benchsaved"], seconds["benchcold"], _REFERENCE, limit=0.1)
        yield figure.alone(group, "prologue from a saved guest", seconds["benchsaved"], limit=2.0)
        for step in _STEPS:
            yield figure.beside(group, step, seconds[f"benchsaved {step}"], seconds[f"benchcold {step}"], _REFERENCE)


def resumed(xml: str) -> str:
    """A template of the lab whose guests go on from a saved one."""
    return xml.replace("<vbhypervisor>", "<vbstart>RESUME</vbstart><vbhypervisor>", 1)


def save(name: str) -> None:
    """Has a guest of the template saved; what is saved of templates that have gone is removed."""
    vmbatch = place.ENVIRONMENT / "bin/vmbatch"
    subprocess.run([vmbatch, "image", "prune"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([vmbatch, "save", f"/etc/vmbatch/domains/{name}.xml"], check=True, stdout=subprocess.DEVNULL)


def _measure(rounds: int) -> Seconds:
    mom = Mom()
    seconds: Seconds = {}
    for number in range(rounds + 1):
        for queue in ("benchcold", "benchsaved"):
            ended = mom.run(b"#!/bin/sh\nexec true\n", queue=queue)
            log = Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()
            if ended.verdict != "run" or ended.status or (queue == "benchsaved" and "the guest is booted" in log):
                raise RuntimeError(f"{queue}: {ended.verdict} {ended.errors.decode()} {log}")
            phases = re.findall(r" prologue: phase ([a-z ]+) ([0-9.]+) s$", log, re.MULTILINE)
            known = {name: float(value) for name, value in phases}
            if number:
                seconds.setdefault(queue, []).append(ended.seconds["prologue"])
                for step, phase in _STEPS.items():
                    seconds.setdefault(f"{queue} {step}", []).append(max(known[phase], 0.001))
    return seconds
