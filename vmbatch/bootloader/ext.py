"""ext2, ext3 and ext4, read only and within bounds. Without the journal: as every boot loader, it reads what lies on the disk.

Source of the layout: the kernel's fs/ext4/ext4.h and ext4_extents.h, and its Documentation/filesystems/ext4.
"""

import itertools
import stat
import struct
import uuid
from collections.abc import Iterator

import msgspec

from ..format import FormatError, Read
from .tree import Node

_SUPER_AT, _SUPER_SIZE, _MAGIC = 1024, 1024, 0xEF53
_META_GROUPS, _64BIT = 0x10, 0x80
_READABLE = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
"""filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data, encrypt, casefold."""
_SPARSE = 0x1
_ENCRYPTED, _EXTENTS, _INLINE = 0x800, 0x80000, 0x10000000
_ROOT = 2
_FAST_LINK = 60
_EXTENT_MAGIC, _EXTENT_DEPTH = 0xF30A, 5
_EXTENT_HEADER, _EXTENT, _EXTENT_INDEX = struct.Struct("<HHHHI"), struct.Struct("<IHHI"), struct.Struct("<IIHH")
_WRITTEN = 32768
"""The length of an extent above which it stands for zeros (ext_ee_len, EXT_INIT_MAX_LEN)."""
_DIRECT, _INDIRECT_LEVELS = 12, 3
_ENTRY = struct.Struct("<IHBB")
_DIRECTORY_LIMIT = 16 << 20
_PIECE = 1 << 20
_TYPES = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


class _Inode(msgspec.Struct, frozen=True):
    kind: str
    size: int
    flags: int
    map: bytes


class _Run(msgspec.Struct, frozen=True):
    """`count` blocks of a file from `first` on, at `start` of the file system; 0 for zeros."""

    first: int
    start: int
    count: int


class Ext:
    """A tree.FileSystem at the start of what `read` reads. FormatError."""

    def __init__(self, read: Read) -> None:
        self._read = read
        data = self._exactly(_SUPER_AT, _SUPER_SIZE, "superblock")
        (inodes, blocks, first, bits, self._group_blocks, self._group_inodes, magic, revision, inode_size, incompatible,
         read_only, identity, label, descriptor, first_meta, blocks_high) = _unpacked(data)
        if magic != _MAGIC:
            raise FormatError("has no ext2, ext3 or ext4 there")
        if not revision:
            inode_size, incompatible, read_only = 128, 0, 0
        if incompatible & ~_READABLE:
            raise FormatError(f"has an ext file system with features that are not known here: {incompatible & ~_READABLE:#x}")
        if bits > 6 or not 128 <= inode_size <= 1024 << bits or inode_size & (inode_size - 1):
            raise FormatError(f"has an ext file system with blocks of 2^{10 + bits} and inodes of {inode_size} bytes")
        wide = bool(incompatible & _64BIT)
        self._block = 1024 << bits
        self._blocks = blocks | (blocks_high << 32 if wide else 0)
        self._descriptor = descriptor if wide else 32
        if (not 32 <= self._descriptor <= self._block or not 0 < self._group_blocks <= 8 * self._block * 16
                or not 0 < self._group_inodes <= 8 * self._block or inodes > 1 << 32 or first > 1):
            raise FormatError("has an ext file system with a superblock that makes no sense")
        self._first, self._inodes, self._inode_size, self._wide = first, inodes, inode_size, wide
        self._first_meta = first_meta if incompatible & _META_GROUPS else None
        self._sparse = bool(read_only & _SPARSE)
        self.uuid = str(uuid.UUID(bytes=identity))
        self.label = label.rstrip(b"\0").decode("utf-8", "replace")
        self._known: dict[int, _Inode] = {}

    def root(self) -> Node:
        """As FileSystem."""
        return self._node(_ROOT)

    def lookup(self, directory: Node, name: str) -> Node | None:
        """As FileSystem."""
        wanted = name.encode("utf-8", "surrogateescape")
        number = next((number for number, found in self._entries(directory) if found == wanted), 0)
        return self._node(number) if number else None

    def names(self, directory: Node) -> Iterator[str]:
        """As FileSystem."""
        return (name.decode("utf-8", "surrogateescape") for _, name in self._entries(directory) if name not in (b".", b".."))

    def content(self, file: Node) -> Iterator[bytes]:
        """As FileSystem."""
        inode = self._inode(file.number)
        if inode.flags & _ENCRYPTED:
            raise FormatError("has an encrypted file where one is to be read")
        if inode.flags & _INLINE:
            if file.size > _FAST_LINK:
                raise FormatError("has a file in its inode (inline_data), which cannot be read here")
            yield inode.map[: file.size]
        elif inode.kind == "link" and file.size < _FAST_LINK and not inode.flags & _EXTENTS:
            yield inode.map[: file.size]
        else:
            yield from self._pieces(inode)

    def _exactly(self, offset: int, length: int, what: str) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise FormatError(f"has an ext file system that ends before byte {offset + length}, in its {what}")
        return data

    def _node(self, number: int) -> Node:
        inode = self._inode(number)
        return Node(inode.kind, inode.size, number)

    def _inode(self, number: int) -> _Inode:
        if number not in self._known:
            if not 0 < number <= self._inodes:
                raise FormatError(f"has an ext file system of {self._inodes} inodes that uses inode {number}")
            group, index = divmod(number - 1, self._group_inodes)
            place = self._table(group) * self._block + index * self._inode_size
            data = self._exactly(place, 128, f"inode {number}")
            mode = int.from_bytes(data[0:2], "little")
            kind = _TYPES.get(stat.S_IFMT(mode), "other")
            high = data[108:112] if kind == "file" else b""
            size = int.from_bytes(data[4:8] + high, "little")
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[number] = _Inode(kind, size, int.from_bytes(data[32:36], "little"), data[40:100])
        return self._known[number]

    def _table(self, group: int) -> int:
        """The block at which the inodes of a group begin."""
        per_block = self._block // self._descriptor
        meta, index = divmod(group, per_block)
        if self._first_meta is None or meta < self._first_meta:
            block = self._first + 1 + meta
        else:
            block = self._first + meta * per_block * self._group_blocks + self._has_super(meta * per_block)
        data = self._exactly(block * self._block + index * self._descriptor, self._descriptor, "group descriptors")
        low, high = data[8:12], data[40:44] if self._descriptor >= 64 else b""
        return self._checked(int.from_bytes(low + high, "little"), 1)

    def _has_super(self, group: int) -> bool:
        """Whether the group has a copy of the superblock (fs/ext4/balloc.c, ext4_bg_has_super)."""
        return not self._sparse or group in (0, 1) or any(group == base ** power for base in (3, 5, 7) for power in range(1, 21))

    def _checked(self, block: int, count: int) -> int:
        if not self._first <= block or block + count > self._blocks or not block:
            raise FormatError(f"has an ext file system of {self._blocks} blocks that uses block {block}")
        return block

    def _entries(self, directory: Node) -> Iterator[tuple[int, bytes]]:
        """(inode, name); the inner nodes of an index look like empty entries."""
        inode = self._inode(directory.number)
        if inode.flags & (_INLINE | _ENCRYPTED):
            raise FormatError("has a directory that is encrypted, or in its inode (inline_data), which cannot be read here")
        if inode.size > _DIRECTORY_LIMIT:
            raise FormatError(f"has a directory of {inode.size} bytes, more than {_DIRECTORY_LIMIT}")
        for piece in self._pieces(inode):
            for start in range(0, len(piece), self._block):
                yield from _listed(piece[start : start + self._block])

    def _pieces(self, inode: _Inode) -> Iterator[bytes]:
        """`inode.size` bytes; whole blocks but for the last."""
        left = inode.size
        total = -(-left // self._block)
        runs = self._extents(inode.map, total) if inode.flags & _EXTENTS else self._pointers(inode.map, total)
        at = 0
        most = _PIECE // self._block
        for run in itertools.chain(runs, [_Run(total, 0, 0)]):
            if run.first < at or run.first + run.count > total:
                raise FormatError("has a file whose extents overlap, or lie behind its end")
            for start, count in ((0, run.first - at), (run.start, run.count)):
                for done in range(0, count, most):
                    some = min(most, count - done)
                    data = bytes(some * self._block)
                    if start:
                        data = self._exactly((start + done) * self._block, some * self._block, "files")
                    yield data[:left]
                    left -= min(left, len(data))
            at = run.first + run.count

    def _extents(self, node: bytes, total: int, depth: int | None = None) -> Iterator[_Run]:
        """Of the first `total` blocks, ascending: so no extent is there twice, and their number is bounded."""
        magic, count, most, level, _ = _EXTENT_HEADER.unpack_from(node)
        if magic != _EXTENT_MAGIC or count > most or _EXTENT_HEADER.size + count * _EXTENT.size > len(node):
            raise FormatError("has a file with a damaged tree of extents")
        if level > _EXTENT_DEPTH or (depth is not None and level != depth):
            raise FormatError("has a file with a tree of extents that is too deep, or in a circle")
        at = -1
        for number in range(count):
            place = _EXTENT_HEADER.size + number * _EXTENT.size
            if level:
                first, low, high, _ = _EXTENT_INDEX.unpack_from(node, place)
            else:
                first, length, high, low = _EXTENT.unpack_from(node, place)
            if first <= at:
                raise FormatError("has a file with a tree of extents that is out of order")
            if first >= total:
                return
            at = first
            block = high << 32 | low
            if level:
                inner = self._exactly(self._checked(block, 1) * self._block, self._block, "extents")
                yield from self._extents(inner, total, level - 1)
                continue
            zeros = length > _WRITTEN
            length = min(length - _WRITTEN if zeros else length, total - first)
            if length:
                yield _Run(first, 0 if zeros else self._checked(block, length), length)

    def _pointers(self, node: bytes, total: int) -> Iterator[_Run]:
        """The old way: pointers to blocks, and to blocks of pointers up to three deep; neighbours are put together."""
        pending: _Run | None = None
        for at, block in enumerate(itertools.islice(self._flat(node, total), total)):
            if pending and pending.start and block == pending.start + pending.count:
                pending = _Run(pending.first, pending.start, pending.count + 1)
            else:
                if pending:
                    yield pending
                pending = _Run(at, self._checked(block, 1), 1) if block else None
        if pending:
            yield _Run(pending.first, self._checked(pending.start, pending.count), pending.count)

    def _flat(self, node: bytes, total: int) -> Iterator[int]:
        pointers = struct.unpack("<15I", node)
        yield from pointers[:_DIRECT]
        for level in range(1, _INDIRECT_LEVELS + 1):
            yield from self._below(pointers[_DIRECT + level - 1], level, total)

    def _below(self, block: int, level: int, total: int) -> Iterator[int]:
        per_block = self._block // 4
        if not block:
            yield from itertools.repeat(0, min(per_block ** level, total))
            return
        data = self._exactly(self._checked(block, 1) * self._block, self._block, "blocks of pointers")
        for pointer in struct.unpack(f"<{per_block}I", data):
            if level == 1:
                yield pointer
            else:
                yield from self._below(pointer, level - 1, total)


def _unpacked(data: bytes) -> tuple[int, int, int, int, int, int, int, int, int, int, int, bytes, bytes, int, int, int]:
    """Of ext4_super_block: s_inodes_count, s_blocks_count_lo, s_first_data_block, s_log_block_size, s_blocks_per_group,
    s_inodes_per_group, s_magic, s_rev_level, s_inode_size, s_feature_incompat, s_feature_ro_compat, s_uuid, s_volume_name,
    s_desc_size, s_first_meta_bg, s_blocks_count_hi."""

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(data[at : at + size], "little")

    return (number(0), number(4), number(20), number(24), number(32), number(40), number(56, 2), number(76), number(88, 2),
            number(96), number(100), data[104:120], data[120:136], number(254, 2), number(260), number(336))


def _listed(block: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ENTRY.size <= len(block):
        number, length, name_length, _ = _ENTRY.unpack_from(block, at)
        if length in (0, 0xFFFF):
            length = 65536 if len(block) == 65536 else 0
        if length < _ENTRY.size or length % 4 or at + length > len(block) or _ENTRY.size + name_length > length:
            raise FormatError("has a damaged directory")
        if number:
            yield number, block[at + _ENTRY.size : at + _ENTRY.size + name_length]
        at += length
