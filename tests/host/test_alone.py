"""A guest for as long as a `with` lasts: always removed, and nothing disturbs that. The lifecycle is played here."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pure.sample import settings
from vmbatch import alone
from vmbatch.batch import local
from vmbatch.config import Config
from vmbatch.errors import NodeError
from vmbatch.host import interrupt, process

CALL = local.call(local.Order(kind="run", user="root", group="root", name="n"))
Act = Callable[[], None]


class Played:
    """What prologue and epilogue do, and what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begin: Act = lambda: None
        self.end: Act = lambda: None
        self.config: Config | None = None

    def prologue(self, system: object, call: object, config: Config, log: object, site: object) -> None:
        self.config = config
        self.done.append("prologue")
        process.watch(lambda: self.done.append("watched"))
        self.begin()

    def epilogue(self, job_id: str, config: Config, log: object) -> None:
        process.alive()
        self.end()
        self.done.append(f"epilogue {job_id == CALL.argv[1]}")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    scene = Played()
    monkeypatch.setattr(alone, "prologue", scene.prologue)
    monkeypatch.setattr(alone, "epilogue", scene.epilogue)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    yield scene
    process.watch(None)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def fail(text: str) -> Act:
    def act() -> None:
        raise NodeError(text)

    return act


def test_made_and_removed(played: Played, tmp_path: Path) -> None:
    config = settings(log_directory=str(tmp_path), queues={"vm": ("a.xml",)}, types={"x": "a.xml"}, features={"y": "a.xml"})
    with alone.guest(CALL, "/etc/vmbatch/domains/b.xml", config, "run") as log:
        assert played.done == ["prologue"]
        process.alive()
        log.line("in the guest")
    assert played.done == ["prologue", "epilogue True"], "nothing asks any more whether the start is wanted"
    assert played.config is not None
    assert (played.config.queues, played.config.templates_directory) == ({"local": ("b.xml",)}, "/etc/vmbatch/domains")
    assert (played.config.types, played.config.features) == ({}, {})
    assert " run: in the guest\n" in Path(log.path).read_text()


def test_a_start_that_fails(played: Played, tmp_path: Path) -> None:
    played.begin, played.end = fail("no start"), fail("no end")
    with pytest.raises(NodeError, match="no start"), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        raise AssertionError("there is no guest")
    assert "no end" in (tmp_path / f"{CALL.argv[1]}.log").read_text()


def test_what_goes_wrong_inside(played: Played, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        raise ZeroDivisionError
    assert played.done == ["prologue", "epilogue True"]


def test_an_end_that_fails(played: Played, tmp_path: Path) -> None:
    played.end = fail("no end")
    with pytest.raises(NodeError, match="no end"), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["start", "inside"])
def test_signals(played: Played, tmp_path: Path, number: signal.Signals, when: str) -> None:
    def asks() -> None:
        os.kill(os.getpid(), number)
        interrupt.check()

    if when == "start":
        played.begin = asks
    with pytest.raises(KeyboardInterrupt), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert played.done == ["prologue", "epilogue True"]


def test_two_signals_at_once(played: Played, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})
    assert played.done == ["prologue", "epilogue True"]


def test_a_signal_while_it_is_removed(played: Played, tmp_path: Path) -> None:
    """It waits until all is gone."""
    seen: list[str] = []

    def end() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        seen.append("to the end")

    played.end = end
    with pytest.raises(KeyboardInterrupt), alone.guest(CALL, "b.xml", settings(log_directory=str(tmp_path)), "run"):
        pass
    assert seen == ["to the end"]
    assert played.done == ["prologue", "epilogue True"]
