"""Prologue and epilogue beside a bare start and end of the same guest, and how soon behind the ready file the prologue ends."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from lab.mom import Mom
from lab.place import SHARE
from vmbatch.report import figure
from vmbatch.report.figure import Figure

from . import site
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
    with _cached_share(Path("/srv/vmbatch/seen")):
        ready = [job(Mom(), "busybox")["ready"] for _ in range(rounds)]
    yield figure.alone(group, "ready file to prologue's exit, a share whose attributes are cached", ready)


@contextlib.contextmanager
def _cached_share(place: Path) -> Iterator[None]:
    """The share as a client sees it: no event comes through, and names and attributes are believed for 3 s.

    By FUSE, as what is measured must not depend on the node's kernel having NFS.
    """
    place.mkdir(mode=0o711)
    served = subprocess.Popen(["bindfs", "-f", "-o", "attr_timeout=3,entry_timeout=3,negative_timeout=0", SHARE, place],
                              stdin=subprocess.DEVNULL)
    try:
        over = time.monotonic() + 30
        while f" {place} fuse" not in Path("/proc/self/mounts").read_text():
            if time.monotonic() > over or served.poll() is not None:
                raise RuntimeError("bindfs does not start")
            time.sleep(0.01)
        with site.changed({"share": f'directory = "{place}"\nlocal = false\n'}):
            yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=False)
        served.wait()
        place.rmdir()


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
        written = next(SHARE.glob(f"{accepted.file_id}@*/guest/ready")).stat().st_mtime
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
