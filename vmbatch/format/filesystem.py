"""What file system lies at a place that an admin has named, by its superblock, and whether it fits there.

Sources of the fields: the kernel's fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, include/uapi/linux/btrfs_tree.h,
include/uapi/linux/msdos_fs.h, include/linux/swap.h; which features make an ext3 an ext4: util-linux, libblkid, superblocks/ext.c.
"""

import struct
from collections.abc import Callable

import msgspec

from . import FormatError, Read

NAMES = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "lvm", "swap")
_EXT_AT, _EXT_MAGIC, _EXT_SIZE = 1024, 0xEF53, 1024
_HAS_JOURNAL = 0x4
_EXT3_INCOMPATIBLE = 0x2 | 0x4 | 0x10
"""File types in directories, recovery, meta block groups."""
_JOURNAL_DEVICE, _64BIT = 0x8, 0x80
_EXT3_READ_ONLY = 0x1 | 0x2 | 0x4
"""Sparse superblocks, large files, B-tree directories."""
_BTRFS_AT = 64 << 10
_FAT = struct.Struct("<3x8xHBHBHHBHHHII")
_FAT_SIGNATURE = b"\x55\xaa"
_SWAP_MAGIC = b"SWAPSPACE2"
_PAGES = (4 << 10, 8 << 10, 16 << 10, 64 << 10)
_LABEL_SECTORS = 4


class _Found(msgspec.Struct, frozen=True):
    """A file system and the bytes that it takes, 0 where it does not say."""

    name: str
    size: int = 0


def identify(read: Read, offset: int, length: int) -> str:
    """One of NAMES, or '' for anything else. FormatError if it is cut off, larger than its place, or two at once."""

    def part(start: int, count: int) -> bytes:
        return read(offset + start, max(0, min(count, length - start)))

    found = [one for one in (probe(part) for probe in (_ext, _xfs, _btrfs, _vfat, _lvm, _swap)) if one]
    if len(found) > 1:
        raise FormatError(f"has {' and '.join(one.name for one in found)} at the same place",
                          "wipefs removes what is left of one")
    if not found:
        return ""
    if found[0].size > length:
        raise FormatError(f"has a file system ({found[0].name}) of {found[0].size} bytes in a place of {length}",
                          "the image is truncated, or its partition table is wrong")
    return found[0].name


_Part = Callable[[int, int], bytes]


def _ext(part: _Part) -> _Found | None:
    data = part(_EXT_AT, _EXT_SIZE)
    if len(data) < _EXT_SIZE or int.from_bytes(data[56:58], "little") != _EXT_MAGIC:
        return None
    blocks, block_bits = struct.unpack_from("<I16xI", data, 4)
    revision, compatible, incompatible, read_only = struct.unpack_from("<I12xIII", data, 76)
    if not revision:
        compatible = incompatible = read_only = 0
    if incompatible & _JOURNAL_DEVICE:
        raise FormatError("has the journal of an ext file system, and not the file system")
    if block_bits > 6:
        raise FormatError(f"has an ext file system with blocks of 2^{10 + block_bits} bytes, not of 2^10 to 2^16")
    if incompatible & _64BIT:
        blocks |= int.from_bytes(data[336:340], "little") << 32
    name = "ext3" if compatible & _HAS_JOURNAL else "ext2"
    if incompatible & ~_EXT3_INCOMPATIBLE or read_only & ~_EXT3_READ_ONLY:
        name = "ext4"
    return _Found(name, blocks << (10 + block_bits))


def _xfs(part: _Part) -> _Found | None:
    data = part(0, 16)
    if data[:4] != b"XFSB" or len(data) < 16:
        return None
    block, blocks = struct.unpack_from(">IQ", data, 4)
    if block & (block - 1) or not 512 <= block <= 64 << 10:
        raise FormatError(f"has an xfs with blocks of {block} bytes, not of a power of two from 512 to 65536")
    return _Found("xfs", block * blocks)


def _btrfs(part: _Part) -> _Found | None:
    data = part(_BTRFS_AT, 256)
    if data[64:72] != b"_BHRfS_M" or len(data) < 256:
        return None
    total, devices = struct.unpack_from("<Q16xQ", data, 112)
    if devices != 1:
        raise FormatError(f"has a part of a btrfs of {devices} devices", "a file system on one disk is needed")
    return _Found("btrfs", total)


def _vfat(part: _Part) -> _Found | None:
    """FAT has no magic: the parameters must make sense, as fs/fat/inode.c (fat_read_bpb) asks."""
    data = part(0, 512)
    if len(data) < 512 or data[510:] != _FAT_SIGNATURE:
        return None
    sector, cluster, reserved, fats, _, few, media, short_fat, _, _, _, many = _FAT.unpack_from(data)
    long_fat = int.from_bytes(data[36:40], "little")
    sound = (sector in (512, 1024, 2048, 4096) and cluster and not cluster & (cluster - 1) and reserved and 0 < fats <= 4
             and (media >= 0xF8 or media == 0xF0) and (short_fat or long_fat) and (few or many))
    return _Found("vfat", sector * (few or many)) if sound else None


def _lvm(part: _Part) -> _Found | None:
    """The label is in one of the first sectors; `lvm` judges it."""
    sectors = (part(number * 512, 32) for number in range(_LABEL_SECTORS))
    return _Found("lvm") if any(data[:8] == b"LABELONE" and data[24:] == b"LVM2 001" for data in sectors) else None


def _swap(part: _Part) -> _Found | None:
    """The magic ends the first page, the last page's number is in the header behind 1024 bytes for boot loaders."""
    for page in _PAGES:
        if part(page - len(_SWAP_MAGIC), len(_SWAP_MAGIC)) == _SWAP_MAGIC:
            return _Found("swap", (int.from_bytes(part(1028, 4), "little") + 1) * page)
    return None
