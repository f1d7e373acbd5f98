"""A start that loses an address to another one: it gives back what it has, and chooses again."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vmbatch import lifecycle
from vmbatch.errors import EndedError, NodeError, TakenError
from vmbatch.host.log import Log
from vmbatch.plan import Plan, plan
from vmbatch.resource import Resource, Work
from vmbatch.units import Deadline

from .sample import facts, form, job, settings

DONE: list[str] = []


class Place(Resource, frozen=True, tag="place"):
    """What another start has got if its name ends with a bang."""

    name: str

    def acquire(self) -> None:
        DONE.append(f"acquire {self.name}")
        if self.name.endswith("!"):
            raise TakenError(f"{self.name} was taken")
        if self.name.endswith("?"):
            raise NodeError("libvirt does not answer")

    def release(self, deadline: Deadline, *, last: bool) -> None:
        DONE.append(f"release {self.name}")
        assert not last


class Book:
    """What of a journal is used."""

    def promise(self, resource: Place) -> None:
        DONE.append(f"promise {resource.name}")

    def acted(self) -> None:
        """Is told each time."""


def chosen(*names: str) -> Plan:
    return msgspec.structs.replace(plan(job(), form(), settings(), facts()), reservations=tuple(map(Place, names)))


def reserved(tmp_path: Path, *plans: Plan, seconds: float = 60, alive: Any = lambda: None) -> Plan:
    DONE.clear()
    later = iter(plans[1:])
    book: Any = Book()
    return lifecycle.reserve(plans[0], lambda: next(later), book, Work(Deadline(seconds), alive, lambda _: None),
                              Log(str(tmp_path), "42.vm", "prologue"))


def test_what_is_free_is_taken(tmp_path: Path) -> None:
    first = chosen("a", "b")
    assert reserved(tmp_path, first) is first
    assert DONE == ["promise a", "acquire a", "promise b", "acquire b"]


def test_without_any(tmp_path: Path) -> None:
    assert reserved(tmp_path, chosen()).reservations == ()
    assert DONE == []


def test_another_one_is_chosen(tmp_path: Path) -> None:
    last = chosen("d", "e")
    assert reserved(tmp_path, chosen("a", "b!", "c"), chosen("f!"), last) is last
    assert DONE == ["promise a", "acquire a", "promise b!", "acquire b!", "release c", "release b!", "release a",
                    "promise f!", "acquire f!", "release f!", "promise d", "acquire d", "promise e", "acquire e"]


def test_nobody_tries_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TakenError, match=r"^a! was taken$"):
        reserved(tmp_path, chosen("a!"), chosen("b"), seconds=0)
    assert DONE == ["promise a!", "acquire a!"], "the journal lists it, and its release is another's"


def test_what_else_fails_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="libvirt does not answer"):
        reserved(tmp_path, chosen("a?"), chosen("b"))

    def ended() -> None:
        raise EndedError("its epilogue has run")

    with pytest.raises(EndedError):
        reserved(tmp_path, chosen("a"), alive=ended)
    assert DONE == []
