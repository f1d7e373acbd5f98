"""Prologue and epilogue beside a bare start and end of the same guest, and how soon behind the ready file the prologue ends."""

import time
from collections.abc import Iterator
from contextlib import closing

from lab import place
from lab.mom import Mom
from vmbatch.report import figure
from vmbatch.report.figure import Figure

from .bare import Bare
from .beside import Seconds

SCRIPT = b"#!/bin/sh\nexit 0\n"
_START = "virsh create, ssh, the guest's ready file"
_END = "virsh destroy"


def figures(rounds: int = 15) -> Iterator[Figure]:
    """A guest of busybox, which is the quickest to boot: whatever is ours weighs most."""
    seconds = measure(Mom(), "busybox", rounds)
    group = "A job's guest, busybox"
    yield figure.beside(group, "prologue", seconds["prologue"], seconds["bare start"], _START, limit=1.05)
    yield figure.alone(group, "prologue: what it adds", [
        ours - bare for ours, bare in zip(seconds["prologue"], seconds["bare start"], strict=True)], limit=0.150)
    yield figure.beside(group, "epilogue", seconds["epilogue"], seconds["bare end"], _END, limit=1.3)
    yield figure.alone(group, "ready file to prologue's exit, local share", seconds["ready"], limit=0.050)


def measure(mom: Mom, queue: str, rounds: int) -> Seconds:
    """Each round has a job of ours and a bare guest, one after the other; the first does not count."""
    seconds: Seconds = {name: [] for name in ("prologue", "epilogue", "ready", "bare start", "bare end")}
    with closing(Bare(mom, queue)) as bare:
        for number in range(rounds + 1):
            for name, value in {**job(mom, queue), **_bare(bare)}.items():
                if number:
                    seconds[name].append(value)
    return seconds


def job(mom: Mom, queue: str) -> dict[str, float]:
    """Prologue and epilogue of a job, and the time from the guest's ready file to the prologue's exit."""
    accepted = mom.accept(SCRIPT, queue=queue)
    try:
        begin = time.monotonic()
        verdict = mom.finish_prologue(mom.start_prologue(accepted))
        now, took = time.time(), time.monotonic() - begin
        if verdict != "run":
            raise RuntimeError(accepted.errors.decode())
        written = next(place.SHARE.glob(f"{accepted.file_id}@*/guest/ready")).stat().st_mtime
    finally:
        begin = time.monotonic()
        mom.start_epilogue(accepted).wait()
        ended = time.monotonic() - begin
        mom.forget(accepted)
    return {"prologue": took, "ready": now - written, "epilogue": ended}


def _bare(guest: Bare) -> dict[str, float]:
    guest.prepare()
    begin = time.monotonic()
    guest.start()
    started = time.monotonic()
    guest.destroy()
    return {"bare start": started - begin, "bare end": time.monotonic() - started}
