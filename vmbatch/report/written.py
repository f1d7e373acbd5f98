"""Figures as Markdown, and as JSON for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from . import Row
from .figure import Figure

Tables = Mapping[str, Sequence[Row]]
_HEAD = "| | ours | reference | ratio | middle half | limit | |\n|---|--:|--:|--:|--:|--:|---|"


_PHASES = "| phase | starts | P50 | P90 | P99 | most |\n|---|--:|--:|--:|--:|--:|"


def markdown(figures: Iterable[Figure], run: Mapping[str, str], picture: str = "", tables: Tables | None = None) -> str:
    """A table for each group; `run` is what is to be known of the run, `picture` the name of a file beside it.

    `tables` has seconds of phases by title.
    """
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.group, []).append(figure)
    lines = ["# Benchmarks", "", *(f"- {name}: {value}" for name, value in run.items()), ""]
    if picture:
        lines += [f"![ratios]({picture})", ""]
    for group, rows in groups.items():
        lines += [f"## {group}", "", _HEAD, *map(_row, rows), ""]
        against = {row.against for row in rows if row.against}
        if against:
            lines += [f"Reference: {'; '.join(sorted(against))}.", ""]
    for title, phases in (tables or {}).items():
        lines += [f"## {title}", "", _PHASES, *(
            " | ".join([f"| {each.phase}", str(each.jobs), *(
                quantity(value, "s") for value in (each.p50, each.p90, each.p99, each.most))]) + " |" for each in phases), ""]
    return "\n".join(lines)


def results(figures: Iterable[Figure], run: Mapping[str, str], tables: Tables | None = None) -> bytes:
    """JSON: `run`, `rows` with the fields of a figure, and `phases` with seconds of phases by title."""
    return msgspec.json.format(msgspec.json.encode({"run": run, "rows": list(figures), "phases": tables or {}})) + b"\n"


def quantity(value: float, unit: str) -> str:
    """With three digits, in a unit that suits it."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 0.9995 else f"{value:.2f} s" if abs(value) < 99.5 else f"{value:.0f} s"
    if unit == "B":
        for name in ("B", "KiB", "MiB"):
            if abs(value) < 1023.5:
                return f"{value:.3g} {name}" if abs(value) < 999.5 else f"{value:.0f} {name}"
            value /= 1024
        return f"{value:.2f} GiB"
    return f"{value:.4g}"


def judged(figure: Figure, value: float) -> str:
    """A value of what is judged of the figure, as people read it."""
    return quantity(value, figure.unit) if figure.ratio is None else f"{value:.2f}"


def _row(figure: Figure) -> str:
    low, high = figure.spread
    cells = [figure.figure, quantity(figure.ours, figure.unit),
             "" if figure.reference is None else quantity(figure.reference, figure.unit),
             "" if figure.ratio is None else f"{figure.ratio:.2f}",
             f"{judged(figure, low)} to {judged(figure, high)}",
             "" if figure.limit is None else judged(figure, figure.limit),
             {None: "", True: "met", False: "**over**"}[figure.met]]
    return f"| {' | '.join(cells)} |"
