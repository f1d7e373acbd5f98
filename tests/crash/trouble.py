"""Cases in which not the hook is killed, but what it needs fails: the disk is full, libvirtd or the share does not answer."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab import mom, nest, place

from . import hooks
from .case import Answer, Case
from .tracer import Point, Tracer, Wanted

if TYPE_CHECKING:
    from .play import Player

WRITES = frozenset((
    "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "rename", "renameat",
    "renameat2", "write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range", "fallocate", "fsync", "fdatasync",
))
_HANG_SECONDS = 15.0
"""Longer than any hook with little patience takes."""
_HOOK_SECONDS = 30
_STOPPED_SECONDS = 0.3


def writes(point: Point) -> bool:
    """Whether a full disk can refuse it; the job's streams are asked afterwards what the user was told."""
    return (point.call in WRITES and "libvirt-sock" not in point.what and not point.what.startswith(("port ", "/memfd:"))
            and not point.what.endswith((".ER", ".OU")))


def starts(point: Point) -> bool:
    """Whether it is a step towards a helper's work."""
    return point.call == "execve" and point.what in ("/usr/bin/setpriv", "/bin/sh")


def concerns(victim: str) -> Callable[[Point], bool]:
    """Whether a point needs the daemon."""
    if victim == "share":
        return lambda point: point.what.startswith(str(place.SHARE))
    return lambda point: "libvirt-sock" in point.what


def _numbered(chosen: Callable[[Point], bool], number: int) -> Wanted:
    """The point of this number among those that are chosen, from 1."""
    seen = 0

    def wanted(_: int, point: Point) -> bool:
        nonlocal seen
        seen += chosen(point)
        return seen == number and chosen(point)

    return wanted


def _hook(player: "Player", case: Case) -> tuple[mom.Job, int]:
    """The job, and the hook that is to meet trouble."""
    if case.begin == "epilogue":
        kept = player.kept_state("handed-over")
        kept.restore(player.node)
        return kept.job, player.mom.start_epilogue(kept.job, name=hooks.hook("epilogue", case.mutation)).pid
    job = player.accept()
    return job, player.mom.start_prologue(job, hooks.hook("prologue", case.mutation)).pid


def full(player: "Player", case: Case) -> Answer:
    """The write number `at` is refused, with `after` all later ones, too; a prologue that fails must say so and leave nothing."""
    first = _numbered(writes, case.at)
    begun = False

    def refused(number: int, point: Point) -> bool:
        nonlocal begun
        hit = first(number, point)
        begun = begun or hit
        return hit or (begun and case.after and writes(point))

    job, leader = _hook(player, case)
    tracer = Tracer(leader, lambda _number, _point: False)
    tracer.refused = refused
    trace = tracer.run()
    said = []
    if case.begin == "prologue" and trace.status:
        text = job.errors.decode()
        if trace.status != 2 or "defect" in text or "cannot run" in text or "could not start" not in text:
            said.append(f"the prologue ended with {trace.status}: {text}")
        said += player.node.left()
    return player.answer(trace, said + player.clean(job, "epilogue"))


@contextmanager
def _victim(player: "Player", case: Case) -> Iterator[int]:
    if case.victim == "libvirtd":
        yield nest.libvirtd()
        return
    player.node.clear()
    server = nest.serve_share()
    player.node.daemons.add(server)
    try:
        yield server
    finally:
        nest.unserve_share()
        player.node.daemons.discard(server)


def stopped(player: "Player", case: Case) -> Answer:
    """`victim` does not answer from the point number `at` of its own until the hook has ended, as it must."""
    with _victim(player, case) as daemon:
        job, leader = _hook(player, case)
        tracer = Tracer(leader, _numbered(concerns(case.victim), case.at))
        said: list[str] = []

        def go_on() -> None:
            os.kill(daemon, signal.SIGCONT)

        def hung() -> None:
            said.append(f"the hook waited for {case.victim} until that answered again")
            go_on()

        late = threading.Timer(_HANG_SECONDS, hung)

        def stop() -> None:
            os.kill(daemon, signal.SIGSTOP)
            late.start()

        tracer.before, tracer.ended = stop, go_on
        trace = tracer.run()
        late.cancel()
        go_on()
        if case.begin == "prologue" and trace.status not in (0, 2):
            said.append(f"the prologue ended with {trace.status}: {job.errors.decode()}")
        return player.answer(trace, said + player.clean(job, case.cleanup))


def restarted(player: "Player", case: Case) -> Answer:
    """libvirtd is killed at a point of its own, and a new one started, without the guest: the test driver's end with it."""
    job, leader = _hook(player, case)
    tracer = Tracer(leader, _numbered(concerns("libvirtd"), case.at))

    def restart() -> None:
        player.node.daemons.discard(nest.kill_libvirtd())
        player.node.daemons.add(nest.start_libvirtd())
        player.node.reconnect()

    tracer.before = restart
    trace = tracer.run()
    said = [] if trace.status in (0, 2) or case.begin == "epilogue" else [f"the prologue ended with {trace.status}"]
    return player.answer(trace, said + player.clean(job, case.cleanup))


def flying(player: "Player", case: Case) -> Answer:
    """The prologue is killed with a request in the hands of a libvirtd that goes on only once the epilogue has begun."""
    daemon = nest.libvirtd()
    job, leader = _hook(player, case)
    tracer = Tracer(leader, _numbered(concerns("libvirtd"), case.at))
    tracer.before = lambda: os.kill(daemon, signal.SIGSTOP)
    tracer.after = tracer.kill
    trace = tracer.run()
    epilogue = player.mom.start_epilogue(job)
    try:
        status = epilogue.wait(_STOPPED_SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(daemon, signal.SIGCONT)
        status = epilogue.wait(_HOOK_SECONDS)
    os.kill(daemon, signal.SIGCONT)
    said = [] if status == 0 else [f"the epilogue ended with {status}: {job.errors.decode()}"]
    return player.answer(trace, said)


def lonely(player: "Player", case: Case) -> Answer:
    """The prologue alone is killed, not its session, when it starts a helper: that must not begin its work."""
    job, leader = _hook(player, case)
    tracer = Tracer(leader, _numbered(starts, case.at))
    tracer.before = lambda: _kill(leader)
    trace = tracer.run()
    said = [f"a helper went on: {point}" for point in trace.points[trace.number:]
            if point.call in WRITES and point.program not in ("prologue", "setpriv", "sh")]
    return player.answer(trace, said + player.clean(job, "epilogue"))


def _kill(leader: int) -> None:
    """Until all its threads are dead, while its helper is under way; the tracer reaps them."""
    os.kill(leader, signal.SIGKILL)
    over = time.monotonic() + _HOOK_SECONDS
    while time.monotonic() < over and any(_state(thread) not in b"ZX" for thread in Path(f"/proc/{leader}/task").glob("*/stat")):
        time.sleep(0.001)


def _state(thread: Path) -> bytes:
    with contextlib.suppress(OSError):
        return thread.read_bytes().rpartition(b")")[2].split()[0]
    return b"X"


TROUBLES: dict[str, "Callable[[Player, Case], Answer]"] = {
    "full": full, "lonely": lonely, "stopped": stopped, "restarted": restarted, "flying": flying,
}
