"""What a worker is asked to do, and what it answers."""

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field

from .tracer import Point

NOT_REACHED = "the hook ended before the point"


@dataclass(frozen=True)
class Case:
    """`kind` names a method of `play.Player`; the other fields are for it."""

    kind: str
    at: int = 0
    after: bool = False
    mutation: str = ""
    cleanup: str = "epilogue"
    begin: str = "nothing"
    seed: int = 0
    victim: str = ""

    def encode(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, line: str) -> "Case":
        """From one line."""
        return cls(**json.loads(line))


@dataclass
class Answer:
    """`leaks` has a line for each thing left, or for each promise broken; `where` says what was interrupted.

    `kinds` are those of the resources that the job owned in the end.
    """

    runs: int = 1
    leaks: list[str] = field(default_factory=list)
    where: str = ""
    points: list[Point] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def encode(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, line: str) -> "Answer":
        """From one line."""
        read = json.loads(line)
        read["points"] = [Point(**point) for point in read["points"]]
        return cls(**read)


def places(points: list[Point]) -> list[int]:
    """The points to interrupt: all, but of a series of equal ones the first two and the last."""
    chosen = []
    for index, point in enumerate(points):
        series = [points[index - back] == point for back in (1, 2) if index >= back]
        in_the_middle = series == [True, True] and points[index + 1: index + 2] == [point]
        if not in_the_middle:
            chosen.append(index + 1)
    return chosen


def new_places(points: list[Point], known: list[Point]) -> list[int]:
    """As `places`, but only points that another course of the same hook does not have."""
    matcher = difflib.SequenceMatcher(None, [_kind(point) for point in known], [_kind(point) for point in points], autojunk=False)
    new = {number for tag, _, _, begin, end in matcher.get_opcodes() if tag != "equal" for number in range(begin + 1, end + 1)}
    return [number for number in places(points) if number in new]


def _kind(point: Point) -> Point:
    """The point without what is the job's own."""
    return dataclasses.replace(point, what=re.sub(r"\d+\.lab(\.[0-9a-f]+)?|#\d+", "JOB", point.what))
