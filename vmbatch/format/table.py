"""Partition tables, MBR and GPT, with sectors of 512 bytes; read as hostile input, numbered as Linux numbers partitions.

MBR as in the kernel's block/partitions/msdos.c, GPT as in block/partitions/efi.c and the UEFI specification, 5.3.
"""

import itertools
import struct
import zlib
from collections.abc import Iterable

import msgspec

from . import FormatError, Read

SECTOR = 512
_BOOT = struct.Struct("<B3xB3xII")
_BOOT_AT, _BOOT_ENTRIES, _FIRST_LOGICAL = 446, 4, 5
_SIGNATURE = b"\x55\xaa"
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_LOGICAL_LIMIT = 128
_GPT = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_SIGNATURE = b"EFI PART"
_GPT_CHECKSUM = 16
_GPT_ENTRY = struct.Struct("<16s16sQQ80x")
_GPT_LIMIT = 4096
"""Entries: an array of 512 KiB."""


class Extent(msgspec.Struct, frozen=True):
    """A part of a disk, in bytes."""

    offset: int
    length: int


class _Part(msgspec.Struct, frozen=True):
    """From sector `start` on; `name` for messages; a `number` of 0 is no partition that can be asked for."""

    number: int
    name: str
    start: int
    count: int


class _Boot(msgspec.Struct, frozen=True):
    """An entry of an MBR or EBR, sectors as they stand there."""

    slot: int
    flag: int
    kind: int
    start: int
    count: int


def partition(read: Read, size: int, number: int) -> Extent:
    """The partition that Linux calls `number` (sda1 is 1, the first logical one 5) of a disk of `size` bytes. FormatError."""
    found = partitions(read, size)
    if number not in found:
        numbers = ", ".join(map(str, sorted(found)))
        raise FormatError(f"has no partition {number}; it has {numbers or 'none'}")
    return found[number]


def partitions(read: Read, size: int) -> dict[int, Extent]:
    """All partitions, but for the extended one, which only holds others. FormatError."""
    sectors = size // SECTOR
    entries = _boot_entries(_sector(read, 0), "its MBR")
    gpt = any(entry.kind == _PROTECTIVE for entry in entries)
    parts = _gpt_parts(read, sectors) if gpt else _mbr_parts(read, entries)
    for part in parts:
        if part.start + part.count > sectors:
            raise FormatError(f"has {part.name} up to sector {part.start + part.count}, and ends at sector {sectors}",
                              "the image is truncated, or smaller than the disk it was taken from")
    _check_apart(parts)
    return {part.number: Extent(part.start * SECTOR, part.count * SECTOR) for part in parts if part.number}


def _sector(read: Read, number: int) -> bytes:
    data = read(number * SECTOR, SECTOR)
    if len(data) != SECTOR:
        raise FormatError(f"is truncated: it has no sector {number}")
    return data


def _check_apart(parts: Iterable[_Part]) -> None:
    for one, other in itertools.pairwise(sorted(parts, key=lambda part: (part.start, part.count))):
        if other.start < one.start + one.count:
            raise FormatError(f"has {one.name} and {other.name} at overlapping places, at sector {other.start}")


def _boot_entries(sector: bytes, name: str) -> list[_Boot]:
    """The entries that are in use (msdos.c asks for the size alone)."""
    entries = [_Boot(slot, *_BOOT.unpack_from(sector, _BOOT_AT + slot * _BOOT.size)) for slot in range(_BOOT_ENTRIES)]
    if sector[-2:] != _SIGNATURE or any(entry.flag not in (0, 0x80) for entry in entries):
        raise FormatError(f"has no partition table in {name}",
                          "name no partition if a file system takes the whole disk" if name == "its MBR" else "")
    return [entry for entry in entries if entry.count]


def _mbr_parts(read: Read, entries: list[_Boot]) -> list[_Part]:
    parts = []
    extended = None
    for entry in entries:
        if not entry.start:
            raise FormatError(f"has partition {entry.slot + 1} over its partition table")
        if entry.kind not in _EXTENDED:
            parts.append(_Part(entry.slot + 1, f"partition {entry.slot + 1}", entry.start, entry.count))
        elif extended:
            raise FormatError("has two extended partitions")
        else:
            extended = _Part(0, "the extended partition", entry.start, entry.count)
    if extended is None:
        return parts
    _check_apart([*parts, extended])
    return parts + _logical_parts(read, extended)


def _logical_parts(read: Read, extended: _Part) -> list[_Part]:
    """The logical partitions, and the sectors with their tables: a chain of a partition and a link each (parse_extended)."""
    parts: list[_Part] = []
    seen: set[int] = set()
    place, number = extended.start, _FIRST_LOGICAL
    while True:
        if place in seen:
            raise FormatError(f"has a chain of logical partitions that comes back to sector {place}")
        if len(seen) == _LOGICAL_LIMIT:
            raise FormatError(f"has more than {_LOGICAL_LIMIT} logical partitions")
        seen.add(place)
        table = _Part(0, f"the table of logical partition {number}", place, 1)
        _check_within(table, extended)
        entries = _boot_entries(_sector(read, place), f"sector {place} of its extended partition")
        data = [entry for entry in entries if entry.kind not in _EXTENDED]
        links = [entry for entry in entries if entry.kind in _EXTENDED]
        if len(data) > 1 or len(links) > 1:
            raise FormatError(f"has more than a partition and a link in sector {place} of its extended partition")
        parts.append(table)
        for entry in data:
            part = _Part(number, f"partition {number}", place + entry.start, entry.count)
            _check_within(part, extended)
            parts.append(part)
            number += 1
        if not links:
            return parts
        place = extended.start + links[0].start


def _check_within(part: _Part, extended: _Part) -> None:
    if part.start < extended.start or part.start + part.count > extended.start + extended.count:
        raise FormatError(f"has {part.name} at sector {part.start}, not within its extended partition")


def _gpt_parts(read: Read, sectors: int) -> list[_Part]:
    header = _sector(read, 1)
    (signature, revision, length, checksum, _, own, _, first_usable, last_usable, _, table, count, entry_size,
     table_checksum) = _GPT.unpack_from(header)
    if signature != _GPT_SIGNATURE:
        if read(4096, len(_GPT_SIGNATURE)) == _GPT_SIGNATURE:
            raise FormatError("has a GPT for sectors of 4096 bytes", "a disk of sectors of 512 bytes is needed")
        raise FormatError("has a protective MBR, and no GPT behind it", "sgdisk or gdisk can restore it from its backup")
    if revision >> 16 != 1:
        raise FormatError(f"has a GPT of the unknown revision {revision:#010x}")
    if not _GPT.size <= length <= SECTOR:
        raise FormatError(f"has a GPT header of {length} bytes, not of {_GPT.size} to {SECTOR}")
    if zlib.crc32(header[:_GPT_CHECKSUM] + bytes(4) + header[_GPT_CHECKSUM + 4 : length]) != checksum:
        raise FormatError("has a GPT header with a wrong checksum", "sgdisk or gdisk can restore it from its backup")
    if own != 1:
        raise FormatError(f"has a GPT header in sector 1 that says it is of sector {own}")
    if entry_size != _GPT_ENTRY.size:
        raise FormatError(f"has GPT entries of {entry_size} bytes, and Linux takes only {_GPT_ENTRY.size}")
    if not 0 < count <= _GPT_LIMIT:
        raise FormatError(f"has a GPT of {count} entries, not of 1 to {_GPT_LIMIT}")
    if not first_usable <= last_usable < sectors:
        raise FormatError(f"has a GPT for the sectors {first_usable} to {last_usable}, and ends at sector {sectors}",
                          "the image is truncated, or smaller than the disk it was taken from")
    blocks = -(-count * entry_size // SECTOR)
    if table < 2 or table + blocks > sectors:
        raise FormatError(f"has its GPT entries at sector {table}, outside the disk")
    entries = read(table * SECTOR, count * entry_size)
    if zlib.crc32(entries) != table_checksum or len(entries) != count * entry_size:
        raise FormatError("has GPT entries with a wrong checksum", "sgdisk or gdisk can restore them from their backup")
    parts = [_Part(0, "its GPT entries", table, blocks)]
    for number, (kind, _, first, last) in enumerate(_GPT_ENTRY.iter_unpack(entries), 1):
        if kind == bytes(16):
            continue
        if not first_usable <= first <= last <= last_usable:
            raise FormatError(f"has partition {number} in the sectors {first} to {last}, "
                              f"not within {first_usable} to {last_usable}")
        parts.append(_Part(number, f"partition {number}", first, last + 1 - first))
    return parts
