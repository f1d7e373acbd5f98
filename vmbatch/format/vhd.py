"""VHD images (`vpc` in QEMU): a strict reader, writers in the manner of Xen's libvhd, and the merge of a chain.

Numbers are big-endian. Offsets and conventions are those of xen@tools/blktap2/include/vhd.h and libvhd.c.
"""

import bisect
import itertools
import posixpath
import re
import struct
import sys
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from . import FormatError, Layout, Read

RAW_PARENT = str(uuid.UUID(int=0))
"""The identity by which a differencing image says that its parent is a raw image (vhd.h, vhd_parent_raw)."""

SIZE_LIMIT = 2040 << 30
"""Bytes of the largest disk: Microsoft's limit, which libvhd keeps."""

_SECTOR = 512
_BLOCK = 2 << 20
_EPOCH = 946684800
"""2000-01-01 UTC, in unix seconds."""

_FOOTER = struct.Struct(">8sIIQI4sIIQQHBBII16sB427x")
_HEADER = struct.Struct(">8sQQIIII16sI4x512s" + 8 * "IIIIQ" + "256x")
_BATMAP = struct.Struct(">8sQIII484x")
_FOOTER_CHECKSUM, _HEADER_CHECKSUM = 64, 36
_VERSION = 0x00010000
_NOWHERE = (1 << 64) - 1
_UNUSED = (1 << 32) - 1
_FEATURES = 2
"""The reserved bit, always set."""

_QEMU, _QEMU_VERSION = b"qem2", 0x00050003
"""Whose images QEMU takes to be of the size that they state (block/vpc.c, vpc_open)."""
_CREATOR, _CREATOR_VERSION = b"tap\0", 0x00010003
"""From 1.2 on, libvhd takes the batmap for granted (vhd_has_batmap)."""

_OLD_TAPDISK = 0x00000001
"""Tapdisk 0.1 had the bits of a bitmap in another order (vhd_bitmap_test)."""

_TABLE_OFFSET = 1536
_BATMAP_VERSION = 0x00010002
_ENTRIES_LIMIT = 1 << 20
"""Of the block table, which bounds the memory it takes: 2 MiB blocks for every size, and smaller ones for smaller disks."""

_ENTRIES_AT_ONCE = 1 << 16
_MAC_URL, _WINDOWS_ABSOLUTE, _WINDOWS_RELATIVE = (int.from_bytes(code, "big") for code in (b"MacX", b"W2ku", b"W2ru"))
_LOCATOR_LIMIT = 8192
"""Bytes: a path of PATH_MAX characters as UTF-16."""

_NAME_LIMIT = 510

Kind = Literal["fixed", "dynamic", "differencing"]
_KINDS: dict[int, Kind] = {2: "fixed", 3: "dynamic", 4: "differencing"}
_TYPES = {kind: number for number, kind in _KINDS.items()}

_Region = tuple[str, int, int]
"""What is at this place of the file, its first byte, the byte behind its last."""


class Parent(msgspec.Struct, frozen=True):
    """What a differencing image says of its parent: hints by an untrusted hand. `paths` are the locators', in their order.

    A relative path starts at the child's directory; those of Windows come with `/` and without `C:`.
    """

    identity: str
    name: str
    paths: tuple[str, ...]


class Vhd(msgspec.Struct, frozen=True):
    """An image: `size` is the disk's in bytes, `timestamp` unix seconds. What a fixed one does not have is 0 or None."""

    kind: Kind
    size: int
    identity: str
    timestamp: int
    table_offset: int = 0
    entries: int = 0
    block_size: int = 0
    parent: Parent | None = None


def parse(read: Read, file_size: int) -> Vhd:
    """The image, its footers, header and block table checked through. FormatError."""
    if file_size < _SECTOR:
        raise FormatError(f"has {file_size} bytes, too few for a VHD footer")
    footer = _exactly(read, file_size - _SECTOR, _SECTOR)
    vhd, data_offset = _parse_footer(footer)
    if vhd.kind == "fixed":
        if file_size != vhd.size + _SECTOR:
            raise FormatError(f"has {file_size} bytes, not the {vhd.size + _SECTOR} of a fixed VHD of its size")
        return vhd
    if _exactly(read, 0, _SECTOR) != footer:
        raise FormatError("has a VHD footer that differs from its copy at the beginning")
    return _parse_sparse(read, file_size, vhd, data_offset)


def raw(size: int) -> Vhd:
    """A raw image, to be the base of a chain: data from byte 0, and the identity that children of raw images name."""
    return Vhd("fixed", size, RAW_PARENT, 0)


def check_child(child: Vhd, parent: Vhd) -> None:
    """FormatError unless `parent` can be the parent of `child`. A child may be larger (libvhd can resize it)."""
    if child.parent is None:
        raise FormatError("is not differencing and can have no parent")
    if child.parent.identity == RAW_PARENT and parent != raw(parent.size):
        raise FormatError("has a raw image for parent, and what was found is a VHD")
    if child.parent.identity != parent.identity:
        raise FormatError(f"has the parent {child.parent.identity}, and what was found is {parent.identity}",
                          "the parent was replaced, or written anew")
    if child.size < parent.size:
        raise FormatError(f"has {child.size} bytes, fewer than the {parent.size} of its parent")


def extents(chain: Sequence[tuple[Vhd, Read]]) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of the merged disk, a block at most at a time, for a file of the last one's size that is empty.

    The chain begins with its base and ends with the child. Later pieces overwrite earlier ones. FormatError at once if the chain
    does not fit together, later if an image has changed since it was parsed.
    """
    if chain[0][0].kind == "differencing":
        raise FormatError("is differencing, and its parent is missing")
    for (parent, _), (child, _) in itertools.pairwise(chain):
        check_child(child, parent)
    return itertools.chain.from_iterable(_flat(vhd, read) if vhd.kind == "fixed" else _present(vhd, read) for vhd, read in chain)


def rounded(size: int) -> int:
    """Bytes of a disk as libvhd makes it: a multiple of 2 MiB (__vhd_create)."""
    return -(-size // _BLOCK) * _BLOCK


def geometry(size: int) -> tuple[int, int, int]:
    """(cylinders, heads, sectors per track) by the specification's appendix (vhd_chs)."""
    total = min(-(-size // _SECTOR), 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    tracks = total // 17
    heads = max(4, -(-tracks // 1024))
    if tracks < heads * 1024 and heads <= 16:
        return tracks // heads, heads, 17
    if total // 31 < 16 * 1024:
        return total // 31 // 16, 16, 31
    return total // 63 // 16, 16, 63


def fixed(size: int, identity: uuid.UUID, now: float) -> Layout:
    """An empty fixed image of `rounded(size)`. FormatError for a size the format cannot have."""
    size = rounded(size)
    return Layout(size + _SECTOR, ((size, _footer("fixed", size, identity, now)),))


def dynamic(size: int, identity: uuid.UUID, now: float) -> Layout:
    """An empty dynamic image of `rounded(size)`. FormatError for a size the format cannot have.

    As QEMU makes it, without a batmap: QEMU puts the first block behind the table whatever is there (block/vpc.c, vpc_open), and
    of what it does not overwrite the guest would read the rest.
    """
    size = rounded(size)
    footer = _footer("dynamic", size, identity, now, _QEMU, _QEMU_VERSION)
    head = footer + _header(size) + _empty_table(size)
    return Layout(len(head) + _SECTOR, ((0, head), (len(head), footer)))


def differencing(size: int, identity: uuid.UUID, now: float, parent: Vhd | None, parent_path: str, child_path: str,
                 parent_mtime: float) -> Layout:
    """An empty child of `parent`, or of a raw image (None). FormatError for sizes and paths that cannot be written down.

    The size is not rounded, so that it can be its parent's whatever that is: libvhd reads a parent up to the child's end. Both
    paths are absolute and free of symbolic links, for the child gets the relative path between them.
    """
    footer = _footer("differencing", size, identity, now)
    if parent is not None and size < parent.size:
        raise FormatError(f"would have {size} bytes, fewer than the {parent.size} of its parent")
    if parent is not None and parent.identity == RAW_PARENT and parent != raw(parent.size):
        raise FormatError("would have a VHD without identity for parent, and take it for a raw image")
    tables = _table_and_batmap(size)
    entries, data = _locators(_relative(parent_path, child_path), _TABLE_OFFSET + len(tables))
    name = posixpath.basename(parent_path).encode("utf-16-be")
    if len(name) > _NAME_LIMIT:
        raise FormatError(f"has a parent whose name is longer than {_NAME_LIMIT // 2} characters")
    header = _header(size, uuid.UUID(parent.identity if parent else RAW_PARENT).bytes, _stamp(parent_mtime), name, entries)
    head = footer + header + tables + data
    return Layout(len(head) + _SECTOR, ((0, head), (len(head), footer)))


def _exactly(read: Read, offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) != length:
        raise FormatError(f"is truncated: it ends before byte {offset + length}")
    return data


def _checksum(data: bytes, at: int) -> int:
    """Ones' complement of the sum of all bytes but the four of the checksum."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def _sealed(data: bytes, at: int) -> bytes:
    return data[:at] + _checksum(data, at).to_bytes(4, "big") + data[at + 4 :]


def _check_size(size: int) -> None:
    if size <= 0:
        raise FormatError(f"has a disk size of {size} bytes")
    if size % _SECTOR:
        raise FormatError(f"has a disk size of {size} bytes, which is no multiple of {_SECTOR}")
    if size > SIZE_LIMIT:
        raise FormatError(f"has a disk size of {size} bytes, more than the 2040 GiB that a VHD can have")


def _parse_footer(data: bytes) -> tuple[Vhd, int]:
    """The image as far as the footer describes it, and where its header is."""
    (cookie, _, version, data_offset, timestamp, creator, creator_version, _, _, size, _, _, _, number, checksum, identity,
     saved) = _FOOTER.unpack(data)
    if cookie != b"conectix":
        raise FormatError("has no VHD footer at its end", "it is another format, or truncated")
    if checksum != _checksum(data, _FOOTER_CHECKSUM):
        raise FormatError("has a VHD footer with a wrong checksum")
    if version != _VERSION:
        raise FormatError(f"has the unknown VHD version {version:#010x}")
    if number not in _KINDS:
        raise FormatError(f"has the unknown VHD type {number}")
    if saved:
        raise FormatError("belongs to a machine in saved state", "resume the machine and shut it down")
    if creator[:3] == b"tap" and creator_version == _OLD_TAPDISK:
        raise FormatError("was written by tapdisk 0.1, whose bitmaps are in another order", "convert it with vhd-update")
    _check_size(size)
    return Vhd(_KINDS[number], size, str(uuid.UUID(bytes=identity)), timestamp + _EPOCH), data_offset


def _parse_sparse(read: Read, file_size: int, vhd: Vhd, data_offset: int) -> Vhd:
    """The dynamic or differencing image with all that its header says."""
    end = file_size - _SECTOR
    if data_offset + _HEADER.size > end:
        raise FormatError(f"has its VHD header at byte {data_offset}, outside the file")
    data = _exactly(read, data_offset, _HEADER.size)
    cookie, _, table_offset, version, entries, block_size, checksum, parent_identity, _, name, *locators = _HEADER.unpack(data)
    if cookie != b"cxsparse":
        raise FormatError("has no VHD header where its footer says")
    if checksum != _checksum(data, _HEADER_CHECKSUM):
        raise FormatError("has a VHD header with a wrong checksum")
    if version != _VERSION:
        raise FormatError(f"has the unknown VHD header version {version:#010x}")
    if block_size & (block_size - 1) or not 4 << 10 <= block_size <= 16 << 20:
        raise FormatError(f"has blocks of {block_size} bytes, not of a power of two from 4 KiB to 16 MiB")
    if entries != -(-vhd.size // block_size):
        raise FormatError(f"has a block table of {entries} entries, not the {-(-vhd.size // block_size)} of its size")
    if entries > _ENTRIES_LIMIT:
        raise FormatError(f"has a block table of {entries} entries, more than {_ENTRIES_LIMIT}")
    if table_offset + 4 * entries > end:
        raise FormatError(f"has its block table at byte {table_offset}, outside the file")
    regions = [("its first footer", 0, _SECTOR), ("its header", data_offset, data_offset + _HEADER.size),
               ("its block table", table_offset, table_offset + 4 * entries)]
    parent = None
    if vhd.kind == "differencing":
        paths = []
        for code, space, length, _, offset in zip(*[iter(locators)] * 5, strict=True):
            if code in (_MAC_URL, _WINDOWS_ABSOLUTE, _WINDOWS_RELATIVE):
                if not 0 < length <= min(_LOCATOR_LIMIT, space * _SECTOR if space < _SECTOR else space):
                    raise FormatError(f"has a parent locator of {length} bytes, not of 1 to {_LOCATOR_LIMIT} within its place")
                if offset + length > end:
                    raise FormatError(f"has a parent locator at byte {offset}, outside the file")
                regions.append(("a parent locator", offset, offset + length))
                paths.append(_path(code, _exactly(read, offset, length)))
        parent = Parent(str(uuid.UUID(bytes=parent_identity)), _name(name), tuple(paths))
    _check_apart(regions)
    sparse = msgspec.structs.replace(vhd, table_offset=table_offset, entries=entries, block_size=block_size, parent=parent)
    _check_blocks(read, end, sparse, regions)
    return sparse


def _text(data: bytes, encoding: str, what: str) -> str:
    try:
        text = data.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise FormatError(f"has a {what} that is not printable text")
    return text


def _name(data: bytes) -> str:
    end = next((at for at in range(0, len(data), 2) if data[at : at + 2] == b"\0\0"), len(data))
    return _text(data[:end], "utf-16-be", "parent name")


def _path(code: int, data: bytes) -> str:
    """A locator's path. As in libvhd a URL's is taken literally, `%` and all (vhd_macx_decode_location)."""
    if code == _MAC_URL:
        url = _text(data, "utf-8", "parent locator")
        path = url.removeprefix("file://")
        if path == url:
            raise FormatError("has a parent locator that is not a file:// URL")
    else:
        path = _text(data, "utf-16-le", "parent locator").replace("\\", "/")
        path = path[2:] if path[:2] in ("C:", "c:") else path
    if not path:
        raise FormatError("has a parent locator without a path")
    return path


def _check_apart(regions: Iterable[_Region]) -> None:
    for (one, _, end), (other, start, _) in itertools.pairwise(sorted(regions, key=lambda region: region[1:])):
        if start < end:
            raise FormatError(f"has {one} and {other} at overlapping places")


def _table(read: Read, vhd: Vhd) -> Iterator[tuple[int, int]]:
    """(block, sector of the file) of every block there is."""
    for first in range(0, vhd.entries, _ENTRIES_AT_ONCE):
        count = min(_ENTRIES_AT_ONCE, vhd.entries - first)
        entries = array("I", _exactly(read, vhd.table_offset + 4 * first, 4 * count))
        if sys.byteorder == "little":
            entries.byteswap()
        yield from ((first + at, sector) for at, sector in enumerate(entries) if sector != _UNUSED)


def _bitmap_size(vhd: Vhd) -> int:
    """Bytes before a block's data: a bit for every sector, padded to a sector."""
    return -(-vhd.block_size // (8 * _SECTOR * _SECTOR)) * _SECTOR


def _check_blocks(read: Read, end: int, vhd: Vhd, regions: Iterable[_Region]) -> None:
    """FormatError for blocks that reach behind `end` (where the footer is), into each other or into a region."""
    length = _bitmap_size(vhd) + vhd.block_size
    starts = array("I")
    for block, sector in _table(read, vhd):
        if sector * _SECTOR + length > end:
            raise FormatError(f"has block {block} at byte {sector * _SECTOR}, outside the file")
        starts.append(sector)
    starts = array("I", sorted(starts))
    for one, other in itertools.pairwise(starts):
        if (other - one) * _SECTOR < length:
            raise FormatError(f"has two blocks at overlapping places, at byte {other * _SECTOR}")
    for what, first, behind in regions:
        at = bisect.bisect_right(starts, (first - length) // _SECTOR)
        if at < len(starts) and starts[at] * _SECTOR < behind:
            raise FormatError(f"has a block at byte {starts[at] * _SECTOR}, over {what}")


def _flat(vhd: Vhd, read: Read) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, vhd.size, _BLOCK):
        yield offset, _exactly(read, offset, min(_BLOCK, vhd.size - offset))


def _present(vhd: Vhd, read: Read) -> Iterator[tuple[int, bytes]]:
    """The runs of sectors whose bits are set."""
    bitmap_size = _bitmap_size(vhd)
    for block, sector in _table(read, vhd):
        start, place = block * vhd.block_size, sector * _SECTOR
        bits = f"{int.from_bytes(_exactly(read, place, bitmap_size), 'big'):0{8 * bitmap_size}b}"
        for run in re.finditer("1+", bits[: min(vhd.block_size, vhd.size - start) // _SECTOR]):
            first, behind = run.start() * _SECTOR, run.end() * _SECTOR
            yield start + first, _exactly(read, place + bitmap_size + first, behind - first)


def _stamp(seconds: float) -> int:
    return min(max(int(seconds) - _EPOCH, 0), 0xFFFFFFFF)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _SECTOR)


def _footer(kind: Kind, size: int, identity: uuid.UUID, now: float, creator: bytes = _CREATOR,
            version: int = _CREATOR_VERSION) -> bytes:
    _check_size(size)
    data_offset = _NOWHERE if kind == "fixed" else _SECTOR
    return _sealed(_FOOTER.pack(b"conectix", _FEATURES, _VERSION, data_offset, _stamp(now), creator, version, 0, size,
                                size, *geometry(size), _TYPES[kind], 0, identity.bytes, 0), _FOOTER_CHECKSUM)


def _header(size: int, parent: bytes = b"", parent_stamp: int = 0, name: bytes = b"", locators: Sequence[int] = ()) -> bytes:
    return _sealed(_HEADER.pack(b"cxsparse", _NOWHERE, _TABLE_OFFSET, _VERSION, rounded(size) // _BLOCK, _BLOCK, 0, parent,
                                parent_stamp, name, *locators, *[0] * (8 * 5 - len(locators))), _HEADER_CHECKSUM)


def _empty_table(size: int) -> bytes:
    return _padded(rounded(size) // _BLOCK * b"\xff\xff\xff\xff")


def _table_and_batmap(size: int) -> bytes:
    """An empty block table, and behind it the empty map of full blocks that libvhd wants (vhd_create_bat, vhd_create_batmap).

    The map's checksum is of the map alone, which has no place for it (vhd_checksum_batmap).
    """
    entries = rounded(size) // _BLOCK
    table = _empty_table(size)
    batmap = _padded(bytes(-(-entries // 8)))
    offset = _TABLE_OFFSET + len(table) + _BATMAP.size
    return table + _BATMAP.pack(b"tdbatmap", offset, len(batmap) // _SECTOR, _BATMAP_VERSION, ~sum(batmap) & 0xFFFFFFFF) + batmap


def _relative(parent_path: str, child_path: str) -> str:
    """The path from the child's directory to the parent, beginning with `./` or `../` (relative_path_to)."""
    for path in (parent_path, child_path):
        if not posixpath.isabs(path):
            raise FormatError(f"cannot be written down with {path!r}, which is not an absolute path")
    relative = posixpath.relpath(parent_path, posixpath.dirname(child_path))
    if not relative.isprintable() or "\\" in relative:
        raise FormatError(f"cannot be written down with the parent {relative!r}, whose path has a \\ or is not printable")
    return relative if relative.startswith("../") else f"./{relative}"


def _locators(relative: str, offset: int) -> tuple[list[int], bytes]:
    """The header's locator entries, and what they point to, from `offset` on (vhd_write_parent_locators).

    The place is in bytes, not in the specification's sectors, for Microsoft does so (vhd_parent_locator_write_at).
    """
    windows = (".\\" + relative.removeprefix("./").replace("/", "\\")).encode("utf-16-le")
    entries, data = [], b""
    for code, text in ((_MAC_URL, f"file://{relative}".encode()), (_WINDOWS_ABSOLUTE, windows), (_WINDOWS_RELATIVE, windows)):
        if len(text) > _LOCATOR_LIMIT:
            raise FormatError(f"has a parent whose path is longer than {_LOCATOR_LIMIT} bytes")
        entries += [code, len(_padded(text)), len(text), 0, offset + len(data)]
        data += _padded(text)
    return entries, data
