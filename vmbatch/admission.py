"""Whether this node has room for one more guest, and when its start may begin: in the order in which jobs came.

Room is counted from claims, never from what the node's memory looks like now: guests fill theirs later.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from . import claim as claims
from .claim import ASKING, HELD, STARTING, WAITING, Claim
from .config import Config
from .errors import BusyError, JobError, SiteError, VmBatchError
from .grant import Grant
from .host import clock, file, libvirtd, lock
from .job import Job
from .resource import Work
from .template import Template, own_size
from .units import Deadline

_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _LOCK_PAUSE_SECONDS = 0.1, 2.0, 0.005
"""Whoever stands at the end of a long row looks less often."""


class Room(msgspec.Struct, frozen=True):
    """What a node has for all its guests, in guests, cores and bytes; None for no limit."""

    slots: int | None
    cores: int | None
    memory: int | None

    def lacks(self, wanted: Claim, others: Iterable[Claim]) -> str:
        """What there is not enough of for one more guest beside others, in words; '' if there is room."""
        beside = list(others)
        if self.slots is not None and len(beside) >= self.slots:
            return f"a slot, and none of {self.slots} is free"
        return (_lacks("cores", wanted.cores, sum(other.cores for other in beside), self.cores)
                or _lacks("MiB of memory", _mib(wanted.memory), sum(_mib(other.memory) for other in beside),
                          None if self.memory is None else self.memory >> 20))


def _lacks(what: str, needed: int, taken: int, total: int | None) -> str:
    if total is None or needed + taken <= total:
        return ""
    what = what.removesuffix("s") if needed == 1 else what
    if taken == 0:
        return f"{needed} {what}, and this node has {max(total, 0)} for guests"
    return f"{needed} {what}, and {max(total - taken, 0)} of {total} are free"


def _mib(size: int) -> int:
    return -(-size >> 20)


def room(config: Config) -> Room:
    """Of this node, by its configuration; what that leaves to the node itself is asked of libvirt. NodeError."""
    slots, cores, memory = config.admission_slots, config.admission_cores, config.admission_memory
    if "node" in (cores, memory):
        processors, size = libvirtd.node_size(config.libvirt_uri)
        cores = processors - config.admission_reserve_cores if cores == "node" else cores
        memory = size - config.admission_reserve_memory if memory == "node" else memory
    return Room(*(value if isinstance(value, int) else None for value in (slots, cores, memory)))


def size(form: Template, granted: Grant) -> tuple[int, int]:
    """(cores, bytes of memory) that a guest sees."""
    cores, memory = own_size(form.root)
    return granted.cores or cores, granted.memory or memory


def claim(job: Job, form: Template, granted: Grant, config: Config, owner: clock.ProcessIdentity) -> Claim:
    """What a job's guest takes of the node."""
    cores, memory = size(form, granted)
    overhead = form.resources.overhead or config.admission_overhead
    return Claim(directory=claims.DIRECTORY, token=job.token, job=job.id, cores=cores, memory=memory + overhead,
                 asked=time.monotonic(), owner=owner)


def check(wanted: Claim, granted: Grant, here: Room) -> None:
    """JobError for a job that can never run here by what it asks for, SiteError where its template asks for that."""
    lack = here.lacks(wanted, ())
    if not lack:
        return
    what = f"the guest needs {lack}"
    asked = msgspec.structs.replace(wanted, cores=0 if granted.cores is None else wanted.cores,
                                    memory=0 if granted.memory is None else wanted.memory)
    if msgspec.structs.replace(here, slots=None).lacks(asked, ()):
        raise JobError(what, "ask for less, or for another node", code="VB204")
    raise SiteError(what, "this node is too small for the queue's template, or see [admission] in vmbatch.conf", code="VB909")


class Spare(Protocol):
    """Claims that make room for others."""

    def claims(self, all_claims: Iterable[Claim]) -> list[Claim]:
        """Those among all."""

    def end(self, chosen: Claim) -> None:
        """Gives one back, if it still is to spare."""


def enter(wanted: Claim, here: Room, config: Config, work: Work, spare: Spare | None = None) -> None:
    """Waits a little for room, behind all who asked before and still wait; what is to `spare` makes room. BusyError."""

    def taken(others: list[tuple[Claim, str]]) -> list[Claim]:
        return [other for other, state in others if state != ASKING or _before(other, wanted)]

    def missing(others: list[tuple[Claim, str]]) -> str:
        return here.lacks(wanted, taken(others))

    def relieve(others: list[tuple[Claim, str]]) -> bool:
        beside = taken(others)
        spared = [] if spare is None else spare.claims(beside)
        if spare is None or not spared or here.lacks(wanted, [other for other in beside if other not in spared]):
            return False
        spare.end(spared[0])
        return True

    def refusal(lack: str) -> VmBatchError:
        return BusyError(f"this node has no room for the guest now: it needs {lack}", "the job can start when others have ended",
                         code="VB904")

    _wait(wanted, (ASKING, HELD), missing, refusal, work.deadline.earlier(config.admission_wait), work, relieve)


def begin(wanted: Claim, config: Config, work: Work) -> None:
    """Waits for this start's turn to make its guest; what remains of its time then is for the boot. BusyError."""
    left = work.deadline.left() - config.timeouts_boot * config.timeouts_scale
    patience = work.deadline.earlier(max(config.admission_wait, left))

    def missing(others: list[tuple[Claim, str]]) -> str:
        starting = sum(state == STARTING and other.is_alive() for other, state in others)
        before = sum(state == WAITING and _before(other, wanted) for other, state in others)
        return throttle(starting + before, wanted.memory, config)

    def refusal(lack: str) -> VmBatchError:
        return BusyError(f"this node starts no more guests now: {lack}", "see [admission] in vmbatch.conf", code="VB905")

    wanted.move(HELD, WAITING)
    _wait(wanted, (WAITING, STARTING), missing, refusal, patience, work)


def begin_at_once(wanted: Claim) -> None:
    """For a job on several nodes, whose guests wait for each other: nodes that let them wait, too, could wait for ever."""
    wanted.move(HELD, STARTING)


def throttle(starting: int, memory: int, config: Config) -> str:
    """Why no guest with so many bytes of memory should be started now, beside so many that are being started; '' if it may."""
    if isinstance(config.admission_starts, int) and starting >= config.admission_starts:
        return f"others are being started: {starting}"
    if isinstance(config.admission_load, float) and (load := os.getloadavg()[0]) > config.admission_load:
        return f"the load is {load:.1f}"
    if isinstance(config.admission_free_memory, int) and (free := _available()) < memory + config.admission_free_memory:
        return f"{_mib(free)} MiB of memory are free"
    space = os.statvfs(file.nearest(config.spool_directory))
    if space.f_bavail * space.f_frsize < config.spool_keep_free:
        return f"{config.spool_directory} has {space.f_bavail * space.f_frsize >> 20} MiB free"
    return ""


def _available() -> int:
    """Bytes that can be had without swapping (proc(5), MemAvailable)."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def _before(other: Claim, wanted: Claim) -> bool:
    return other.precedes(wanted) and other.is_alive()


def _wait(wanted: Claim, states: tuple[str, str], missing: Callable[[list[tuple[Claim, str]]], str],
          refusal: Callable[[str], VmBatchError], patience: Deadline, work: Work,
          relieve: Callable[[list[tuple[Claim, str]]], bool] = lambda _others: False) -> None:
    """`relieve` may see to it that less is missing, and says whether to look again at once."""
    said = ""
    while True:
        work.alive()
        with lock.held(wanted.directory, work.deadline, _LOCK_PAUSE_SECONDS):
            others = [pair for pair in claims.look(wanted.directory) if pair[0].token != wanted.token]
            lack = missing(others)
            if not lack:
                wanted.move(*states)
                return
        if relieve(others):
            continue
        if patience.passed():
            raise refusal(lack)
        if not said:
            said = lack
            work.say(f"waiting: {lack}")
        ahead = sum(state == states[0] and other.precedes(wanted) for other, state in others)
        time.sleep(min(_PAUSE_SECONDS * (1 + ahead), _LONGEST_PAUSE_SECONDS, patience.left()))
