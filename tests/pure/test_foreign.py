"""Formats known by their marks, and disks that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.format import Layout
from vmbatch.format.foreign import signature

from .test_qcow2 import reader

MIB = 1 << 20


def found(*parts: tuple[int, bytes], size: int = MIB) -> str | None:
    layout = Layout(size, parts)
    return signature(reader(layout), size)


@pytest.mark.parametrize(("name", "offset", "mark"), [
    ("qcow", 0, b"QFI\xfb\0\0\0\1"),
    ("qcow2", 0, b"QFI\xfb\0\0\0\2"),
    ("qcow2", 0, b"QFI\xfb\0\0\0\3"),
    ("qcow", 0, b"QFI\xfb\0\0\0\4"),
    ("QED", 0, b"QED\0"),
    ("VMDK", 0, b"KDMV"),
    ("VMDK", 0, b"COWD"),
    ("VMDK", 0, b"# Disk DescriptorFile\n"),
    ("VMDK", 0, b"# disk descriptorfile\r\n"),
    ("VMDK", 0, b"version=1\n"),
    ("VMDK", 0, b"#x\n \t\n\r\n  # y\nVersion=3\n"),
    ("VHD", 0, b"conectix"),
    ("VHD", MIB - 512, b"conectix"),
    ("VHD", MIB - 511, b"conectix"),
    ("VHDX", 0, b"vhdxfile"),
    ("VDI", 64, b"\x7f\x10\xda\xbe"),
    ("Parallels", 0, b"WithoutFreeSpace"),
    ("Parallels", 0, b"WithouFreSpacExt"),
    ("Bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount"),
    ("LUKS", 0, b"LUKS\xba\xbe\0\1"),
    ("Android sparse", 0, b"\x3a\xff\x26\xed"),
    ("EWF", 0, b"EVF\x09\x0d\x0a\xff\0"),
    ("WIM", 0, b"MSWIM\0\0\0"),
    ("gzip", 0, b"\x1f\x8b\x08\0"),
    ("bzip2", 0, b"BZh91AY&SY"),
    ("bzip2", 0, b"BZh1\x17rE8P\x90"),
    ("xz", 0, b"\xfd7zXZ\0\0"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("lz4", 0, b"\x04\x22\x4d\x18"),
    ("lzop", 0, b"\x89LZO\0\r\n\x1a\n"),
    ("7-Zip", 0, b"7z\xbc\xaf\x27\x1c"),
    ("ZIP", 0, b"PK\x03\x04"),
    ("tar", 257, b"ustar\00000"),
    ("DMG", MIB - 512, b"koly\0\0\0\4\0\0\2\0"),
    ("DMG", MIB - 1000, b"koly\0\0\0\4\0\0\2\0"),
])
def test_known(name: str, offset: int, mark: bytes) -> None:
    assert found((offset, mark)) == name


@pytest.mark.parametrize(("offset", "mark"), [
    (0, b""),
    (0, b"\xeb\x63\x90"),
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (32769, b"CD001"),
    (1080, b"\x53\xef"),
    (0, b"hsqs"),
    (0, b"XFSB"),
    (512, b"LABELONE"),
    (0, b"QFI\xfa\0\0\0\3"),
    (4, b"QFI\xfb\0\0\0\3"),
    (0, b"BZh9"),
    (0, b"BZh91AY&SX"),
    (0, b"#!/bin/sh\n"),
    (0, b"# version=1\n"),
    (0, b"x\nversion=1\n"),
    (8, b"conectix"),
    (MIB - 513, b"conectix"),
    (MIB - 510, b"conectix"),
    (MIB - 512, b"koly\0\0\0\5"),
    (MIB - 1025, b"koly\0\0\0\4\0\0\2\0"),
    (65, b"\x7f\x10\xda\xbe"),
    (0, b"\x1f\x8b\x07"),
])
def test_a_disk(offset: int, mark: bytes) -> None:
    assert found((offset, mark)) is None


@pytest.mark.parametrize("size", [0, 1, 8, 511, 512, 513])
def test_small_files(size: int) -> None:
    assert found(size=size) is None


def test_a_file_that_is_a_footer_alone() -> None:
    assert found((0, b"conectix"), size=512) == "VHD"


@pytest.mark.parametrize("filler", [b"#", b" ", b"\n", b"#\n", b"# \t\n", b"\r\n"])
def test_comments_without_end(filler: bytes) -> None:
    """The search for a descriptor takes no longer for being led on."""
    assert found((0, filler * 4096)) is None


@given(st.binary(max_size=600), st.integers(262, 4096))
def test_what_stands_behind_the_marks_is_the_disks_own(data: bytes, offset: int) -> None:
    assert found((offset, data), size=8192) is None
