"""How long the phases of jobs take, and why starts fail: from the history of one node, or of several."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from ..history import CANCELLED, FAILED, LOST, RAN, Record
from ..phase import PHASES, RUN

PROVISIONING = "provisioning"
"""All from admission to ready together."""
_ROWS = tuple(row for name in PHASES for row in ((PROVISIONING, name) if name == RUN else (name,)))


class Row(msgspec.Struct, frozen=True):
    """Seconds of a phase: of how many jobs, and below what half, nine tenths and 99 hundredths of them were, and all."""

    phase: str
    jobs: int
    p50: float
    p90: float
    p99: float
    most: float


class Group(msgspec.Struct, frozen=True):
    """The starts with one template on one node. Those that never ran count, but only as such: their phases were cut short."""

    template: str
    node: str
    starts: int
    ran: int
    failed: int
    cancelled: int
    lost: int
    rows: tuple[Row, ...]
    pooled: int = 0

    @property
    def counts(self) -> list[tuple[int, str]]:
        """How many of its starts there were of each kind of which there were any."""
        every = ((self.ran, "ran"), (self.pooled, "of these in a guest that had waited"), (self.failed, "failed"),
                 (self.cancelled, "cancelled"), (self.lost, "lost"))
        return [(count, name) for count, name in every if count]


class Cause(msgspec.Struct, frozen=True):
    """Starts that failed with one code (or, without codes, one fault): how many, and the last of them."""

    code: str
    fault: str
    starts: int
    last: float
    job: str
    what: str


def percentile(values: list[float], share: float) -> float:
    """Of sorted values, which must be there: linear between the two nearest."""
    at = (len(values) - 1) * share
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return min(values[low] + (values[high] - values[low]) * (at - low), values[high])


def row(phase: str, values: list[float]) -> Row:
    """Of sorted seconds, which must be there."""
    p50, p90, p99 = (round(percentile(values, share), 3) for share in (0.5, 0.9, 0.99))
    return Row(phase, len(values), p50, p90, p99, values[-1])


def short(template: str) -> str:
    """A template's name, without where it is and what all end with."""
    return os.path.basename(template).removesuffix(".xml") or "-"


def groups(records: Iterable[Record]) -> list[Group]:
    """By template and node, those with most starts first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((short(record.template), record.node), []).append(record)
    made = [_group(template, node, starts) for (template, node), starts in found.items()]
    return sorted(made, key=lambda group: (-group.starts, group.template, group.node))


def _group(template: str, node: str, starts: list[Record]) -> Group:
    count = {outcome: sum(record.outcome == outcome for record in starts) for outcome in (RAN, FAILED, CANCELLED, LOST)}
    ran = [record for record in starts if record.outcome == RAN]
    rows = []
    for name in _ROWS:
        values = sorted(record.provisioning if name == PROVISIONING else record.seconds[name]
                        for record in ran if name == PROVISIONING or name in record.seconds)
        if values:
            rows.append(row(name, values))
    return Group(template, node, len(starts), count[RAN], count[FAILED], count[CANCELLED], count[LOST], tuple(rows),
                 sum(record.pooled for record in ran))


def causes(records: Iterable[Record]) -> list[Cause]:
    """Why starts failed, the most frequent first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.failure is not None:
            found.setdefault((record.failure.code, record.failure.fault), []).append(record)
    made = []
    for (code, fault), starts in found.items():
        last = max(starts, key=lambda record: record.ended)
        made.append(Cause(code, fault, len(starts), last.ended, last.job, "" if last.failure is None else last.failure.what))
    return sorted(made, key=lambda cause: (-cause.starts, cause.code, cause.fault))
