"""Signals that are to end this process: noted, and asked for by whoever waits.

An exception out of a handler comes between any two steps: also in a destructor, where it is lost, and in a lock of threading's,
which it breaks (docs.python.org, library/signal, "Note on Signal Handlers and Exceptions").
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_came: list[int] = []


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """One of the signals raises KeyboardInterrupt from `check`, and at the end of the `with` if nothing else is raised there.

    They are not blocked, as a thread of libvirt's would take them then.
    """
    with _handled(_note):
        yield
        check()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """The first of the signals raises KeyboardInterrupt where it comes. Later ones do not cut short what follows from that:
    logind's end of a session sends SIGTERM and SIGHUP at once (systemd.kill, SendSIGHUP)."""
    with _handled(_raise):
        yield


def check() -> None:
    """KeyboardInterrupt if one of the signals has come."""
    if _came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    outermost = signal.getsignal(signal.SIGINT) not in (_note, _raise)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
        if outermost:
            _came.clear()


def _note(number: int, _frame: object) -> None:
    _came.append(number)


def _raise(number: int, _frame: object) -> None:
    if not _came:
        _came.append(number)
        raise KeyboardInterrupt
