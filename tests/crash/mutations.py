"""The mistakes that the matrix must find, each with the cases that look for it; `mutant` makes the mistakes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .case import Case, places
from .play import JOURNALS
from .tracer import Point
from .trouble import starts, writes

_EFFECTS = ("mkdir", "chmod", "linkat", "connect", "write", "unlink", "unlinkat", "rmdir")


class Points(NamedTuple):
    """The points of a whole prologue, and of an epilogue after it."""

    prologue: list[Point]
    epilogue: list[Point]


def _effects(points: list[Point]) -> list[int]:
    return [number for number in places(points) if points[number - 1].call in _EFFECTS]


def _kills(name: str, calls: tuple[str, ...]) -> Callable[[Points], Iterator[Case]]:
    """The prologue killed after each of the calls, then one true epilogue."""
    return lambda points: (Case("prologue", number, after=True, mutation=name) for number in _effects(points.prologue)
                           if points.prologue[number - 1].call in calls)


def _unlink_first(points: Points) -> Iterator[Case]:
    """The epilogue killed after each effect, then a true one."""
    return (Case("epilogue", number, after=True, mutation="unlink-first", begin="handed-over")
            for number in _effects(points.epilogue))


def _before_journal(points: Points) -> list[int]:
    return [number for number, point in enumerate(points.prologue, 1) if point.call == "linkat"][:1]


def _no_end_marker(points: Points) -> Iterator[Case]:
    """The epilogue does its work while there is no journal yet."""
    return (Case("overlap", number, mutation="no-end-marker", begin="epilogue", cleanup="mutant")
            for number in _before_journal(points))


def _no_wait(points: Points) -> Iterator[Case]:
    """The epilogue does its work while the prologue is about to act, acts, and is killed."""
    return (Case("overlap", number, mutation="no-wait-for-lock", begin="killed", cleanup="mutant")
            for number in _effects(points.prologue) if points.prologue[number - 1].call == "mkdir")


def _no_check(points: Points) -> Iterator[Case]:
    """The prologue begins after its epilogue has ended, and does not notice."""
    return (Case("overlap", number, mutation="no-end-check", begin="epilogue") for number in _before_journal(points))


def _hangs(name: str, victim: str) -> Callable[[Points], Iterator[Case]]:
    """Whom the prologue needs does not answer."""
    return lambda _points: iter((Case("stopped", 1, mutation=name, begin="prologue", victim=victim),))


def _no_space(points: Points) -> Iterator[Case]:
    """The disk is full for a moment, and takes a line of the journal not."""
    refusable = [point for point in points.prologue if writes(point)]
    return (Case("full", number, mutation="no-space-unseen", begin="prologue")
            for number, point in enumerate(refusable, 1) if point.call == "write" and point.what.startswith(JOURNALS))


def _orphans(points: Points) -> Iterator[Case]:
    """The prologue alone is killed as it starts a helper, before anybody could ask for the helper's end."""
    begun = [point for point in points.prologue if starts(point)]
    return (Case("lonely", number, mutation="orphans-work", begin="prologue")
            for number, point in enumerate(begun, 1) if point.what.endswith("setpriv"))


MUTANTS: dict[str, Callable[[Points], Iterator[Case]]] = {
    "act-before-record": _kills("act-before-record", ("mkdir", "chmod")),
    "share-unrecorded": _kills("share-unrecorded", ("mkdir", "chmod", "connect")),
    "unlink-first": _unlink_first,
    "no-end-marker": _no_end_marker,
    "no-wait-for-lock": _no_wait,
    "no-end-check": _no_check,
    "libvirt-unbounded": _hangs("libvirt-unbounded", "libvirtd"),
    "share-unbounded": _hangs("share-unbounded", "share"),
    "no-space-unseen": _no_space,
    "orphans-work": _orphans,
}
