"""Signals that are noted: none is lost, and none comes where nobody asks."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from vmbatch.host import interrupt

EACH = pytest.mark.parametrize("number", interrupt.SIGNALS)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in interrupt.SIGNALS]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = handlers()
    yield
    assert handlers() == before
    interrupt.check()


def test_none() -> None:
    with interrupt.noted():
        interrupt.check()


@EACH
def test_it_comes_where_it_is_asked_for(number: int) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupt.noted():
        os.kill(os.getpid(), number)
        done.append("after it")
        interrupt.check()
        done.append("after it is asked for")
    assert done == ["after it"]


def test_or_at_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupt.noted():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("to the end")
    assert done == ["to the end"]


def test_what_goes_wrong_goes_first() -> None:
    with pytest.raises(ZeroDivisionError), interrupt.noted():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


def test_nobody_loses_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Python only prints what is raised in a destructor."""
    class Gone:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupt.noted():
        gone = Gone()
        del gone
    assert capsys.readouterr().err == ""


def test_it_breaks_no_lock() -> None:
    """Within Condition.wait an exception comes before the lock is taken again, which is then released."""
    event = threading.Event()

    def send() -> None:
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    with pytest.raises(KeyboardInterrupt), interrupt.noted():
        sender.start()
        while sender.is_alive():
            event.wait(0.0001)
        sender.join()


def test_it_is_raised_where_it_comes() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt.raised():
        os.kill(os.getpid(), signal.SIGHUP)
        raise AssertionError("it comes before the next line")


def test_only_the_first_is_raised() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupt.raised():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("what follows from it")
    assert done == ["what follows from it"]


def test_nor_is_one_after_what_was_noted() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupt.raised():
        try:
            with interrupt.noted():
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("what follows from it")
    assert done == ["what follows from it"]
