"""What is left of a failed job is put aside: its id is free, its journal is known, and no more is kept than may be."""

import os
from pathlib import Path

import msgspec
import pytest

from vmbatch import journal
from vmbatch.journal import Journal, Kept
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
    assert kept == Kept(99.5, "it ended with status 7")
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
