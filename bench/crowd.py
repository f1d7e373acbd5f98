"""Real guests that are wanted at the same moment: how many to start at a time, and what one image of all takes of memory."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lab.mom import Job, Mom
from vmbatch.report import figure
from vmbatch.report.figure import Figure

from . import site
from .beside import Seconds

_SCRIPT = b"#!/bin/sh\nexit 0\n"
_AT_ONCE = 8
_STARTS = (1, 2, 4)
_OF_ONE_IMAGE = 4
_ONE = "one guest"
_OVERLAYS = f"{_OF_ONE_IMAGE} guests, overlays of one image"
_COPIES = f"{_OF_ONE_IMAGE} guests, each with a copy of the image"


class _Crowd(NamedTuple):
    """Seconds until each guest was ready, in order, and bytes by which the page cache had grown when all were."""

    ready: list[float]
    cached: float


def figures(rounds: int = 3) -> Iterator[Figure]:
    """What is throttled are guests of busybox, what shares an image those of Debian."""
    names = {"none": "all at once", **{str(starts): f"[admission] starts = {starts}" for starts in _STARTS}}
    whole: Seconds = {}
    first: Seconds = {}
    for number in range(rounds + 1):
        for starts, name in names.items():
            setting = f'starts = {starts}\nwait = "280s"\n' if starts != "none" else ""
            with site.changed({"admission": setting}):
                ready = _crowd("busybox", _AT_ONCE).ready
            if number:
                whole.setdefault(name, []).append(ready[-1] / _AT_ONCE)
                first.setdefault(name, []).append(ready[0])
    reference = names.pop("none")
    for what, seconds in (("the node's seconds for each", whole), ("until the first is ready", first)):
        for name in names.values():
            yield figure.beside(f"{_AT_ONCE} guests wanted at once: {what}", name, seconds[name], seconds[reference], reference)
    yield from _pages(rounds)


def _pages(rounds: int) -> Iterator[Figure]:
    """Bytes of files that the node's memory has because of guests that run, each measured from an empty cache."""
    overlays = site.template("debian")
    copies = overlays.replace("copy_method='cow'", "copy_method='copy'")
    taken: dict[str, list[float]] = {}
    with site.changed(templates={"benchcopies": copies}):
        for _ in range(rounds):
            for name, queue, count in ((_ONE, "debian", 1), (_OVERLAYS, "debian", _OF_ONE_IMAGE),
                                       (_COPIES, "benchcopies", _OF_ONE_IMAGE)):
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("1\n")
                taken.setdefault(name, []).append(_crowd(queue, count).cached)
    for name in (_OVERLAYS, _COPIES):
        yield figure.beside("The node's page cache, Debian", name, taken[name], taken[_ONE], _ONE, unit="B")


def _cached() -> float:
    """Bytes of files in memory (proc(5))."""
    known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024.0 * (int(known["Cached"].split()[0]) - int(known["Shmem"].split()[0]))


def _crowd(queue: str, count: int) -> _Crowd:
    """All are ended once the last is ready."""
    mom = Mom()
    jobs = [mom.accept(_SCRIPT, queue=queue) for _ in range(count)]
    ready: list[float] = []
    failed: list[str] = []
    before, begin = _cached(), time.monotonic()

    def start(job: Job) -> None:
        if mom.finish_prologue(mom.start_prologue(job)) == "run":
            ready.append(time.monotonic() - begin)
        else:
            failed.append(job.errors.decode())

    _together(start, jobs)
    cached = _cached() - before
    _together(lambda job: mom.start_epilogue(job).wait(), jobs)
    for job in jobs:
        mom.forget(job)
    if failed:
        raise RuntimeError(failed[0])
    return _Crowd(sorted(ready), cached)


def _together(act: Callable[[Job], object], jobs: list[Job]) -> None:
    threads = [threading.Thread(target=act, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
