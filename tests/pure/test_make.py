"""The order in which a start makes its things, and what is made beside the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vmbatch import lifecycle, trace
from vmbatch.errors import NodeError
from vmbatch.host import clock
from vmbatch.host.log import Log
from vmbatch.hypervisor.domain import Domain
from vmbatch.plan import Phase, Plan, plan
from vmbatch.record import Start
from vmbatch.resource import Piece, Resource, SlowResource, Work
from vmbatch.units import Deadline

from .sample import facts, form, job, settings

DONE: list[str] = []


def do(what: str, name: str) -> None:
    DONE.append(f"{what} {name}")
    if name.startswith(what):
        raise NodeError(f"{name} fails")


class Slow(SlowResource, frozen=True, tag="slow"):
    """What a program makes; the name says which step of it fails."""

    name: str

    @contextmanager
    def begin(self) -> Iterator[Callable[[], None]]:
        do("begin", self.name)
        try:
            yield lambda: do("finish", self.name)
        finally:
            DONE.append(f"end {self.name}")


class Thing(Piece, frozen=True, tag="thing"):
    name: str

    def make(self, work: Work) -> None:
        do("make", self.name)


class Book:
    """What of a journal is used."""

    def promise(self, resource: Resource) -> None:
        DONE.append(f"promise {getattr(resource, 'name', '')}")

    def acted(self) -> None:
        """Is told each time."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], list[str]]:
    """A start with two slow things, whose second one and which else have these names, and then a guest; what was done."""
    monkeypatch.setattr(Domain, "acquire", lambda domain: DONE.append("acquire guest"))
    monkeypatch.setattr(trace, "write", lambda _place, event: DONE.append(type(event).__name__))

    def made(first: str, second: str, thing: str) -> list[str]:
        DONE.clear()
        whole: Plan = plan(job(), form(), settings(), facts())
        domain = msgspec.structs.replace(whole.domain, name="guest")
        chosen = msgspec.structs.replace(whole, domain=domain, phases=(
            Phase("network filter", (Slow(first), Slow(second))), Phase("context", (Thing(thing),)), Phase("start", (domain,))))
        book: Any = Book()
        book.start = Start("42.vm", "t", "alice", "vm", None, clock.this_process(), 0.0)
        work = Work(Deadline(60), lambda: None, lambda _: None)
        try:
            lifecycle.make(chosen, book, work, settings(), Log(str(tmp_path), "42.vm", "prologue"))
        except NodeError as error:
            DONE.append(str(error))
        return list(DONE)

    return made


BEGUN = ["promise a", "begin a", "promise b", "begin b"]


def test_what_is_slow_is_made_while_the_rest_is(make: Callable[[str, str, str], list[str]]) -> None:
    assert make("a", "b", "c") == [*BEGUN, "make c", "finish a", "finish b", "promise guest", "Begin", "acquire guest",
                                   "end b", "end a"]


def test_no_guest_starts_before_all_is_there(make: Callable[[str, str, str], list[str]]) -> None:
    assert make("a", "finish b", "c") == [
        "promise a", "begin a", "promise finish b", "begin finish b", "make c", "finish a", "finish finish b", "end finish b",
        "end a", "finish b fails"]


def test_nothing_is_at_work_any_more_when_a_start_has_failed(make: Callable[[str, str, str], list[str]]) -> None:
    assert make("a", "b", "make c") == [*BEGUN, "make make c", "end b", "end a", "make c fails"]
    assert make("a", "begin b", "c") == ["promise a", "begin a", "promise begin b", "begin begin b", "end a", "begin b fails"]


def test_alone_it_is_made_at_once() -> None:
    DONE.clear()
    Slow("a").acquire()
    assert DONE == ["begin a", "finish a", "end a"]
