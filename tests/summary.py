"""What folders have to say at the end of the suite, whichever process ran their tests."""

from collections.abc import Callable

FUNCTIONS: list[Callable[[], str]] = []
"""Each gives a line, or nothing where none of its tests ran."""

_heard: list[str] = []


def lines() -> list[str]:
    """This process's own, and those heard of."""
    return [*_heard, *(line for function in FUNCTIONS if (line := function()))]


def hear(said: list[str]) -> None:
    """What another process had to say."""
    _heard.extend(said)
