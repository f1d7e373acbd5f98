"""Options of the whole suite."""

import signal

import pytest
from hypothesis import settings

from tests import summary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing with them")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in filter(None, (function() for function in summary.FUNCTIONS)):
        terminalreporter.write_line(line)


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

for number in (signal.SIGINT, signal.SIGQUIT):  # a shell starts what it puts into the background without them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
