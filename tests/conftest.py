"""Options of the whole suite."""

import inspect
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from hypothesis import settings

from tests import summary
from vmbatch.errors import VmBatchError
from vmbatch.shell import RefusedError
from vmbatch.submitfilter import RejectedError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files anew instead of comparing with them")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in filter(None, (function() for function in summary.FUNCTIONS)):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A start that fails blocks signals for what is left of its process, which is here that of all tests."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture(autouse=True)
def _makes_its_errors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test with the mark `error` fails unless it makes errors of all those codes, or compares a text that has them."""
    codes = {code for mark in request.node.iter_markers("error") for code in mark.args}
    if not codes:
        yield
        return
    made: set[str] = set()

    def noting(kind: type[VmBatchError | RefusedError | RejectedError]) -> None:
        init = kind.__init__

        def noted(error: Any, *words: Any, **named: Any) -> None:
            init(error, *words, **named)
            made.add(error.code)

        monkeypatch.setattr(kind, "__init__", noted)

    for kind in (VmBatchError, RefusedError, RejectedError):
        noting(kind)
    yield
    source = inspect.getsource(request.function)
    compared = {code for code in codes if f"[{code}]" in source}
    assert codes <= made | compared, f"the test does not make {', '.join(sorted(codes - made - compared))}"


@pytest.fixture(scope="session")
def left() -> Iterator[Callable[[], list[str]]]:
    """Says what jobs have left on the lab's node, as it is asked before and after each test: in a third of the time."""
    from lab import leftover
    from lab.sweeper import Sweeper

    with closing(Sweeper()) as sweeper:
        yield partial(leftover.found, sweep=sweeper.dry_run)


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

for number in (signal.SIGINT, signal.SIGQUIT):  # a shell starts what it puts into the background without them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
