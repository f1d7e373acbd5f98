"""Measures commands side by side: in turns, so that whatever else the machine does hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

Seconds = dict[str, list[float]]


def measure(candidates: Mapping[str, Callable[[], None]], rounds: int) -> Seconds:
    """Seconds of each candidate in each round, after one round that does not count."""
    seconds: Seconds = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def table(title: str, seconds: Seconds, reference: str) -> str:
    """A table of medians, with the ratio to the reference in the same round: median, and the middle half of the ratios."""
    lines = [f"### {title}", "", "| | median ms | best ms | ratio | middle half |", "|---|---|---|---|---|"]
    for name, values in seconds.items():
        ratios = sorted(value / floor for value, floor in zip(values, seconds[reference], strict=True))
        quarter = len(ratios) // 4
        lines.append(f"| {name} | {statistics.median(values) * 1000:.1f} | {min(values) * 1000:.1f} | "
                     f"{statistics.median(ratios):.2f} | {ratios[quarter]:.2f}-{ratios[-1 - quarter]:.2f} |")
    return "\n".join(lines) + "\n"
