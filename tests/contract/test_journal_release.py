"""Release goes backwards, stops at the first failure, and only then owns nothing."""

import os
from pathlib import Path

import pytest

from vmbatch import journal, registry
from vmbatch.journal import Journal
from vmbatch.resource import Resource
from vmbatch.units import Deadline

from .book import RESOURCES, START, Probe

pytestmark = pytest.mark.usefixtures("places")


def book_of(*probes: Probe, handed_over: bool = False) -> Journal:
    book = Journal.create(START)
    assert book is not None
    for probe in probes:
        book.promise(probe)
        book.acted()
    if handed_over:
        book.hand_over()
    return book


def test_backwards() -> None:
    log: list[str] = []
    book = book_of(*(Probe(name, log) for name in "abc"))
    book.release(5)
    assert log == ["release c last", "release b", "release a"]
    assert not os.path.exists(book.path)
    book.close()


class Lasting(Probe, frozen=True):
    """Its release goes on until it settles."""

    def begin_release(self, deadline: Deadline, *, last: bool) -> None:
        self.log.append(f"begin {self.name}")

    def settle(self, deadline: Deadline, before: Resource | None) -> None:
        self.log.append(f"settle {self.name} before {getattr(before, 'name', 'the end')}")


def test_each_is_told_what_is_released_next() -> None:
    log: list[str] = []
    book = book_of(Probe("a", log), Probe("b", log), Lasting("c", log), Probe("d", log))
    book.release(5, released=lambda: log.append("all is gone"))
    assert log == ["release d last", "begin c", "settle c before b", "release b", "settle c before a", "release a",
                   "settle c before the end", "all is gone"]
    book.close()


def test_what_is_spared_is_told_of_too() -> None:
    log: list[str] = []
    first = Probe("a", log)
    book = book_of(first, Lasting("b", log))
    book.release(5, spared=[first])
    assert log == ["begin b", "settle b before a", "settle b before the end"]
    book.close()


@pytest.mark.parametrize(
    ("orphaned", "handed_over", "last"), [(True, False, True), (False, False, False), (True, True, False), (False, True, False)]
)
def test_last(orphaned: bool, handed_over: bool, last: bool) -> None:
    """Only where the one who promised may have died in the act."""
    log: list[str] = []
    book = book_of(Probe("a", log), Probe("b", log), handed_over=handed_over)
    book.release(5, orphaned=orphaned)
    assert log == ["release b last" if last else "release b", "release a"]
    book.close()


def test_an_act_that_failed_may_still_be_under_way() -> None:
    """Nobody has died, but a request may be in another's hands."""
    log: list[str] = []
    book = book_of(Probe("a", log))
    book.promise(Probe("b", log))
    book.release(5, orphaned=False)
    assert log == ["release b last", "release a"]
    book.close()


def test_stops_at_the_first_failure() -> None:
    """A domain that will not die keeps its disks, and the journal."""
    log: list[str] = []
    book = book_of(Probe("a", log), Probe("b", log, True), Probe("c", log))
    before = Path(book.path).read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match="b"):
            book.release(5)
    assert log == ["release c last", "release b"] * 2
    assert Path(book.path).read_bytes() == before
    book.close()


def test_nothing_owned() -> None:
    book = book_of()
    book.release(5)
    assert os.listdir(journal.directory()) == []
    book.close()


def test_each_step_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow step does not take the time of the next."""
    book = book_of(Probe("a", []), Probe("b", []))
    given: list[float] = []
    monkeypatch.setattr(Probe, "release", lambda _self, deadline, *, last: given.append(round(deadline.left())))
    book.release(7)
    assert given == [7, 7]
    book.close()


def test_unlinked_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last release: unlink, then fsync of the directory."""
    order: list[str] = []
    log: list[str] = []
    book = book_of(Probe("a", log))
    real_unlink, real_fsync = os.unlink, os.fsync

    def unlink(path: str) -> None:
        order.append(f"unlink after {log}")
        real_unlink(path)

    def fsync(fd: int) -> None:
        order.append("fsync")
        real_fsync(fd)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "fsync", fsync)
    book.release(5)
    assert order == ["unlink after ['release a last']", "fsync"]
    book.close()


def test_release_of_what_was_read_back(tmp_path: Path) -> None:
    """By another process, from the records alone."""
    from vmbatch.spool.directory import Directory

    owned = [Directory(str(tmp_path / f"{name}.{START.token}"), START.token, 0o711) for name in "ab"]
    book = Journal.create(START)
    assert book is not None
    for resource in owned:
        book.promise(resource)
        resource.acquire()
        (Path(resource.path) / "file").touch()
    book.promise(Directory(str(tmp_path / f"never.{START.token}"), START.token, 0o711))
    book.close()
    opened = Journal.open(book.path, Deadline(1))
    assert opened is not None
    opened.release(5)
    opened.close()
    assert not any(Path(resource.path).exists() for resource in owned)
    assert os.listdir(journal.directory()) == []


def test_handed_over_survives_reading() -> None:
    book = Journal.create(START)
    assert book is not None
    book.promise(RESOURCES[0])
    book.hand_over()
    book.close()
    opened = Journal.open(book.path, Deadline(1))
    assert opened is not None
    assert (opened.handed_over, opened.resources) == (True, RESOURCES[:1])
    opened.close()


def test_the_handed_over_line_is_no_resource() -> None:
    with pytest.raises(ValueError, match="handed-over"):
        registry.resource(b'{"kind":"handed-over","time":1.5}')
