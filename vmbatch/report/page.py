"""The report as one HTML page that needs nothing else, and works off-line."""

from __future__ import annotations

import html
import os
import re
import time
from collections.abc import Iterable

import msgspec

from ..history import RAN, Record
from ..phase import PHASES, phase_of
from . import Cause, Group, causes, groups, percentile, short

MOST_JOBS = 5000
"""The page shows so many jobs one by one, the latest; its tables count all."""
_FORM = os.path.join(os.path.dirname(__file__), "page.html")


def page(records: Iterable[Record], now: float) -> str:
    """`now` in seconds since 1970."""
    every = sorted(records, key=lambda record: record.started)
    shown = every[-MOST_JOBS:]
    with open(_FORM, encoding="utf-8") as opened:
        form = opened.read()
    nodes = sorted({record.node for record in every})
    parts = {
        "TITLE": html.escape(f"VmBatch on {_several(nodes)}"),
        "HEADING": html.escape(f"Jobs in guests on {_several(nodes)}"),
        "SPAN": html.escape(_span(every, len(shown), now)),
        "TILES": "".join(_tiles(every)),
        "GROUPS": "".join(map(_table, groups(every))),
        "CAUSES": _causes(causes(every)),
        "DATA": _script({"phases": PHASES, "jobs": [_job(record) for record in shown]}),
    }
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], form)


def _several(names: list[str]) -> str:
    return ", ".join(names) if 0 < len(names) <= 4 else f"{len(names)} nodes"


def _span(every: list[Record], shown: int, now: float) -> str:
    made = f"made {_moment(now)}"
    if not every:
        return f"No job yet; {made}"
    first, last = _moment(every[0].started), _moment(max(record.ended for record in every))
    less = "" if shown == len(every) else f"; the pictures have the last {shown:,} of {len(every):,} starts"
    return f"{first} to {last}, {made}{less}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _tiles(every: list[Record]) -> list[str]:
    ran = [record for record in every if record.outcome == RAN]
    ready = sorted(record.provisioning for record in ran)
    failed = sum(record.failure is not None for record in every)
    busy = sum(record.running or 0.0 for record in ran)
    made = sum(ready)
    figures = [(f"{len(every):,}", "starts", ""),
               (f"{failed:,}", "failed", f"{failed / len(every):.1%} of all" if every else ""),
               (_seconds(percentile(ready, 0.5)) if ready else "–", "to a guest, median", "provisioning, without the queue"),
               (_seconds(percentile(ready, 0.99)) if ready else "–", "to a guest, 99 %", "")]
    if busy + made:
        figures.append((f"{busy / (busy + made):.1%}", "spent running", "the rest on making guests"))
    return [f'<div class="tile"><b>{html.escape(figure)}</b><span>{what}</span><small>{html.escape(more)}</small></div>'
            for figure, what, more in figures]


def _seconds(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.1f} h"


def _table(group: Group) -> str:
    counts = [f"{count:,} {name}" for count, name in group.counts]
    rows = "".join(
        f'<tr class="{row.phase}"><th scope="row"><i style="background:var(--{row.phase},transparent)"></i>{row.phase}</th>'
        + "".join(f"<td>{_seconds(value)}</td>" for value in (row.p50, row.p90, row.p99, row.most)) + "</tr>"
        for row in group.rows)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("phase", "p50", "p90", "p99", "most"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else "<p>None of them ran.</p>"
    return (f'<article><h3>{html.escape(group.template)} <small>on {html.escape(group.node)}</small></h3>'
            f'<p>{html.escape(", ".join(counts))}</p>{_bar(group)}{table}</article>')


def _bar(group: Group) -> str:
    """The medians of provisioning's phases, side by side."""
    parts = [(row.phase, row.p50) for row in group.rows if row.phase in PHASES[1:-2] and row.p50]
    whole = sum(value for _, value in parts)
    pieces = "".join(f'<span style="flex:{value / whole:.4f};background:var(--{name})" title="{name} {_seconds(value)}"></span>'
                     for name, value in parts)
    return f'<div class="bar" role="img" aria-label="median of each phase of provisioning">{pieces}</div>' if parts else ""


def _causes(found: list[Cause]) -> str:
    if not found:
        return "<p>No start has failed.</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name in ("code", "whose fault", "starts", "last", "job", "what failed"))
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in (
            cause.code or "–", cause.fault, f"{cause.starts:,}", _moment(cause.last), cause.job, cause.what)) + "</tr>"
        for cause in found)
    return f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _job(record: Record) -> dict[str, object]:
    return {
        "job": record.job, "user": record.user, "node": record.node, "template": short(record.template),
        "queue": record.seconds.get("queue"), "at": round(record.started, 3), "outcome": record.outcome,
        "steps": [[PHASES.index(phase_of(span.step)), span.step, span.begin, span.seconds] for span in record.steps],
        "ready": record.provisioning, "end": round(record.ended - record.started, 3), "status": record.status,
        "why": record.why, "code": record.failure.code if record.failure else "", "cores": record.cores,
        "memory": record.memory, "address": record.address,
    }


def _script(data: object) -> str:
    """JSON that cannot end the script in which it stands."""
    text = msgspec.json.encode(data).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
