"""Where file systems may lie on a disk: at its start, in partitions, in logical volumes. Read as hostile input.

A FAT boot sector ends in the same 0x55AA as an MBR, and neither has more of a mark. So both are asked for sense: a FAT by its
parameters and by the first entry of its table, a partition table by what lies where it points to. Where both make sense, both are
tried, first the partitions if there is something known in one of them: what was there before a disk was partitioned is often
still there, and the other way round it is not.
"""

import struct

import msgspec

from ..format import FormatError, Read, filesystem, lvm, table
from ..format.table import SECTOR, Extent

_FAT = struct.Struct("<HBHBHHBHHHIII")
_FAT_AT = 11
_ACTIVE = 0x80
_BOOT_AT, _BOOT_SIZE, _BOOT_ENTRIES = 446, 16, 4


class Place(msgspec.Struct, frozen=True):
    """A part of the disk: `number` as Linux numbers partitions, 0 for the whole disk; `kind` of filesystem.NAMES or ''."""

    number: int
    name: str
    parts: tuple[Extent, ...]
    kind: str

    def read(self, disk: Read, offset: int, length: int) -> bytes:
        """As os.pread; nothing beyond the place."""
        found = []
        for part in self.parts:
            if length <= 0:
                break
            if offset < part.length:
                count = min(length, part.length - offset)
                data = disk(part.offset + offset, count)
                found.append(data)
                if len(data) < count:
                    break
                offset, length = part.length, length - count
            offset -= part.length
        return b"".join(found)


class Places(msgspec.Struct, frozen=True):
    """In the order in which they are to be asked; `problems` tells what could not be looked at."""

    found: tuple[Place, ...]
    problems: tuple[str, ...]


def places(read: Read, size: int) -> Places:
    """All places of a disk of `size` bytes."""
    problems: list[str] = []
    whole = _whole(read, size, problems)
    parts = _partitions(read, size, problems)
    first, second = (parts, whole) if any(place.kind for place in parts) else (whole, parts)
    return Places(tuple(first + second), tuple(problems))


def _whole(read: Read, size: int, problems: list[str]) -> list[Place]:
    """The disk as one file system."""
    extent = Extent(0, size)
    try:
        kind = filesystem.identify(read, 0, size)
    except FormatError as error:
        problems.append(f"the whole disk {error.what}")
        return []
    if kind == "vfat" and not is_fat(read, size):
        problems.append("the whole disk begins as a FAT file system does, and its table is none")
        return []
    return _volumes(read, Place(0, "the whole disk", (extent,), kind), problems) if kind else []


def is_fat(read: Read, size: int) -> bool:
    """Whether a FAT file system of at most `size` bytes begins at 0: what its parameters say must hold of the rest, too."""
    sector = read(0, SECTOR)
    if len(sector) < SECTOR:
        return False
    unit, cluster, reserved, fats, few_files, few, media, short_fat, _, _, _, many, long_fat = _FAT.unpack_from(sector, _FAT_AT)
    if unit not in (512, 1024, 2048, 4096) or not cluster or cluster & (cluster - 1) or not reserved or not fats:
        return False
    sectors, fat_sectors = few or many, short_fat or long_fat
    data = reserved + fats * fat_sectors + -(-few_files * 32 // unit)
    if not fat_sectors or data >= sectors or sectors * unit > size:
        return False
    return read(reserved * unit, 2) == bytes((media, 0xFF))


def _partitions(read: Read, size: int, problems: list[str]) -> list[Place]:
    try:
        found = table.partitions(read, size)
    except FormatError as error:
        problems.append(f"the disk {error.what}")
        return []
    boot = read(0, SECTOR)
    active = {slot + 1 for slot in range(_BOOT_ENTRIES) if boot[_BOOT_AT + slot * _BOOT_SIZE] == _ACTIVE}
    places: list[Place] = []
    for number, extent in sorted(found.items(), key=lambda item: (item[0] not in active, item[0])):
        try:
            kind = filesystem.identify(read, extent.offset, extent.length)
        except FormatError as error:
            problems.append(f"partition {number} {error.what}")
            continue
        places += _volumes(read, Place(number, f"partition {number}", (extent,), kind), problems)
    return places


def _volumes(read: Read, place: Place, problems: list[str]) -> list[Place]:
    """The place, or the logical volumes that are in it."""
    if place.kind != "lvm":
        return [place]
    volumes = []
    try:
        names = lvm.names(read, place.parts[0])
    except FormatError as error:
        problems.append(f"{place.name} {error.what}")
        return []
    for name in names:
        try:
            parts = lvm.logical_volume(read, place.parts[0], name)
            bare = Place(place.number, f"the logical volume {name}", parts, "")
            kind = filesystem.identify(lambda offset, length, at=bare: at.read(read, offset, length), 0,  # type: ignore[misc]
                                       sum(part.length for part in parts))
        except FormatError as error:
            problems.append(f"{place.name} {error.what}")
            continue
        volumes.append(msgspec.structs.replace(bare, kind=kind))
    return volumes
