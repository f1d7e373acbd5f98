"""Measures commands side by side: in turns, so that whatever else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping

from vmbatch.report import figure
from vmbatch.report.figure import Figure

Seconds = dict[str, list[float]]


def measure(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each candidate in each round, after one round that does not count."""
    seconds: Seconds = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def against(group: str, seconds: Seconds, reference: str, limits: Mapping[str, float] | None = None) -> list[Figure]:
    """A figure for each of the others, against the reference in the same round; `limits` are on their ratios."""
    return [figure.beside(group, name, values, seconds[reference], reference, limit=(limits or {}).get(name))
            for name, values in seconds.items() if name != reference]
