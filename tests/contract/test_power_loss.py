"""A node without power: what was not synced is gone, or there, or torn; whatever was made is in a journal that can be read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.work import work
from vmbatch import journal, lifecycle, record
from vmbatch.errors import NodeError
from vmbatch.host import file
from vmbatch.journal import Journal
from vmbatch.resource import Piece, Resource, Work
from vmbatch.spool.directory import Directory

from .book import START, TOKEN

Names = dict[str, int]
CALLS = ("write", "fsync", "link", "rename", "unlink", "ftruncate", "mkdir", "rmdir")


class Disk:
    """The journals' directory as it is now and as a power loss may leave it, and the directories that a job has made."""

    def __init__(self, world: Path) -> None:
        self.world = world
        self.now: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self.synced_names: Names = {}
        self.looked = 0
        self.lost: list[str] = []

    def names(self) -> Names:
        """The journals there are now."""
        place = journal.directory()
        return {name: os.stat(f"{place}/{name}").st_ino for name in os.listdir(place)}

    def see(self, call: str, argument: object) -> None:
        """After a call: what it changed, and what would be lost now."""
        if isinstance(argument, int):
            self._on_descriptor(call, argument)
        self.looked += 1
        made = {str(path) for path in self.world.iterdir()}
        for names in (self.synced_names, self.names()):
            for contents in (self.synced, self.now, self._torn()):
                listed = {owned.path for name, number in names.items() for owned in _resources(contents.get(number, b""))}
                self.lost += [f"after {call}: {Path(path).name}" for path in made - listed]

    def _on_descriptor(self, call: str, fd: int) -> None:
        number = os.fstat(fd).st_ino
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            if call == "fsync" and os.path.samestat(os.fstat(fd), os.stat(journal.directory())):
                self.synced_names = self.names()
            return
        with open(f"/proc/self/fd/{fd}", "rb") as opened:
            self.now[number] = opened.read()
        if call == "fsync":
            self.synced[number] = self.now[number]

    def _torn(self) -> dict[int, bytes]:
        """Of what is not synced, a part."""
        return {number: data[:(len(self.synced.get(number, b"")) + len(data)) // 2] for number, data in self.now.items()}


def _resources(data: bytes) -> list[Directory]:
    try:
        found = record.parse("a journal", data).resources
    except NodeError:
        return []  # nobody can release what stands there
    return [owned for owned in found if isinstance(owned, Directory)]


@pytest.fixture
def disk(places: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    world = places / "world"
    world.mkdir()
    made = Disk(world)

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **named: object) -> object:
            result = real(*arguments, **named)
            made.see(name, arguments[0])
            return result

        monkeypatch.setattr(os, name, call)

    for name in CALLS:
        watch(name)
    return made


def live(disk: Disk, *, keep: bool = False) -> None:
    """A job's whole life, with three directories; `keep`: one is kept for a while."""
    book = Journal.create(START)
    assert book is not None
    owned = [Directory(str(disk.world / f"{name}.{TOKEN}"), TOKEN, 0o711) for name in "abc"]
    for each in owned:
        lifecycle.act(each, book, work())
    book.hand_over()
    if keep:
        book.release(5, spared=owned[1:2])
        assert book.keep(1e12, "it failed", 1)
    book.release(5)
    book.close()


@pytest.mark.parametrize("keep", [False, True], ids=["released", "kept"])
def test_whatever_was_made_is_listed(disk: Disk, keep: bool) -> None:
    live(disk, keep=keep)
    assert disk.lost == []
    assert disk.looked > 20
    assert (os.listdir(disk.world), os.listdir(journal.directory())) == ([], [])


def _act_first(step: Resource | Piece, book: Journal, _work: Work) -> None:
    assert isinstance(step, Resource)
    step.acquire()
    book.promise(step)


def _unlink_first(book: Journal, seconds: float, **_named: object) -> None:
    os.unlink(book.path)
    file.sync_directory(journal.directory())
    for owned in book.resources:
        owned.release(work().deadline, last=False)


def _without_sync(of: str) -> Callable[[pytest.MonkeyPatch], None]:
    def change(patch: pytest.MonkeyPatch) -> None:
        real = os.fsync

        def fsync(fd: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{fd}") != (of == "directory"):
                real(fd)

        patch.setattr(os, "fsync", fsync)

    return change


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "act before record": lambda patch: patch.setattr(lifecycle, "act", _act_first),
    "unlink before release": lambda patch: patch.setattr(Journal, "release", _unlink_first),
    "lines not synced": _without_sync("file"),
    "names not synced": _without_sync("directory"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_loses_something(disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MUTANTS[name](monkeypatch)
    live(disk)
    assert disk.lost
