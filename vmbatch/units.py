"""Sizes in bytes, durations in seconds, and points in time that a wait may not pass."""

import re
import time

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATIONS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes of `512M`, `20G`, `1048576`; factors of 1024. ValueError says what is right."""
    match = re.fullmatch(r"([0-9]{1,15})\s?([KMGT]?)(?:i?B)?", text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write for instance \"512M\" or \"20G\"")
    return int(match[1]) * _SIZES[match[2]]


def parse_duration(text: str) -> float:
    """Seconds of `300s`, `5min`, `250ms`. ValueError says what is right."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s?(ms|s|min|h|d)", text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration; write for instance \"90s\" or \"5min\"")
    return float(match[1]) * _DURATIONS[match[2]]


def format_size(size: int) -> str:
    """The shortest exact spelling that parse_size reads back."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return str(size)


class Deadline:
    """A point in monotonic time; `left` never goes below zero."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that remain."""
        return max(0.0, self.at - time.monotonic())

    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.at

    def earlier(self, seconds: float) -> "Deadline":
        """This deadline, or the one `seconds` from now if that comes first."""
        other = Deadline(seconds)
        return other if other.at < self.at else self
