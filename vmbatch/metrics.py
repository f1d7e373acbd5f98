"""Figures of this node for Prometheus, in its text format, by way of the node exporter's textfile directory.

Prometheus wants counters that only grow, and the history is rotated: so what has been counted is kept, with how far in which
file, and each run adds what is new. (https://prometheus.io/docs/instrumenting/exposition_formats/)
"""

from __future__ import annotations

import collections
import fcntl
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from . import admission, claim, drain, history, journal, status
from .config import Config
from .errors import NodeError, VmBatchError
from .history import Record
from .host import file, jsonlines
from .phase import PHASES
from .report import short

STATE = "/var/lib/vmbatch/metrics"
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
_DEAD = "dead"


class Histogram(msgspec.Struct):
    """How many values lay in each bucket, the last of which has no end; their sum."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.counts[next((at for at, end in enumerate(BUCKETS) if value <= end), len(BUCKETS))] += 1
        self.total += value


class Counted(msgspec.Struct):
    """All that has been counted. `read`: the bytes read of each file; labels are joined by tabs."""

    read: dict[str, int] = {}
    starts: dict[str, int] = {}
    failures: dict[str, int] = {}
    phases: dict[str, Histogram] = {}
    provisioning: dict[str, Histogram] = {}

    def add(self, record: Record) -> None:
        """One more start that is over; phases count if none was cut short."""
        template = short(record.template)
        _count(self.starts, template, record.outcome)
        if record.failure is not None:
            _count(self.failures, record.failure.code or "none", record.failure.fault)
        if record.outcome == history.RAN:
            self.provisioning.setdefault(_key(template), Histogram()).add(record.provisioning)
            for phase, seconds in record.seconds.items():
                self.phases.setdefault(_key(phase, template), Histogram()).add(seconds)


def _key(*labels: str) -> str:
    return "\t".join(label.replace("\t", " ") for label in labels)


def _count(counts: dict[str, int], *labels: str) -> None:
    counts[_key(*labels)] = counts.get(_key(*labels), 0) + 1


def count(directory: str) -> Counted:
    """Everything in the history, and what was there once; what is new is counted, and that kept. NodeError."""
    try:
        file.make_state_directory(os.path.dirname(STATE), 0o711)
        lock = os.open(os.path.dirname(STATE), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _known()
            known.read = {identity: at for path in jsonlines.files(directory, history.NAME)
                          for identity, at in _read(path, known)} if directory else {}
            file.replace(STATE, msgspec.json.encode(known), 0o600)
            return known
        finally:
            os.close(lock)
    except OSError as error:
        raise NodeError(f"{STATE} cannot be written: {error.strerror}", code="VB906") from None


def _known() -> Counted:
    """What was counted before; nothing if that cannot be understood, which Prometheus takes for a restart."""
    try:
        with open(STATE, "rb") as opened:
            return msgspec.json.decode(opened.read(), type=Counted)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return Counted()


def _read(path: str, known: Counted) -> Iterator[tuple[str, int]]:
    """Counts what is new in a file; (its identity, how far it was read). What is compressed was counted before that.

    Files are told apart by the start in their first line: names change, and inodes come again.
    """
    if path.endswith((".gz", ".xz")):
        return
    with open(path, "rb") as opened:
        first = history.parse(opened.readline())
        identity = "" if first is None else first.identity
        at = known.read.get(identity, 0)
        opened.seek(at)
        while (line := opened.readline()).endswith(b"\n"):
            record = history.parse(line)
            if record is not None:
                known.add(record)
            at = opened.tell()
        yield identity, at


def text(config: Config) -> str:
    """All figures. NodeError."""
    counted = count(config.log_history)
    return "".join(itertools.chain(_now(config), _counters(counted)))


def _now(config: Config) -> Iterator[str]:
    """What the node does now."""
    jobs = status.look()
    phases = dict.fromkeys((*PHASES[1:], _DEAD), 0)
    for each in jobs:
        phases[_DEAD if each.abandoned else each.phase] += 1
    yield from _family("vmbatch_jobs", "gauge", "Jobs on this node by what goes on; dead: left for the sweep.",
                       [("", {"phase": phase}, number) for phase, number in phases.items()])
    claims = [each for each, state in claim.look(claim.DIRECTORY) if state != claim.ASKING]
    yield from _family("vmbatch_claimed_cores", "gauge", "Cores that guests have or were promised.",
                       [("", {}, sum(each.cores for each in claims))])
    yield from _family("vmbatch_claimed_memory_bytes", "gauge", "Memory that guests have or were promised, overhead included.",
                       [("", {}, sum(each.memory for each in claims))])
    yield from _room(config)
    yield from _family("vmbatch_drained", "gauge", "Whether an admin has drained this node.",
                       [("", {}, int(drain.look() is not None))])
    waiting = collections.Counter((waits.template, waits.had > 0) for _path, _start, waits in journal.waiting())
    for name, had, what in (("waiting", False, "Guests that wait for jobs, and have had none."),
                            ("reusable", True, "Guests that have had a job, and wait for another one of the same user.")):
        yield from _family(f"vmbatch_{name}_guests", "gauge", what, [
            ("", {"template": template}, number) for (template, used), number in sorted(waiting.items()) if used == had])
    yield from _family("vmbatch_kept_jobs", "gauge", "Failed jobs whose disks are kept.",
                       [("", {}, sum(path.endswith(".kept") for path in journal.paths()))])


def _room(config: Config) -> Iterator[str]:
    """What the node has for guests, as far as it is limited and known now."""
    try:
        room = admission.room(config)
    except VmBatchError:
        return
    for name, value, what in (("slots", room.slots, "Guests that this node may have at once."),
                              ("cores", room.cores, "Cores that this node has for guests."),
                              ("memory_bytes", room.memory, "Memory that this node has for guests.")):
        if value is not None:
            yield from _family(f"vmbatch_room_{name}", "gauge", what, [("", {}, value)])


def _counters(counted: Counted) -> Iterator[str]:
    yield from _family("vmbatch_starts_total", "counter", "Starts of jobs that are over, by how they ended.",
                       [("", dict(zip(("template", "outcome"), key.split("\t"), strict=True)), value)
                        for key, value in sorted(counted.starts.items())])
    yield from _family("vmbatch_start_failures_total", "counter", "Starts that failed, by code and whose fault it was.",
                       [("", dict(zip(("code", "fault"), key.split("\t"), strict=True)), value)
                        for key, value in sorted(counted.failures.items())])
    yield from _family("vmbatch_provisioning_seconds", "histogram", "From a prologue's start to a guest that is ready.",
                       _histograms(counted.provisioning, ("template",)))
    yield from _family("vmbatch_job_phase_seconds", "histogram", "How long the phases of jobs took that ran.",
                       _histograms(counted.phases, ("phase", "template")))


def _histograms(found: Mapping[str, Histogram], names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str], float]]:
    for key, histogram in sorted(found.items()):
        labels = dict(zip(names, key.split("\t"), strict=True))
        below = 0
        for end, number in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
            below += number
            yield "_bucket", {**labels, "le": end}, below
        yield "_sum", labels, histogram.total
        yield "_count", labels, below


def _family(name: str, kind: str, what: str, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> Iterator[str]:
    """A metric's lines; a metric without samples has none."""
    head = f"# HELP {name} {what}\n# TYPE {name} {kind}\n"
    for suffix, labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{head}{name}{suffix}{f'{{{inner}}}' if inner else ''} {value:.16g}\n"
        head = ""


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
