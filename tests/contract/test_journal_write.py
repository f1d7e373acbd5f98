"""A journal is locked and on disk before it has its name, and a promise before its act begins."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from tests.work import work
from vmbatch import journal, lifecycle
from vmbatch.errors import NodeError
from vmbatch.host import process
from vmbatch.journal import Journal
from vmbatch.spool.directory import Directory

from .book import LINES, RESOURCES, START, TOKEN

pytestmark = pytest.mark.usefixtures("places")


@pytest.fixture
def book() -> Iterator[Journal]:
    made = Journal.create(START)
    assert made is not None
    yield made
    made.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What is asked of the kernel, in order; descriptors by what they are open on."""
    log: list[tuple[str, object]] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **named: object) -> object:
            first = arguments[0]
            kind = "directory" if isinstance(first, int) and stat.S_ISDIR(os.fstat(first).st_mode) else "file"
            log.append((name, kind if isinstance(first, int) else first))
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync", "link", "unlink", "mkdir", "close"):
        watch(name)
    return log


def names(calls: list[tuple[str, object]]) -> list[str]:
    return [f"{name} {what}" if what in ("file", "directory") else name for name, what in calls]


def test_create_order(calls: list[tuple[str, object]]) -> None:
    book = Journal.create(START)
    assert book is not None
    assert names(calls) == ["write file", "fsync file", "link", "fsync directory", "close directory"]
    book.close()


def test_created_file(book: Journal) -> None:
    assert book.path.endswith("/42-1.vm.journal")
    assert Path(book.path).read_bytes() == LINES[0]
    assert os.stat(book.path).st_mode & 0o777 == 0o600
    assert (book.start, book.resources, book.handed_over) == (START, [], False)


def test_create_is_exclusive(book: Journal) -> None:
    assert Journal.create(START) is None
    assert Path(book.path).read_bytes() == LINES[0]
    assert os.listdir(journal.directory()) == [os.path.basename(book.path)]


def test_nothing_is_left_of_a_journal_that_could_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(5, "EIO")))
        with pytest.raises(NodeError, match=r"^no journal can be written in .*: EIO$"):
            Journal.create(START)
    assert os.listdir(journal.directory()) == []
    assert not descriptors() - before


def test_nothing_is_left_of_a_journal_whose_name_is_not_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    before, fsync = descriptors(), os.fsync

    def of_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(28, "ENOSPC")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", of_files)
        with pytest.raises(NodeError, match=r"^no journal can be made in .*: ENOSPC$"):
            Journal.create(START)
    assert os.listdir(journal.directory()) == []
    assert not descriptors() - before


def test_promise_before_act(book: Journal, calls: list[tuple[str, object]], tmp_path: Path) -> None:
    lifecycle.act(Directory(str(tmp_path / "made"), TOKEN, 0o711), book, work())
    assert names(calls)[:3] == ["write file", "fsync file", "mkdir"]
    assert (tmp_path / "made").is_dir()


def test_no_act_without_a_promise(book: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, or breaks: nothing is made."""
    for name, broken in (("write", lambda _fd, _data: 3), ("fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "full")))):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, broken)
            with pytest.raises(NodeError):
                lifecycle.act(Directory(str(tmp_path / name), TOKEN, 0o711), book, work())
        assert not (tmp_path / name).exists()
        assert book.resources == []


def test_a_line_may_follow_one_that_could_not_be_written(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes some bytes of a line, or all of them and does not sync them."""
    write = os.write
    book.promise(RESOURCES[0])
    full = OSError(28, "full")
    for name, broken in (("write", lambda fd, data: write(fd, data[:9])), ("fsync", lambda _fd: (_ for _ in ()).throw(full))):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, broken)
            with pytest.raises(NodeError) as caught:
                book.promise(RESOURCES[1])
        assert caught.value.hint == "is the disk full?"
    book.promise(RESOURCES[2])
    assert Path(book.path).read_bytes() == LINES[0] + LINES[1] + LINES[3]


def test_lines(book: Journal) -> None:
    for resource in RESOURCES:
        book.promise(resource)
    book.hand_over()
    assert book.handed_over
    written = Path(book.path).read_bytes()
    assert written.startswith(b"".join(LINES[:-1]))
    assert journal.peek(book.path) == (START, RESOURCES, True)


def test_handed_over_is_synced(book: Journal, calls: list[tuple[str, object]]) -> None:
    book.hand_over()
    assert names(calls) == ["write file", "fsync file"]


def test_helpers_keep_the_lock(book: Journal) -> None:
    assert book._fd in process._held
    assert not os.get_inheritable(book._fd)


def test_close_lets_go() -> None:
    book = Journal.create(START)
    assert book is not None
    fd = book._fd
    book.close()
    assert fd not in process._held
