"""Which kernel of which file system is booted: the first place with a boot configuration whose files are there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from ..format import FormatError, Read
from . import INITRD_LIMIT, KERNEL_LIMIT, TEXT_LIMIT, Wish, bls, grub, legacy, syslinux
from .ext import Ext
from .fat import Fat
from .menu import OWN, Entry, File, shown
from .place import Place, Places, places
from .tree import FileSystem, Node, find, listed, read_text

READABLE = ("ext2", "ext3", "ext4", "vfat")
_PARSERS: tuple[tuple[tuple[str, ...], Callable[..., Entry]], ...] = (
    (grub.NAMES, grub.parse), (bls.LOADERS, bls.parse), (syslinux.NAMES, syslinux.parse), (legacy.NAMES, legacy.parse),
)
_NAMES_LIMIT = 2000
_PROBLEMS_SHOWN = 20


class NothingError(FormatError):
    """Nothing to boot; `detail` has what was tried."""

    def __init__(self, what: str, hint: str, detail: tuple[str, ...]) -> None:
        super().__init__(what, hint)
        self.detail = detail


class Source(msgspec.Struct, frozen=True):
    """A file to copy."""

    path: str
    node: Node
    system: FileSystem


class Choice(msgspec.Struct, frozen=True):
    """What to boot; `args` without those of the wish."""

    where: str
    title: str
    kernel: Source
    initrds: tuple[Source, ...]
    args: str


class Disk:
    """A disk of `size` bytes with its places; file systems are opened when they are needed."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self.places: Places = places(read, size)
        self._opened: dict[int, FileSystem] = {}

    def system(self, index: int) -> FileSystem:
        """The file system of a place. FormatError."""
        if index not in self._opened:
            place = self.places.found[index]
            if place.kind not in READABLE:
                raise FormatError(f"has a file system that cannot be read here: {place.kind}" if place.kind else
                                  "has no file system that is known here")
            self._opened[index] = _open(place, self._read)
        return self._opened[index]

    def systems(self) -> Iterator[tuple[int, FileSystem]]:
        """All that can be opened."""
        for index in range(len(self.places.found)):
            with contextlib.suppress(FormatError):
                yield index, self.system(index)


def _open(place: Place, disk: Read) -> FileSystem:
    size = sum(part.length for part in place.parts)

    def read(offset: int, length: int) -> bytes:
        return place.read(disk, offset, length)

    return Fat(read, size) if place.kind == "vfat" else Ext(read)


class _World:
    """A menu.World, seen from the place `own`."""

    def __init__(self, disk: Disk, own: int) -> None:
        self._disk, self._own = disk, own

    def sources(self, file: File) -> Iterator[Source]:
        """What a file may be: in the partition that is named, or else beside the configuration."""
        found = self._disk.places.found
        numbers = [index for index, place in enumerate(found) if place.number == file.number != OWN]
        for index in dict.fromkeys([*numbers, self._own]):
            try:
                system = self._disk.system(index)
            except FormatError:
                continue
            node = find(system, file.path)
            if node is not None:
                yield Source(file.path, node, system)

    def read(self, file: File) -> str | None:
        """As menu.World."""
        texts = (read_text(source.system, file.path, TEXT_LIMIT) for source in self.sources(file))
        return next((text for text in texts if text is not None), None)

    def exists(self, file: File, kind: str = "") -> bool:
        """As menu.World."""
        return any(not kind or source.node.kind == kind for source in self.sources(file))

    def names(self, directory: File) -> list[str]:
        """As menu.World."""
        lists = (listed(source.system, directory.path, _NAMES_LIMIT) for source in self.sources(directory))
        return next((names for names in lists if names), [])

    def search(self, what: str, value: str) -> int | None:
        """As menu.World."""
        for index, system in self._disk.systems():
            number = self._disk.places.found[index].number
            if what == "file":
                if find(system, value) is not None:
                    return number
            elif value and value.casefold() == (system.uuid if what == "uuid" else system.label).casefold():
                return number
        return None


def choose(read: Read, size: int, wish: Wish) -> Choice:
    """FormatError; a NothingError if the disk has nothing to boot."""
    disk = Disk(read, size)
    problems = list(disk.places.problems)
    for index, place in enumerate(disk.places.found):
        try:
            disk.system(index)
        except FormatError as error:
            problems.append(f"{place.name} {error.what}")
            continue
        try:
            found = _given(disk, index, wish) if wish.kernel else _configured(disk, index, wish, problems)
        except FormatError as error:
            problems.append(f"{place.name} {error.what}")
            continue
        if found:
            return found
        problems.append(f"{place.name} ({place.kind}) has no {shown(wish.kernel)}" if wish.kernel else
                        f"{place.name} ({place.kind}) has no boot configuration that can be used")
    raise NothingError("has nothing that can be booted",
                       "a file system ext2, ext3, ext4 or FAT with the configuration of GRUB, SYSLINUX or systemd-boot is needed",
                       tuple(problems[:_PROBLEMS_SHOWN]))


def _given(disk: Disk, index: int, wish: Wish) -> Choice | None:
    """Kernel and initrd that the toolstack names."""
    world = _World(disk, index)
    if not world.exists(File(OWN, wish.kernel), "file"):
        return None
    initrds = (File(OWN, wish.ramdisk),) if wish.ramdisk else ()
    return _checked(Entry((wish.kernel,), File(OWN, wish.kernel), initrds), world, disk.places.found[index].name)


def _configured(disk: Disk, index: int, wish: Wish, problems: list[str]) -> Choice | None:
    """By the first configuration that leads to files that are there."""
    world, place = _World(disk, index), disk.places.found[index]
    for names, parse in _PARSERS:
        for name in names:
            try:
                text = world.read(File(OWN, name))
                if text is None:
                    continue
                return _checked(parse(text, name, world, wish.entry), world, f"{place.name}, {name}")
            except FormatError as error:
                problems.append(f"{place.name}, {name} {error.what}" + (f" ({error.hint})" if error.hint else ""))
    return None


def _checked(entry: Entry, world: _World, where: str) -> Choice:
    kernel = _source(entry.kernel, world, KERNEL_LIMIT)
    initrds = tuple(_source(file, world, INITRD_LIMIT) for file in entry.initrds)
    total = sum(source.node.size for source in initrds)
    if total > INITRD_LIMIT:
        raise FormatError(f"has initrds of {total} bytes, more than {INITRD_LIMIT}")
    return Choice(where, entry.names[0], kernel, initrds, entry.args)


def _source(file: File, world: _World, limit: int) -> Source:
    found = next((source for source in world.sources(file) if source.node.kind == "file"), None)
    if found is None:
        raise FormatError(f"names a file that is not there: {shown(file.path)}")
    if not 0 < found.node.size <= limit:
        raise FormatError(f"names a file of {found.node.size} bytes, not of 1 to {limit}: {shown(file.path)}")
    return found
