"""One line for each start of a job that is over: how long each phase took, how it ended, and why. It outlives the job.

The file is `jobs.jsonl`. A crash may leave a line twice: starts are told apart by what `Record.identity` says, and the first line
counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from .errors import NodeError
from .host import clock, jsonlines
from .phase import EPILOGUE, PHASES, QUEUE, RUN, phase_of
from .status import Failure, Status

NAME = "jobs.jsonl"
RAN, FAILED, CANCELLED, LOST = "ran", "failed", "cancelled", "lost"
"""The job had its guest; the start failed; the batch system ended it first; its prologue was killed, or the node went down."""


class Span(msgspec.Struct, frozen=True):
    """A step of a hook: it began `begin` seconds after the prologue, and took so many `seconds`."""

    step: str
    begin: float
    seconds: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A start that is over. `started` and `ended` are seconds since 1970, `memory` is the guest's in bytes.

    `seconds` has those of each phase, of which only those of `queue` (absent where the batch system does not tell it) lie before
    the start. `provisioning` is what came before `run`, without `queue`; `running` is absent where the job never ran. `status` is
    the job's exit status, where the batch system says it. `pooled`: its guest had waited for it.
    """

    job: str
    token: str
    user: str
    queue: str
    batch: str
    node: str
    template: str = ""
    guest: str = ""
    address: str = ""
    cores: int = 0
    memory: int = 0
    started: float
    ended: float
    outcome: str
    provisioning: float
    running: float | None = None
    seconds: dict[str, float] = {}
    steps: tuple[Span, ...] = ()
    status: int | None = None
    why: str = ""
    failure: Failure | None = None
    pooled: bool = False

    @property
    def identity(self) -> str:
        """What no other start has: jobs that had the same guest, one after the other, have its token."""
        return f"{self.token} {self.started}"


_decoder = msgspec.json.Decoder(Record)


def of(known: Status, why: str, status: int | None, now: float | None = None) -> Record:
    """The record of a start that is over now (in seconds since boot)."""
    over = clock.uptime() if now is None else now
    first = known.steps[0].at
    ends = [*(step.at for step in known.steps[1:]), over]
    steps = tuple(Span(step.name, _round(step.at - first), _round(max(0.0, end - step.at)))
                  for step, end in zip(known.steps, ends, strict=True))
    seconds = dict.fromkeys(PHASES, 0.0)
    for span in steps:
        seconds[phase_of(span.step)] += span.seconds
    if known.queued is not None:
        seconds[QUEUE] = known.queued
    seconds = {name: _round(value) for name, value in seconds.items() if value or (name == RUN and known.running)}
    outcome = (FAILED if known.failure is not None else CANCELLED if known.cancelled else RAN if known.running else LOST)
    return Record(
        job=known.job, token=known.token, user=known.user, queue=known.queue, batch=known.batch, node=known.node,
        template=known.template, guest=known.guest, address=known.address, cores=known.cores, memory=known.memory,
        started=known.started, ended=known.started + over - first, outcome=outcome,
        provisioning=_round(sum(value for name, value in seconds.items() if name not in (QUEUE, RUN, EPILOGUE))),
        running=seconds[RUN] if known.running else None, seconds=seconds, steps=steps, status=status, why=why,
        failure=known.failure, pooled=bool(known.pooled))


def _round(seconds: float) -> float:
    """Clocks say no more than that."""
    return round(seconds, 3)


def write(directory: str, record: Record) -> None:
    """Adds a line; without a directory there is no history. NodeError."""
    if not directory:
        return
    try:
        jsonlines.append(directory, NAME, msgspec.json.encode(record), durable=False)
    except OSError as error:
        raise NodeError(f"{os.path.join(directory, NAME)} cannot be written: {error.strerror}",
                        "see [log] history in vmbatch.conf", code="VB906") from None


def records(places: Iterable[str]) -> Iterator[Record]:
    """All in files, or in directories with what logrotate(8) has put aside, that are there; each start once. NodeError."""
    seen: set[str] = set()
    for place in filter(os.path.exists, places):
        for line in jsonlines.all_lines(place, NAME) if os.path.isdir(place) else jsonlines.lines(place):
            record = parse(line)
            if record is not None and record.identity not in seen:
                seen.add(record.identity)
                yield record


def parse(line: bytes) -> Record | None:
    """A line; None if it is none, or torn."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


