"""qcow version 1, as QEMU (block/qcow.c) and Xen's blktap (tools/blktap2/drivers/block-qcow.c) have it; read as hostile input."""

import hashlib
import struct

import msgspec

from . import FormatError, Layout, Read
from .qcow2 import COMPLETE, MAGIC, TABLE_LIMIT, Area, backing_name, check_areas, check_size, check_table, check_tables

_HEADER = struct.Struct(">4sIQIIQBBHIQ")
_XEN = struct.Struct(">4sIII")
_XEN_MAGIC = b"XEN\xfb"
_SPARSE, _BIG_ENDIAN = 1, 2
_XEN_UNIT = 4096
_CHUNK = 64 << 10

SIZE_LIMIT = 8 << 40
"""Where a table of 32 MiB, QEMU's limit (block/qcow.c), ends."""


class Qcow(msgspec.Struct, frozen=True):
    """A complete image: `size` is what the guest sees, in bytes; `xen` where it has the extension of Xen's blktap."""

    size: int
    cluster_bits: int
    l2_bits: int
    xen: bool


def overlay(backing: str, size: int, *, xen: bool = False) -> Layout:
    """An empty image of `size` bytes over the file `backing`, whose format cannot be named. FormatError."""
    return _layout(size, 9, 12, backing_name(backing), xen=xen)


def blank(size: int, *, xen: bool = False) -> Layout:
    """An empty image of `size` bytes that stands alone. FormatError."""
    return _layout(size, 12, 9, b"", xen=xen)


def _layout(size: int, bits: int, l2_bits: int, backing: bytes, *, xen: bool) -> Layout:
    check_size(size)
    entries = _needed(size, bits, l2_bits)
    if entries > TABLE_LIMIT:
        raise FormatError(f"cannot have {size} bytes", "8 TiB is the limit of qcow version 1")
    name = _HEADER.size + (_XEN.size if xen else 0)
    unit = _XEN_UNIT if xen else 8
    l1 = -(-(name + len(backing)) // unit) * unit
    header = _HEADER.pack(MAGIC, 1, name if backing else 0, len(backing), 0, size, bits, l2_bits, 0, 0, l1)
    if xen:
        digest = hashlib.md5(usedforsecurity=False)
        for place in range(0, entries * 8, _CHUNK):
            digest.update(bytes(min(_CHUNK, entries * 8 - place)))
        header += _XEN.pack(_XEN_MAGIC, _sum(digest.digest()), 1 if backing else 1 << l2_bits, _SPARSE | _BIG_ENDIAN)
    end = _XEN_UNIT if xen else 512
    return Layout(-(-(l1 + entries * 8) // end) * end, ((0, header + backing),))


def parse(read: Read, file_size: int) -> Qcow:
    """A complete image, which leads to nothing outside its file; its L1 table is walked, its L2 tables are not. FormatError."""
    head = read(0, _HEADER.size + _XEN.size)
    if head[:4] != MAGIC:
        raise FormatError("is not qcow", "state the format that it has")
    if len(head) < _HEADER.size:
        raise FormatError("ends in its header")
    _, version, backing, length, _, size, bits, l2_bits, padding, crypt, l1 = _HEADER.unpack_from(head)
    if version in (2, 3):
        raise FormatError("is qcow2, not qcow version 1", "state source_format='qcow2'")
    if version != 1:
        raise FormatError(f"is qcow version {version}, which is not known")
    if backing or length:
        raise FormatError("has a backing file", COMPLETE)
    if crypt:
        raise FormatError("is encrypted")
    if padding:
        raise FormatError("has header fields that are not known")
    if not 9 <= bits <= 16:
        raise FormatError(f"has clusters of 2^{bits} bytes, not of 2^9 to 2^16")
    if not 6 <= l2_bits <= 13:
        raise FormatError(f"has L2 tables of 2^{l2_bits} entries, not of 2^6 to 2^13")
    check_size(size)
    entries = _needed(size, bits, l2_bits)
    check_table(entries, entries)
    table = Area("L1 table", l1, l1 + entries * 8)
    xen = l1 >= _HEADER.size + _XEN.size and head[_HEADER.size:_HEADER.size + 4] == _XEN_MAGIC
    areas = [Area("header", 0, _HEADER.size + (_XEN.size if xen else 0)), table]
    check_areas(areas, _XEN_UNIT if xen else 8, file_size)
    if xen:
        _check_xen(read, head, table, l2_bits)
    check_tables(read, table, areas, unit=1 << bits, length=8 << l2_bits, file_size=file_size)
    return Qcow(size, bits, l2_bits, xen)


def _check_xen(read: Read, head: bytes, table: Area, l2_bits: int) -> None:
    """With Xen's flag for it, the L1 table is big-endian as the rest; before 2010 blktap wrote it as the processor has it."""
    if len(head) < _HEADER.size + _XEN.size:
        raise FormatError("ends in its header")
    _, checksum, allocation, flags = _XEN.unpack_from(head, _HEADER.size)
    if not flags & _BIG_ENDIAN:
        raise FormatError("has an L1 table in the processor's byte order, as Xen wrote it before 2010",
                          "qcow2raw of Xen's blktap makes a raw image of it")
    if flags & ~(_SPARSE | _BIG_ENDIAN):
        raise FormatError(f"has flags of Xen that are not known ({flags:#x})")
    if allocation not in (1, 1 << l2_bits):
        raise FormatError(f"has allocations of {allocation} clusters in Xen's extension")
    digest = hashlib.md5(usedforsecurity=False)
    for place in range(table.start, table.end, _CHUNK):
        digest.update(read(place, min(_CHUNK, table.end - place)))
    if _sum(digest.digest()) != checksum:
        raise FormatError("has an L1 table that its checksum denies",
                          "it is damaged, or QEMU has written to it; qemu-img convert makes a sound one of it")


def _sum(digest: bytes) -> int:
    """Xen's checksum of an L1 table, from its MD5: the first word, as a little-endian processor takes it (gen_cksum)."""
    return int.from_bytes(digest[:4], "little")


def _needed(size: int, bits: int, l2_bits: int) -> int:
    return -(-size >> (bits + l2_bits))
