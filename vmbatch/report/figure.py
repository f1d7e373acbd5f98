"""A figure of a benchmark: ours beside a reference of the same run, their ratio, its spread, and the most that it may be."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from . import percentile


class Figure(msgspec.Struct, frozen=True):
    """One row. `ours` and `reference` are medians in `unit` (s, B or none).

    Without a reference there is no ratio, and ours is judged itself. `ratio` is the median of the ratios round by round, `spread`
    the middle half of what is judged, `limit` the most it may be.
    """

    group: str
    figure: str
    ours: float
    reference: float | None
    against: str
    unit: str
    ratio: float | None
    spread: tuple[float, float]
    limit: float | None
    rounds: int

    @property
    def judged(self) -> float:
        """What `spread` and `limit` are about."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether it is within its limit, if it has one."""
        return None if self.limit is None else self.judged <= self.limit


def beside(group: str, figure: str, ours: Sequence[float], reference: Sequence[float], against: str, *,
           limit: float | None = None, unit: str = "s") -> Figure:
    """Ours against a reference, of which each has a value in each round."""
    ratios = sorted(one / other for one, other in zip(ours, reference, strict=True))
    return Figure(group, figure, statistics.median(ours), statistics.median(reference), against, unit, statistics.median(ratios),
                  _middle(ratios), limit, len(ratios))


def alone(group: str, figure: str, ours: Sequence[float], *, limit: float | None = None, unit: str = "s") -> Figure:
    """What has no reference but its limit."""
    return Figure(group, figure, statistics.median(ours), None, "", unit, None, _middle(sorted(ours)), limit, len(ours))


def _middle(values: list[float]) -> tuple[float, float]:
    """Between which the middle half of sorted values lies."""
    return percentile(values, 0.25), percentile(values, 0.75)
