"""The lock is the proof of life: who gets it knows that nobody still acts."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch import journal
from vmbatch.errors import DeadlineError, NodeError
from vmbatch.host import process
from vmbatch.journal import Journal
from vmbatch.units import Deadline

from .book import RESOURCES, START

pytestmark = pytest.mark.usefixtures("places")


def create() -> Journal:
    book = Journal.create(START)
    assert book is not None
    return book


def test_open_waits_for_its_owner() -> None:
    book = create()
    book.promise(RESOURCES[0])
    threading.Timer(0.2, book.close).start()
    begin = time.monotonic()
    opened = Journal.open(book.path, Deadline(60))
    assert 0.15 < time.monotonic() - begin < 15
    assert opened is not None
    assert (opened.start, opened.resources) == (START, RESOURCES[:1])
    opened.close()


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_open_in_vain(seconds: float) -> None:
    book = create()
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match="still in use"):
        Journal.open(book.path, Deadline(seconds))
    assert seconds <= time.monotonic() - begin < seconds + 10
    book.close()


def test_no_journal() -> None:
    assert Journal.open(journal.path_of("43.vm"), Deadline(0)) is None


def test_released_while_waiting() -> None:
    """Not the unlinked file's lock is what counts."""
    book = create()

    def end() -> None:
        book.release(5)
        book.close()

    threading.Timer(0.2, end).start()
    assert Journal.open(book.path, Deadline(5)) is None


def test_replaced_while_waiting() -> None:
    """The next start's journal has the old one's name; that is the one which is then waited for."""
    first = create()
    second: list[Journal] = []

    def pass_on() -> None:
        os.unlink(first.path)
        second.append(create())
        first.close()

    threading.Timer(0.2, pass_on).start()
    with pytest.raises(DeadlineError):
        Journal.open(first.path, Deadline(0.6))
    second[0].close()


def test_descriptors_are_given_back() -> None:
    book = create()
    Path(book.path).write_bytes(b"garbage\n")
    before = descriptors()
    with pytest.raises(DeadlineError):
        Journal.open(book.path, Deadline(0))
    book.close()
    with pytest.raises(NodeError, match="cannot be understood"):
        Journal.open(book.path, Deadline(0))
    assert len(before - descriptors()) == 1 and not descriptors() - before


def test_a_link_is_no_journal(tmp_path: Path) -> None:
    book = create()
    (tmp_path / "link").symlink_to(book.path)
    with pytest.raises(NodeError):
        Journal.open(str(tmp_path / "link"), Deadline(0))
    book.close()


def test_helpers_hold_the_lock_too() -> None:
    """Those that run as root; they die with us, and until then somebody still acts."""
    book = create()
    helper = process.start(["/usr/bin/sleep", "60"])
    try:
        book.close()
        with pytest.raises(DeadlineError):
            Journal.open(book.path, Deadline(0.1))
    finally:
        process.end(helper)
    opened = Journal.open(book.path, Deadline(1))
    assert opened is not None
    opened.close()


def test_others_do_not_hold_it() -> None:
    """A process that was started otherwise, for instance libvirt's, does not."""
    book = create()
    with subprocess.Popen(["/usr/bin/sleep", "60"]) as other:
        book.close()
        opened = Journal.open(book.path, Deadline(0.1))
        other.kill()
    assert opened is not None
    opened.close()
