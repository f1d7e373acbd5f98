"""What is left of a failed job is put aside: its id is free, its journal is known, and no more is kept than may be."""

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from vmbatch import journal
from vmbatch.host import clock
from vmbatch.host.clock import boot_id
from vmbatch.journal import Journal
from vmbatch.record import Kept
from vmbatch.resource import Resource
from vmbatch.units import Deadline

from .book import RESOURCES, START, Probe
from .tokens import new_token

pytestmark = pytest.mark.usefixtures("places")
OTHER = msgspec.structs.replace(START, token=new_token())


def book_of(*resources: Resource, token: str = START.token) -> Journal:
    book = Journal.create(msgspec.structs.replace(START, token=token))
    assert book is not None
    for resource in resources:
        book.promise(resource)
    return book


def test_released_but_for_what_is_spared() -> None:
    log: list[str] = []
    spared = Probe("b", log)
    book = book_of(Probe("a", log), spared, Probe("c", log))
    book.release(5, spared=[spared])
    assert log == ["release c last", "release a"]
    assert os.path.exists(book.path)
    book.close()


def test_put_aside() -> None:
    book = book_of(*RESOURCES)
    before = book.path
    assert book.keep(99.5, "it ended with status 7", 1)
    book.close()
    assert not os.path.exists(before)
    [(path, start, resources, kept)] = journal.kept()
    assert (path, start, resources) == (book.path, START, RESOURCES)
    assert (kept.until, kept.why, kept.boot) == (99.5, "it ended with status 7", boot_id())
    assert os.path.basename(path) == f"42-1.vm.{START.token}.kept"
    assert journal.paths() == [path]
    opened = Journal.open(path, Deadline(0))
    assert opened is not None
    assert (opened.kept, opened.resources, opened.handed_over) == (kept, RESOURCES, False)
    opened.close()


def test_the_id_is_free() -> None:
    book = book_of()
    assert book.keep(99.5, "", 2)
    book.close()
    again = book_of(token=OTHER.token)
    assert again.kept is None
    assert again.keep(99.5, "", 2)
    assert len(journal.kept()) == 2
    again.close()


def test_no_more_than_may_be() -> None:
    for number, token in enumerate((START.token, OTHER.token), 1):
        book = book_of(token=token)
        path, before = book.path, Path(book.path).read_bytes()
        assert book.keep(99.5, "", 1) == (number == 1)
        if number == 2:
            assert (book.path, Path(path).read_bytes(), book.kept) == (path, before, None)
            book.release(5)
        book.close()
    assert [start.token for _, start, _, _ in journal.kept()] == [START.token]
    other = book_of()
    assert not other.keep(99.5, "", 0)
    other.close()


def test_removed_in_the_end() -> None:
    book = book_of()
    assert book.keep(99.5, "", 1)
    book.release(5)
    assert os.listdir(journal.directory()) == []
    book.close()


def test_a_line_that_was_not_followed_by_the_name() -> None:
    """As a power loss may leave it: an ordinary journal, whose things are released."""
    book = book_of(*RESOURCES)
    with open(book.path, "ab") as file:
        file.write(msgspec.json.encode(Kept(99.5, "")) + b"\n")
    book.close()
    assert journal.kept() == []
    known = journal.peek(book.path)
    assert known is not None
    assert known[1] == RESOURCES


def test_the_line_decides_not_the_name(tmp_path: Path) -> None:
    """A name that was made without its line is kept until long ago: the sweep removes it."""
    book = book_of()
    os.rename(book.path, f"{journal.directory()}/x.kept")
    book.close()
    [(_, _, _, kept)] = journal.kept()
    assert kept.until == 0.0


def test_who_waited_for_it_does_not_get_it() -> None:
    """An epilogue beside the one that keeps what is left: it would release just that."""
    book = book_of(*RESOURCES)
    path, found = book.path, list[Journal | None]()
    waits = threading.Thread(target=lambda: found.append(Journal.open(path, Deadline(60))))
    waits.start()
    waits.join(0.2)
    assert waits.is_alive()
    assert book.keep(99.5, "", 1)
    book.close()
    waits.join()
    assert found == [None]


@pytest.mark.parametrize("jump", [-1e9, -5000, 0, 5000, 1e9])
def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """As long as the node runs, only the time that has gone counts."""
    now, up = 1e9, 500.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(clock, "uptime", lambda: up)
    book = book_of()
    assert book.keep(now + 3600, "", 1)
    now += jump
    assert not book.is_over(note=True)
    up += 3599
    assert not book.is_over(note=True)
    up += 1
    assert book.is_over(note=True)
    book.close()


@pytest.mark.parametrize(("jump", "first", "after"), [
    (100, False, 3500), (-100, False, 3600), (-1e9, False, 3600), (3600, True, 0), (1e9, True, 0)])
def test_after_a_boot_the_clock_counts_and_keeps_nothing_longer_than_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, jump: float, first: bool, after: float,
) -> None:
    now, up, boot = 1e9, 500.0, "first"
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(clock, "uptime", lambda: up)
    monkeypatch.setattr(clock, "boot_id", lambda: boot)
    book = Journal.create(msgspec.structs.replace(START, keep=3600.0))
    assert book is not None
    assert book.keep(now + 3600, "", 1)
    path = book.path
    book.close()
    now, up, boot = now + jump, 0.0, "second"
    again = Journal.open(path, Deadline(0))
    assert again is not None
    before = Path(path).read_bytes()
    assert again.is_over(note=False) == first
    assert Path(path).read_bytes() == before
    assert again.is_over(note=True) == first
    if not first:
        now, up = now + after - 1, up + after - 1
        assert not again.is_over(note=True)
        now, up = now + 1, up + 1
        assert again.is_over(note=True)
    again.close()
