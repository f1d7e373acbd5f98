"""What folders have to say at the end of the suite."""

from collections.abc import Callable

FUNCTIONS: list[Callable[[], str]] = []
"""Each gives a line, or nothing where none of its tests ran."""
