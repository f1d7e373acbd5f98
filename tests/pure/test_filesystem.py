"""File systems are told apart by their superblocks, and must fit into their places."""

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbatch.format import FormatError, Read
from vmbatch.format.filesystem import NAMES, identify

SIZE = 64 << 20
BASE = 3 << 20
Parts = dict[int, bytes]


def ext(blocks: int = SIZE >> 12, bits: int = 2, revision: int = 1, features: tuple[int, int, int] = (0, 0, 0),
        high: int = 0) -> Parts:
    """A superblock: features are compatible, incompatible, read-only compatible."""
    data = bytearray(1024)
    struct.pack_into("<I16xI", data, 4, blocks, bits)
    struct.pack_into("<H", data, 56, 0xEF53)
    struct.pack_into("<I12xIII", data, 76, revision, *features)
    struct.pack_into("<I", data, 336, high)
    return {1024: bytes(data)}


def xfs(block: int = 4096, blocks: int = SIZE >> 12) -> Parts:
    return {0: b"XFSB" + struct.pack(">IQ", block, blocks)}


def btrfs(size: int = SIZE, devices: int = 1) -> Parts:
    return {0x10040: b"_BHRfS_M", 0x10070: struct.pack("<QQQQ", size, 9, 6, devices)}


def vfat(sector: int = 512, cluster: int = 4, reserved: int = 4, fats: int = 2, few: int = 0, media: int = 0xF8, length: int = 0,
         many: int = SIZE >> 9, long: int = 100, signature: bytes = b"\x55\xaa") -> Parts:
    parameters = struct.pack("<HBHBHHBHHHIII", sector, cluster, reserved, fats, 0, few, media, length, 32, 8, 0, many, long)
    return {0: b"\xeb\x58\x90mkfs.fat" + parameters, 510: signature}


def lvm(sector: int = 1, kind: bytes = b"LVM2 001") -> Parts:
    return {sector * 512: b"LABELONE" + bytes(16) + kind}


def swap(page: int = 4096, last: int = (SIZE >> 12) - 1) -> Parts:
    return {page - 10: b"SWAPSPACE2", 1024: struct.pack("<II", 1, last)}


def reader(parts: Parts, base: int = BASE, size: int = BASE + SIZE) -> Read:
    """Zeros but for these, from `base` on."""

    def read(offset: int, length: int) -> bytes:
        assert 0 <= length <= 4096, "reads are small"
        found = bytearray(max(0, min(length, size - offset)))
        for place, data in parts.items():
            first, behind = max(base + place, offset), min(base + place + len(data), offset + len(found))
            if first < behind:
                found[first - offset : behind - offset] = data[first - base - place : behind - base - place]
        return bytes(found)

    return read


HAS_JOURNAL = 4
FOUND: dict[str, tuple[Parts, str]] = {
    "nothing": ({}, ""),
    "ext2": (ext(features=(0x38, 0x2, 0x3)), "ext2"),
    "ext2 of revision 0": (ext(revision=0, features=(HAS_JOURNAL, 0x40, 0)), "ext2"),
    "ext3": (ext(features=(HAS_JOURNAL | 0x38, 0x2, 0x3)), "ext3"),
    "ext3 to be recovered": (ext(features=(HAS_JOURNAL, 0x4 | 0x10, 0x7)), "ext3"),
    "extents": (ext(features=(HAS_JOURNAL, 0x42, 0x3)), "ext4"),
    "no journal": (ext(features=(0, 0x40, 0)), "ext4"),
    "large files": (ext(features=(HAS_JOURNAL, 0x2, 0x8)), "ext4"),
    "checksums": (ext(features=(HAS_JOURNAL, 0x2, 0x400)), "ext4"),
    "features of tomorrow": (ext(features=(HAS_JOURNAL, 1 << 31, 0)), "ext4"),
    "xfs": (xfs(), "xfs"),
    "xfs of small blocks": (xfs(512, SIZE >> 9), "xfs"),
    "btrfs": (btrfs(), "btrfs"),
    "fat32": (vfat(), "vfat"),
    "fat16": (vfat(length=128, long=0), "vfat"),
    "fat12": (vfat(few=8192, many=0, length=6, long=0, media=0xF0), "vfat"),
    "fat of large sectors": (vfat(sector=4096, many=SIZE >> 12), "vfat"),
    "lvm": (lvm(), "lvm"),
    "lvm's label behind": (lvm(3), "lvm"),
    "lvm's label too far behind": (lvm(4), ""),
    "lvm of another kind": (lvm(kind=b"LVM1 001"), ""),
    "swap": (swap(), "swap"),
    "swap of large pages": (swap(65536, (SIZE >> 16) - 1), "swap"),
    "old swap": ({4086: b"SWAP-SPACE"}, ""),
    "a boot sector": ({0: b"\xeb\x63\x90" + b"code" * 100, 510: b"\x55\xaa"}, ""),
    "a partition table": ({450: b"\x83", 510: b"\x55\xaa"}, ""),
    "ntfs": ({0: b"\xebR\x90NTFS    " + struct.pack("<HBHBHHBHHHIII", 512, 8, 0, 0, 0, 0, 0xF8, 0, 63, 255, 0, 0, 0x800080),
              510: b"\x55\xaa"}, ""),
    "fat without signature": (vfat(signature=b"\0\0"), ""),
    "fat of odd clusters": (vfat(cluster=3), ""),
    "fat of odd sectors": (vfat(sector=513), ""),
    "fat of no size": (vfat(many=0), ""),
    "fat without a table": (vfat(long=0), ""),
    "luks": ({0: b"LUKS\xba\xbe\0\2"}, ""),
}


@pytest.mark.parametrize(("parts", "name"), FOUND.values(), ids=FOUND)
def test_what_is_there(parts: Parts, name: str) -> None:
    assert identify(reader(parts), BASE, SIZE) == name
    assert name in ("", *NAMES)


def refusal(parts: Parts, length: int = SIZE) -> str:
    with pytest.raises(FormatError) as caught:
        identify(reader(parts), BASE, length)
    return caught.value.what


@pytest.mark.parametrize(("parts", "name"), [
    (ext(), "ext2"), (xfs(), "xfs"), (btrfs(), "btrfs"), (vfat(), "vfat"), (swap(), "swap"),
], ids=["ext2", "xfs", "btrfs", "vfat", "swap"])
def test_it_must_fit(parts: Parts, name: str) -> None:
    assert identify(reader(parts), BASE, SIZE + 1) == name
    assert refusal(parts, SIZE - 1) == f"has a file system ({name}) of {SIZE} bytes in a place of {SIZE - 1}"


WRONG: dict[str, tuple[Parts, str]] = {
    "far more blocks": (ext(high=1, features=(0, 0x80, 0)),
                        f"has a file system (ext4) of {(1 << 44) + SIZE} bytes in a place of {SIZE}"),
    "huge blocks": (ext(bits=0xFFFFFFFF),
                    f"has an ext file system with blocks of 2^{0xFFFFFFFF + 10} bytes, not of 2^10 to 2^16"),
    "a journal": (ext(features=(0, 0x8, 0)), "has the journal of an ext file system, and not the file system"),
    "xfs of odd blocks": (xfs(4097), "has an xfs with blocks of 4097 bytes, not of a power of two from 512 to 65536"),
    "xfs of no blocks": (xfs(0), "has an xfs with blocks of 0 bytes, not of a power of two from 512 to 65536"),
    "xfs without end": (xfs(65536, (1 << 64) - 1),
                        f"has a file system (xfs) of {65536 * ((1 << 64) - 1)} bytes in a place of {SIZE}"),
    "btrfs of two disks": (btrfs(devices=2), "has a part of a btrfs of 2 devices"),
    "ext on lvm": (ext() | lvm(), "has ext2 and lvm at the same place"),
    "three": (ext() | btrfs() | {4086: b"SWAPSPACE2"}, "has ext2 and btrfs and swap at the same place"),
}


@pytest.mark.parametrize(("parts", "what"), WRONG.values(), ids=WRONG)
def test_what_cannot_be(parts: Parts, what: str) -> None:
    assert refusal(parts) == what


def test_the_high_half_counts_with_its_feature_alone() -> None:
    assert identify(reader(ext(high=1)), BASE, SIZE) == "ext2"


@pytest.mark.parametrize("parts", [ext(), xfs(), btrfs(), vfat(), lvm(), swap()])
def test_what_the_place_cuts_off_is_not_there(parts: Parts) -> None:
    """Reads never leave the place: here it ends before the superblock does."""
    end = min(parts) + len(parts[min(parts)]) - 1
    assert identify(reader(parts), BASE, min(end, 500)) == ""


def test_a_truncated_disk() -> None:
    assert identify(reader(ext(), size=BASE + 1500), BASE, SIZE) == ""
    assert identify(reader(ext(), size=0), BASE, SIZE) == ""


@pytest.mark.parametrize("parts", [ext(features=(4, 0x42, 3)), xfs(), btrfs(), vfat(), lvm(), swap()])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_there(parts: Parts, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(parts)))
    offset = data.draw(st.integers(0, len(parts[place]) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=16))
    start = time.process_time()
    try:
        assert identify(reader({**parts, place + offset: noise}), BASE, SIZE) in ("", *NAMES)
    except FormatError as error:
        assert error.what.isprintable()
    assert time.process_time() - start < 1
