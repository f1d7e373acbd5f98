"""FAT12, FAT16 and FAT32, read only and within bounds.

Source of the layout: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, and the kernel's fs/fat (namei_vfat.c, dir.c).
"""

import codecs
import struct
from collections.abc import Iterator

from ..format import FormatError, Read
from .place import is_fat
from .tree import Node

_BOOT = struct.Struct("<HBHBHHBHHHIII")
_BOOT_AT, _BOOT_SIZE = 11, 512
_ROOT_CLUSTER = 44
_ENTRY_SIZE = 32
_VOLUME, _DIRECTORY, _LONG = 0x08, 0x10, 0x0F
_LAST, _DELETED, _KANJI = 0x40, 0xE5, 0x05
_CHARACTERS = 13
_LONG_LIMIT = 20
"""Entries of a long name."""
_DIRECTORY_LIMIT = 2 << 20
_PIECE = 1 << 20
_FAT12, _FAT16 = 4085, 65525
"""Fewer clusters than these."""
_TOP = 0
"""The number of the top directory, which has no cluster in FAT12 and FAT16."""
_CACHE = 4096
_DOS, _UNICODE = codecs.lookup("cp437"), codecs.lookup("utf-16-le")
"""Looked up here: who reads cannot load modules any more."""


class Fat:
    """A tree.FileSystem of `size` bytes at the start of what `read` reads. FormatError."""

    def __init__(self, read: Read, size: int) -> None:
        if not is_fat(read, size):
            raise FormatError("has no FAT file system there that makes sense")
        boot = read(0, _BOOT_SIZE)
        (unit, cluster, reserved, fats, files, few, _, short_fat, _, _, _, many,
         long_fat) = _BOOT.unpack_from(boot, _BOOT_AT)
        sectors, fat_sectors = few or many, short_fat or long_fat
        self._read = read
        self._cluster = unit * cluster
        self._fat_at, self._fat_size = reserved * unit, fat_sectors * unit
        self._top_at, self._top_size = self._fat_at + fats * self._fat_size, files * _ENTRY_SIZE
        self._data_at = self._top_at + -(-self._top_size // unit) * unit
        clusters = (sectors * unit - self._data_at) // self._cluster
        self._bits = 12 if clusters < _FAT12 else 16 if clusters < _FAT16 else 32
        if (self._bits == 32) != (not files and not short_fat):
            raise FormatError(f"has a FAT file system of {clusters} clusters with the tables of another size")
        if (clusters + 2) * self._bits > self._fat_size * 8:
            raise FormatError(f"has a FAT file system of {clusters} clusters with a table of {self._fat_size} bytes")
        self._clusters = clusters
        self._top_cluster = int.from_bytes(boot[_ROOT_CLUSTER : _ROOT_CLUSTER + 4], "little") if self._bits == 32 else 0
        serial = boot[67:71] if self._bits == 32 else boot[39:43]
        label = boot[71:82] if self._bits == 32 else boot[43:54]
        self.uuid = f"{int.from_bytes(serial[2:], 'little'):04X}-{int.from_bytes(serial[:2], 'little'):04X}"
        self.label = _DOS.decode(label)[0].rstrip()
        self._block, self._block_at = b"", -1

    def root(self) -> Node:
        """As FileSystem."""
        return Node("directory", 0, _TOP)

    def lookup(self, directory: Node, name: str) -> Node | None:
        """As FileSystem; capitals are as good as others."""
        wanted = name.casefold()
        return next((node for names, node in self._entries(directory) if wanted in (one.casefold() for one in names)), None)

    def names(self, directory: Node) -> Iterator[str]:
        """As FileSystem; the long ones where there are."""
        return (names[0] for names, _ in self._entries(directory) if names[0] not in (".", ".."))

    def content(self, file: Node) -> Iterator[bytes]:
        """As FileSystem."""
        left = file.size
        for piece in self._pieces(file.number, left) if left else ():
            yield piece[:left]
            left -= min(left, len(piece))
        if left:
            raise FormatError("has a file that is longer than its chain of clusters")

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise FormatError(f"has a FAT file system that ends before byte {offset + length}")
        return data

    def _next(self, cluster: int) -> int:
        """The entry of a cluster in the first table; its 28, 16 or 12 bits."""
        at = cluster * self._bits // 8
        width = 4 if self._bits == 32 else 2
        start = at - at % _CACHE
        if start != self._block_at:
            self._block = self._exactly(self._fat_at + start, min(_CACHE + 1, self._fat_size - start))
            self._block_at = start
        entry = int.from_bytes(self._block[at - start : at - start + width], "little")
        if self._bits == 12:
            return entry >> 4 if cluster & 1 else entry & 0xFFF
        return entry & 0x0FFFFFFF if self._bits == 32 else entry

    def _chain(self, first: int) -> Iterator[int]:
        cluster, count = first, 0
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self._bits]
        while cluster < end:
            if not 2 <= cluster < self._clusters + 2:
                raise FormatError(f"has a FAT file system of {self._clusters} clusters that uses cluster {cluster}")
            count += 1
            if count > self._clusters:
                raise FormatError("has a FAT file system with a chain of clusters that goes in a circle")
            yield cluster
            cluster = self._next(cluster)

    def _pieces(self, first: int, size: int) -> Iterator[bytes]:
        """At most `size` bytes, rounded up to clusters; neighbours at once."""
        start, count = 0, 0
        left = -(-size // self._cluster)
        for cluster in self._chain(first):
            if count and cluster == start + count and count * self._cluster < _PIECE:
                count += 1
            else:
                if count:
                    yield self._clusters_at(start, count)
                start, count = cluster, 1
            left -= 1
            if not left:
                break
        if count:
            yield self._clusters_at(start, count)

    def _clusters_at(self, start: int, count: int) -> bytes:
        return self._exactly(self._data_at + (start - 2) * self._cluster, count * self._cluster)

    def _records(self, directory: Node) -> Iterator[bytes]:
        """The entries of a directory as they lie there, to its end."""
        if directory.number == _TOP and self._bits != 32:
            pieces: Iterator[bytes] = iter([self._exactly(self._top_at, self._top_size)])
        else:
            pieces = self._pieces(directory.number or self._top_cluster, _DIRECTORY_LIMIT + self._cluster)
        done = 0
        for piece in pieces:
            done += len(piece)
            if done > _DIRECTORY_LIMIT:
                raise FormatError(f"has a directory of more than {_DIRECTORY_LIMIT} bytes")
            for at in range(0, len(piece), _ENTRY_SIZE):
                if not piece[at]:
                    return
                yield piece[at : at + _ENTRY_SIZE]

    def _entries(self, directory: Node) -> Iterator[tuple[tuple[str, ...], Node]]:
        """(long name if there is one, short name) and what it is; the top directory has no `..`."""
        long: list[bytes] = []
        checksum = expected = 0
        for record in self._records(directory):
            order, attributes = record[0], record[11]
            if order == _DELETED:
                long = []
            elif attributes & 0x3F == _LONG:
                if order & _LAST:
                    long, checksum, expected = [], record[13], order & ~_LAST
                if not 0 < expected <= _LONG_LIMIT or order & ~_LAST != expected or record[13] != checksum:
                    long, expected = [], 0
                    continue
                long.insert(0, record[1:11] + record[14:26] + record[28:32])
                expected -= 1
            elif attributes & _VOLUME:
                long = []
            else:
                short = _short(record)
                whole = long and not expected and checksum == _checksum(record[:11])
                names = (_long(long), short) if whole else (short.lower(), short)
                long, expected = [], 0
                high = record[20:22] if self._bits == 32 else b"\0\0"
                first = int.from_bytes(record[26:28] + high, "little")
                if attributes & _DIRECTORY:
                    yield names, Node("directory", 0, first)
                else:
                    yield names, Node("file", int.from_bytes(record[28:32], "little"), first)


def _short(record: bytes) -> str:
    stem = _DOS.decode(record[0:8])[0].rstrip(" ")
    if record[0] == _KANJI:
        stem = "\xe5" + stem[1:]
    extension = _DOS.decode(record[8:11])[0].rstrip(" ")
    return f"{stem}.{extension}" if extension else stem


def _long(parts: list[bytes]) -> str:
    text = _UNICODE.decode(b"".join(parts), "replace")[0]
    return text.partition("\0")[0]


def _checksum(short: bytes) -> int:
    """Ties a long name to its short one."""
    total = 0
    for byte in short:
        total = ((total >> 1) | (total << 7 & 0xFF)) + byte & 0xFF
    return total
