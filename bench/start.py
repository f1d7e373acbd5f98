"""Prologue and epilogue beside a bare start and end of the same guest, and how soon behind the ready file the prologue ends."""

import contextlib
import re
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
from .bare import PARTS, Bare
from .beside import Seconds

SCRIPT = b"#!/bin/sh\nexit 0\n"
_START = "virsh create, ssh, the guest's ready file"
_END = "virsh destroy"
_UNFILTERED = "unfiltered"
_REST = "Python, modules, job, template, journal, end"
"""What is between phases."""


def figures(rounds: int = 15) -> Iterator[Figure]:
    """A guest of busybox, which is the quickest to boot: whatever is ours weighs most."""
    source = "<source network='lab'/>"
    unfiltered = site.template("busybox").replace(source, f"<vbnetwork method='dhcp' filter='no'/>{source}")
    with site.changed(templates={_UNFILTERED: unfiltered}):
        seconds = measure(Mom(), rounds)
    group = "A job's guest, busybox"
    yield figure.beside(group, "prologue", seconds["prologue"], seconds[_START], _START, limit=1.05)
    yield figure.alone(group, "prologue: what it adds", [
        ours - bare for ours, bare in zip(seconds["prologue"], seconds[_START], strict=True)], limit=0.150)
    yield figure.beside(group, "epilogue", seconds["epilogue"], seconds[_END], _END, limit=1.3)
    for hook, bare in (("prologue", _START), ("epilogue", _END)):
        yield figure.beside(group, f"{hook} without the network filter", seconds[f"{hook} {_UNFILTERED}"], seconds[bare], bare)
    yield figure.alone(group, "ready file to prologue's exit, local share", seconds["ready file"], limit=0.050)
    with _cached_share(Path("/srv/vmbatch/seen")):
        ready = [job(Mom(), "busybox")["ready file"] for _ in range(rounds)]
    yield figure.alone(group, "ready file to prologue's exit, a share whose attributes are cached", ready)
    yield from _parts(seconds)


def _parts(seconds: Seconds) -> Iterator[Figure]:
    """A profile: each phase of the prologue, beside what the bare start has of it."""
    group = "Where a prologue's time goes, busybox"
    for name in (_REST, *(name for name in seconds if name not in (_REST, _START, _END, "prologue", "epilogue", "ready file")
                          and not name.startswith("bare ") and not name.endswith(_UNFILTERED))):
        if name in PARTS:
            yield figure.beside(group, name, seconds[name], seconds[f"bare {name}"], "the same part of the bare start")
        else:
            yield figure.alone(group, name, seconds[name])


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


def measure(mom: Mom, rounds: int) -> Seconds:
    """Each round has jobs of ours with and without a filter, and a bare guest, one after the other; the first does not count."""
    seconds: Seconds = {}
    with closing(Bare(mom, "busybox")) as bare:
        for number in range(rounds + 1):
            unfiltered = {f"{name} {_UNFILTERED}": value for name, value in job(mom, _UNFILTERED).items()
                          if name in ("prologue", "epilogue")}
            for name, value in {**job(mom, "busybox"), **_bare(bare), **unfiltered}.items():
                if number:
                    seconds.setdefault(name, []).append(value)
    return seconds


def job(mom: Mom, queue: str) -> dict[str, float]:
    """Prologue, its phases, epilogue of a job, and the time from the guest's ready file to the prologue's exit."""
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
    phases = {name: float(value) for name, value in re.findall(r"Z prologue: phase ([a-z ]+) ([\d.]+) s$", Path(
        f"/var/log/vmbatch/{accepted.file_id}.log").read_text(), re.MULTILINE) if not name.startswith("guest ")}
    return {"prologue": took, "ready file": now - written, "epilogue": ended, _REST: took - sum(phases.values()), **phases}


def _bare(guest: Bare) -> dict[str, float]:
    guest.prepare()
    begin = time.monotonic()
    parts = guest.start()
    started = time.monotonic()
    guest.destroy()
    return {_START: started - begin, _END: time.monotonic() - started,
            **{f"bare {name}": value for name, value in parts.items()}}
