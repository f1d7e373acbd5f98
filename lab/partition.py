"""Partition tables, written as bytes: MBR with up to four primary partitions, GPT with its copy at the end of the disk."""

import struct
import uuid
import zlib
from collections.abc import Sequence
from typing import NamedTuple

SECTOR = 512
LINUX, VFAT, LVM = 0x83, 0x0C, 0x8E
"""Types of MBR partitions."""
GPT_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
GPT_ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
GPT_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
GPT_BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
"""Types of GPT partitions: Linux, Linux' root on x86-64, EFI system partition, GRUB's own."""
_ENTRIES = 128
_ENTRY_SIZE = 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR


class Partition(NamedTuple):
    """Its number from 1 on, first byte and size (multiples of 512), and type; `name` is what GPT calls a label."""

    number: int
    start: int
    size: int
    type: int | uuid.UUID
    name: str = ""


def mbr(partitions: Sequence[Partition]) -> bytes:
    """The first sector of a disk; the first partition is the one to boot."""
    entries = {}
    for partition in partitions:
        flag = 0x80 if partition.number == 1 else 0
        beyond_chs = b"\xfe\xff\xff"
        entries[partition.number] = struct.pack(
            "<B3sB3sII", flag, beyond_chs, partition.type, beyond_chs, partition.start // SECTOR, partition.size // SECTOR
        )
    return bytes(440) + b"VMB\0" + bytes(2) + b"".join(entries.get(number, bytes(16)) for number in range(1, 5)) + b"\x55\xaa"


def unique(name: str) -> uuid.UUID:
    """The same identifier for the same name at each build."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.lab.invalid")


def gpt(size: int, partitions: Sequence[Partition], disk: str) -> tuple[bytes, bytes]:
    """What a disk of `size` bytes begins and ends with; `disk` decides its identifiers: `unique(disk)`, `unique(f"{disk}-1")`.

    UEFI specification 2.10, section 5: protective MBR, header, 128 entries; at the end the entries again, then the header.
    """
    last = size // SECTOR - 1
    table = {partition.number: _entry(partition, disk) for partition in partitions}
    entries = b"".join(table.get(number, bytes(_ENTRY_SIZE)) for number in range(1, _ENTRIES + 1))
    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    first = bytes(446) + protective + bytes(48) + b"\x55\xaa"
    begin = first + _header(1, last, 2, last, entries, disk) + entries
    end = entries + _header(last, 1, last - _TABLE_SECTORS, last, entries, disk)
    return begin, end


def _entry(partition: Partition, disk: str) -> bytes:
    kind = partition.type
    assert isinstance(kind, uuid.UUID)
    first = partition.start // SECTOR
    last = first + partition.size // SECTOR - 1
    own = unique(f"{disk}-{partition.number}")
    return struct.pack("<16s16sQQQ72s", kind.bytes_le, own.bytes_le, first, last, 0, partition.name.encode("utf-16-le"))


def _header(own: int, other: int, table: int, last: int, entries: bytes, disk: str) -> bytes:
    """One of the two headers, of which `own` and `other` are the sectors."""

    def packed(checksum: int) -> bytes:
        usable = 2 + _TABLE_SECTORS, last - 1 - _TABLE_SECTORS
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x10000, 92, checksum, 0, own, other, *usable, unique(disk).bytes_le),
            *(table, _ENTRIES, _ENTRY_SIZE, zlib.crc32(entries)),
        )

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")
