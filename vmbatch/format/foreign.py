"""Images and packed files by the marks in their bytes: for a file that is said to be raw, and that a guest may have written."""

import re

from . import Read

_HEAD = 4096
_TAIL = 1024
_MARKS = (
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"\x3a\xff\x26\xed", "Android sparse"),
    (0, b"EVF\x09\x0d\x0a\xff\0", "EWF"),
    (0, b"MSWIM\0\0\0", "WIM"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"PK\x03\x04", "ZIP"),
    (257, b"ustar", "tar"),
)
_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_DESCRIPTOR = re.compile(rb"# Disk DescriptorFile|(?:[ \t]*(?:#[^\n]*)?\r?\n)*version=[0-9]", re.IGNORECASE)
"""VMDK's text, which may name any file; QEMU skips comments and empty lines (block/vmdk.c, vmdk_probe)."""
_QCOW = {1: "qcow", 2: "qcow2", 3: "qcow2"}
_DMG = b"koly\0\0\0\4\0\0\2\0"


def signature(read: Read, file_size: int) -> str | None:
    """What the file is by its first or last bytes, such as "qcow2" or "gzip"; None for a disk. ISO 9660 is a disk's content."""
    head = read(0, _HEAD)
    if head[:4] == b"QFI\xfb":
        return _QCOW.get(int.from_bytes(head[4:8]), "qcow")
    for place, mark, name in _MARKS:
        if head.startswith(mark, place):
            return name
    if _BZIP2.match(head):
        return "bzip2"
    if _DESCRIPTOR.match(head):
        return "VMDK"
    tail = read(max(0, file_size - _TAIL), _TAIL)
    if tail[-512:].startswith(b"conectix") or tail[-511:].startswith(b"conectix"):
        return "VHD"
    return "DMG" if _DMG in tail else None
