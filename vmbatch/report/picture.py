"""Figures as an SVG: for each a dot at its ratio, a bar for the middle half, a mark at its limit, on one logarithmic scale."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

from .figure import Figure
from .written import judged, quantity

_LEFT, _RIGHT, _WIDTH = 330, 250, 1000
_ROW, _HEAD, _FOOT = 24, 34, 40
_STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
.name, .said { fill: #1b1f27; } .soft { fill: #626b7a; font-size: 12px; } .group { fill: #1b1f27; font-weight: 650; }
.grid { stroke: #e0e4ea; } .one { stroke: #8f98a8; stroke-width: 1.5; }
.bar { stroke: #3b7dd8; stroke-width: 7; stroke-linecap: round; opacity: .35; } .dot { fill: #3b7dd8; }
.over .bar { stroke: #c62828; } .over .dot { fill: #c62828; } .limit { stroke: #1b1f27; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #1a1e25; } .name, .said, .group { fill: #e7eaf0; } .soft { fill: #98a2b3; } .grid { stroke: #2c323c; }
  .one { stroke: #7b8496; } .bar { stroke: #5b9bf0; } .dot { fill: #5b9bf0; } .over .bar { stroke: #ff6b6b; }
  .over .dot { fill: #ff6b6b; } .limit { stroke: #e7eaf0; }
}
"""


def picture(figures: Iterable[Figure], title: str) -> str:
    """A whole SVG document. A figure without a ratio stands by its share of its limit; one that has neither is left out."""
    groups: dict[str, list[tuple[Figure, float]]] = {}
    for figure in figures:
        unit = 1.0 if figure.ratio is not None else figure.limit
        if unit and figure.judged > 0:
            groups.setdefault(figure.group, []).append((figure, unit))
    shown = [row for rows in groups.values() for row in rows]
    scale = _Scale([edge for figure, unit in shown for edge in (*figure.spread, figure.judged, figure.limit or unit)
                    for edge in (edge / unit,)])
    height = _HEAD + _FOOT + _ROW * (len(shown) + len(groups))
    bottom = height - _FOOT + 6
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
             f'aria-label="{html.escape(title)}"><style>{_STYLE}</style>',
             f'<text class="group" x="12" y="22">{html.escape(title)}</text>']
    for tick in scale.ticks():
        at = scale.at(tick)
        parts.append(f'<line class="{"one" if tick == 1 else "grid"}" x1="{at}" x2="{at}" y1="{_HEAD}" y2="{bottom}"/>'
                     f'<text class="soft" x="{at}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="soft" x="12" y="{height - 4}">times the reference, or of the limit where there is none; '
                 "the bar is the middle half of the rounds, the mark the limit</text>")
    top = _HEAD
    for group, rows in groups.items():
        parts.append(f'<text class="group" x="12" y="{top + 17}">{html.escape(group)}</text>')
        top += _ROW
        for figure, unit in rows:
            parts.append(_row(figure, unit, scale, top + _ROW // 2))
            top += _ROW
    return "\n".join([*parts, "</svg>\n"])


def _row(figure: Figure, unit: float, scale: _Scale, middle: int) -> str:
    low, high = (scale.at(edge / unit) for edge in figure.spread)
    known = quantity(figure.ours, figure.unit)
    said = f"{judged(figure, figure.judged)}  ({known})" if figure.ratio is not None else known
    limit = ""
    if figure.limit is not None:
        at = scale.at(figure.limit / unit)
        limit = f'<line class="limit" x1="{at}" x2="{at}" y1="{middle - 8}" y2="{middle + 8}"/>'
        said += f", at most {judged(figure, figure.limit)}"
    return (f'<g class="{"over" if figure.met is False else "well"}">'
            f'<text class="name" x="24" y="{middle + 4}">{html.escape(figure.figure)}</text>'
            f'<line class="bar" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="dot" cx="{scale.at(figure.judged / unit)}" cy="{middle}" r="4.5"/>{limit}'
            f'<text class="said" x="{_WIDTH - _RIGHT + 16}" y="{middle + 4}">{html.escape(said)}</text></g>')


class _Scale:
    """From a ratio to a place from left to right."""

    def __init__(self, values: list[float]) -> None:
        known = [math.log10(value) for value in values if value > 0]
        self.low = min([0.0, *known]) - 0.1
        self.high = max([0.0, *known]) + 0.1

    def at(self, value: float) -> float:
        share = (math.log10(max(value, 10 ** self.low)) - self.low) / (self.high - self.low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def ticks(self) -> list[float]:
        return [round(digit * 10.0 ** power, 12) for power in range(math.floor(self.low), math.ceil(self.high) + 1)
                for digit in ((1, 2, 5) if self.high - self.low < 2.5 else (1,))
                if self.low <= math.log10(digit) + power <= self.high]
