"""Options of the whole suite."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from lab.suite import HALVES
from tests import summary

_TESTS = Path(__file__).parent
_GUESTS = frozenset(("guest", "guestdisk", "image", "lab", "load"))
"""Folders of one half of the suite, by the time that they take."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing with them")
    parser.addoption("--half", choices=HALVES, help="only this half of the suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a half, its tests alone; `make test` runs both."""
    half = config.getoption("--half")
    chosen = [item for item in items if not half or (item.path.relative_to(_TESTS).parts[0] in _GUESTS) == (half == "guests")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in filter(None, (function() for function in summary.FUNCTIONS)):
        terminalreporter.write_line(line)


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

for number in (signal.SIGINT, signal.SIGQUIT):  # a shell starts what it puts into the background without them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
