"""Options of the whole suite."""

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import summary

_TESTS = Path(__file__).parent
_FREE = frozenset(("bootloader", "format", "hostile", "host", "kit", "pure", "rootssh", "rules", "signature", "transfer"))
"""Folders whose tests touch nothing that the node has only once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing with them")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With several workers: what needs the lab's node for itself goes to one of them, and first; other files beside it."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.split("/")[1] in _FREE else "node"

    return Scheduler(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands over what it has to say."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["summary"] = summary.lines()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    summary.hear(getattr(node, "workeroutput", {}).get("summary", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary.lines():
        terminalreporter.write_line(line)


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

for number in (signal.SIGINT, signal.SIGQUIT):  # a shell starts what it puts into the background without them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
