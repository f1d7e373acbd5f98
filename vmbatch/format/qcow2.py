"""qcow2 (QEMU docs/interop/qcow2.txt): overlays and blank images written, complete images read as hostile input."""

import itertools
import secrets
import struct
from array import array
from collections.abc import Iterator

import msgspec

from . import FormatError, Layout, Read

MAGIC = b"QFI\xfb"
PATH_LIMIT = 1023
"""Bytes of a backing file's name, in every version of the format."""
TABLE_LIMIT = (32 << 20) // 8
"""Entries of the L1 table that QEMU opens: 32 MiB (block/qcow2.h, QCOW_MAX_L1_SIZE)."""
COMPLETE = "qemu-img convert makes a complete image of it"

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_MORE = struct.Struct(">QQQII")
_ENTRY = struct.Struct(">Q")
_EXTENSION = struct.Struct(">II")
_FIXED = _HEADER.size + _MORE.size
_COMPRESSION_TYPE = 104
_KNOWN_HEADER = 112
_CLUSTER_BITS = 16
_SIZE_LIMIT = 1 << 56
_REFCOUNT_LIMIT = 8 << 20
"""Bytes of the refcount table (block/qcow2.h, QCOW_MAX_REFTABLE_SIZE)."""
_CHUNK = 64 << 10
_HEAPS = 1 << 6
_WORD = (1 << 64) - 1

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_L1_RESERVED = 0x7F << 56
_COPIED = 1 << 63
_METHODS = ("zlib", "zstd")

_END = 0
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_REFUSED = {
    _BACKING_FORMAT: ("names the format of a backing file", COMPLETE),
    0x44415441: ("names an external data file", COMPLETE),
    0x0537BE77: ("has a header for encryption", ""),
    0x23852875: ("has bitmaps", COMPLETE),
}


class Area(msgspec.Struct, frozen=True):
    """A part of an image file, from byte `start` up to `end`, which is not in it."""

    name: str
    start: int
    end: int


class Qcow2(msgspec.Struct, frozen=True):
    """A complete image: `size` is what the guest sees, in bytes; `compression` that of clusters which are compressed."""

    version: int
    size: int
    cluster_bits: int
    compression: str


def overlay(backing: str, backing_format: str, size: int) -> Layout:
    """An empty image of `size` bytes over the file `backing`, an absolute path. FormatError."""
    form = backing_format.encode()
    if not 0 < len(form) < 16:
        raise FormatError(f"cannot name {backing_format!r} as the format of its backing file")
    extension = _EXTENSION.pack(_BACKING_FORMAT, len(form)) + form.ljust(_up(len(form), 8), b"\0")
    return _layout(size, extension, backing_name(backing))


def blank(size: int) -> Layout:
    """An empty image of `size` bytes that stands alone. FormatError."""
    return _layout(size, b"", b"")


def backing_name(path: str) -> bytes:
    """A backing file's path as headers hold it. QEMU takes what is not absolute for a protocol, too. FormatError."""
    name = path.encode(errors="surrogateescape")
    if len(name) > PATH_LIMIT:
        raise FormatError(f"cannot name a backing file with a path of {len(name)} bytes", f"{PATH_LIMIT} are possible")
    if not path.startswith("/") or "\0" in path:
        raise FormatError(f"cannot have the backing file {path!r}", "an absolute path is needed")
    return name


def _layout(size: int, extensions: bytes, backing: bytes) -> Layout:
    """The clusters: header, refcount table, the one refcount block, L1 table."""
    check_size(size)
    cluster = 1 << _CLUSTER_BITS
    entries = _needed(size, _CLUSTER_BITS, cluster // 8)
    if entries > TABLE_LIMIT:
        raise FormatError(f"cannot have {size} bytes", "2 PiB is the limit of qcow2 with clusters of 64 KiB")
    clusters = 3 + -(-entries * 8 // cluster)
    extensions += _EXTENSION.pack(_END, 0)
    place = _FIXED + len(extensions) if backing else 0
    header = _HEADER.pack(MAGIC, 3, place, len(backing), _CLUSTER_BITS, size, 0, entries, 3 * cluster, cluster, 1, 0, 0)
    more = _MORE.pack(0, 0, 0, 4, _FIXED)
    return Layout(clusters * cluster, (
        (0, header + more + extensions + backing), (cluster, _ENTRY.pack(2 * cluster)), (2 * cluster, b"\0\1" * clusters)))


def parse(read: Read, file_size: int) -> Qcow2:
    """A complete image, which leads to nothing outside its file; its L1 table is walked, its L2 tables are not. FormatError."""
    head = read(0, _KNOWN_HEADER)
    if head[:4] != MAGIC:
        raise FormatError("is not qcow2", "state the format that it has")
    version = int.from_bytes(head[4:8])
    if len(head) < {2: _HEADER.size, 3: _FIXED}.get(version, 8):
        raise FormatError("ends in its header")
    if version == 1:
        raise FormatError("is qcow version 1, not qcow2", "state source_format='qcow'")
    if version not in (2, 3):
        raise FormatError(f"is qcow version {version}, which is not known")
    _, _, backing, length, bits, size, crypt, entries, l1, refcounts, refcount_clusters, snapshots, _ = _HEADER.unpack_from(head)
    if backing or length:
        raise FormatError("has a backing file", COMPLETE)
    if crypt:
        raise FormatError("is encrypted")
    if snapshots:
        raise FormatError("has internal snapshots", COMPLETE)
    if not 9 <= bits <= 21:
        raise FormatError(f"has clusters of 2^{bits} bytes, not of 2^9 to 2^21")
    check_size(size)
    cluster = 1 << bits
    features, end, compression = (0, _HEADER.size, 0) if version == 2 else _version_3(read, head, bits)
    _check_extensions(read, end, cluster)
    check_table(entries, _needed(size, bits, cluster // (16 if features & _EXTENDED_L2 else 8)))
    if not 0 < refcount_clusters * cluster <= _REFCOUNT_LIMIT:
        raise FormatError(f"has a refcount table of {refcount_clusters} clusters", "QEMU opens 1 cluster to 8 MiB")
    areas = [Area("header", 0, cluster), Area("L1 table", l1, l1 + entries * 8),
             Area("refcount table", refcounts, refcounts + refcount_clusters * cluster)]
    check_areas(areas, cluster, file_size)
    check_tables(read, areas[1], areas, unit=cluster, length=cluster, file_size=file_size, flags=_COPIED, reserved=_L1_RESERVED)
    return Qcow2(version, size, bits, _METHODS[compression])


def _version_3(read: Read, head: bytes, bits: int) -> tuple[int, int, int]:
    """Incompatible features, length of the header, compression type."""
    features, _, autoclear, order, end = _MORE.unpack_from(head, _HEADER.size)
    if end < _FIXED or end % 8 or end > 1 << bits:
        raise FormatError(f"has a header that says it is {end} bytes long")
    if features & _DIRTY:
        raise FormatError("was not closed by its last writer (dirty bit)", "qemu-img check -r all mends it")
    if features & _CORRUPT:
        raise FormatError("is marked as corrupt", "see qemu-img check")
    if features & _DATA_FILE:
        raise FormatError("has an external data file", COMPLETE)
    if unknown := features & ~(_COMPRESSION | _EXTENDED_L2):
        raise FormatError(f"has incompatible features that are not known ({unknown:#x})", COMPLETE)
    if autoclear:
        raise FormatError(f"has bitmaps or other autoclear features ({autoclear:#x})", COMPLETE)
    if features & _EXTENDED_L2 and bits < 14:
        raise FormatError("has extended L2 entries, but clusters below 16 KiB")
    if order > 6:
        raise FormatError(f"has reference counts of 2^{order} bits, not of 2^0 to 2^6")
    fields = read(_COMPRESSION_TYPE, end - _COMPRESSION_TYPE)
    if len(fields) < end - _COMPRESSION_TYPE:
        raise FormatError("ends in its header")
    compression = fields[0] if fields else 0
    if any(fields[1:]):
        raise FormatError("has header fields that are not known")
    if bool(compression) != bool(features & _COMPRESSION):
        raise FormatError(f"has compression type {compression}, but its features deny it")
    if compression >= len(_METHODS):
        raise FormatError(f"has compression type {compression}, which is not known")
    return features, end, compression


def _check_extensions(read: Read, place: int, limit: int) -> None:
    """Of the header extensions only the names of features may stand; all must end in the first cluster."""
    seen = False
    while True:
        head = read(place, _EXTENSION.size)
        if place + _EXTENSION.size > limit or len(head) < _EXTENSION.size:
            raise FormatError("has header extensions without an end")
        kind, length = _EXTENSION.unpack(head)
        place += _EXTENSION.size + _up(length, 8)
        if kind == _END:
            if length:
                raise FormatError("has data in the end of its header extensions")
            return
        if kind in _REFUSED:
            raise FormatError(*_REFUSED[kind])
        if kind != _FEATURE_NAMES:
            raise FormatError(f"has a header extension that is not known ({kind:#010x})", COMPLETE)
        if seen:
            raise FormatError("has the table of feature names twice")
        if length % 48 or place > limit:
            raise FormatError(f"has a table of feature names of {length} bytes")
        seen = True


def check_size(size: int) -> None:
    """FormatError unless a disk can have `size` bytes."""
    if not size:
        raise FormatError("has a virtual size of 0")
    if size > _SIZE_LIMIT:
        raise FormatError(f"has a virtual size of {size} bytes, more than 64 PiB")
    if size % 512:
        raise FormatError(f"has a virtual size of {size} bytes, no multiple of 512")


def check_table(entries: int, needed: int) -> None:
    """FormatError unless an L1 table of so many entries is enough for the disk and not too large."""
    if entries > TABLE_LIMIT:
        raise FormatError("has an L1 table of more than 32 MiB")
    if entries < needed:
        raise FormatError(f"has an L1 table of {entries} entries, but needs {needed}")


def check_areas(areas: list[Area], unit: int, file_size: int) -> None:
    """FormatError unless each area begins at a multiple of `unit`, ends in the file, and shares no unit with another."""
    for area in areas:
        if area.start % unit:
            raise FormatError(f"has its {area.name} at no multiple of {unit}")
        if area.end > file_size:
            raise FormatError(f"has its {area.name} outside the file", "it may be truncated")
    areas = sorted(areas, key=lambda area: area.start)
    for first, second in itertools.pairwise(areas):
        if second.start < first.end:
            raise FormatError(f"has {first.name} and {second.name} in one place")


def check_tables(
    read: Read, table: Area, areas: list[Area], *, unit: int, length: int, file_size: int, flags: int = 0, reserved: int = 0,
) -> None:
    """Walks an L1 table. FormatError unless its L2 tables, `length` bytes each, are apart from `areas` and from each other."""
    once = _Once()
    ranges = [(area.name, area.start, area.end) for area in areas]
    for entry in _entries(read, table):
        if entry & reserved:
            raise FormatError("has reserved bits in its L1 table")
        start = entry & ~flags
        if start % unit:
            raise FormatError(f"has an L2 table at no multiple of {unit}")
        if start + length > file_size:
            raise FormatError("has an L2 table outside the file", "it may be truncated")
        for name, first, last in ranges:
            if start < last and start + length > first:
                raise FormatError(f"has L2 table and {name} in one place")
        once.add(start)
    if once.twice():
        raise FormatError("has an L2 table that is in use twice")


def _entries(read: Read, table: Area) -> Iterator[int]:
    """The entries of a table that are not 0."""
    for place in range(table.start, table.end, _CHUNK):
        length = min(_CHUNK, table.end - place)
        data = read(place, length)
        if len(data) < length:
            raise FormatError(f"ends in its {table.name}")
        if data.count(0) < length:
            yield from filter(None, struct.unpack(f">{length // 8}Q", data))


class _Once:
    """Whether a number comes twice, in 8 bytes a number: dealt by a secret, so that nobody can make one heap a large one."""

    def __init__(self) -> None:
        self._factor = secrets.randbits(64) | 1
        self._heaps = [array("Q") for _ in range(_HEAPS)]

    def add(self, number: int) -> None:
        self._heaps[(number * self._factor & _WORD) >> 58].append(number)

    def twice(self) -> bool:
        return any(len(set(heap)) < len(heap) for heap in self._heaps)


def _needed(size: int, bits: int, l2_entries: int) -> int:
    return -(-size // (l2_entries << bits))


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
