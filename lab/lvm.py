"""LVM2 on a disk, written as bytes, as lvm2 needs device-mapper for that: one physical volume, one group of linear volumes.

The format: label, PV header and metadata area as lvm2's own tools find them (`pvck --dump headers`, lvmsystemid(7) and
vgcfgbackup(8) for the text); checksums are CRC-32 with LVM's own start value and without the last inversion.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .partition import SECTOR, unique

EXTENT = 4 << 20
"""Bytes of a physical extent."""
START = 1 << 20
"""Where the first extent begins in the physical volume; before it are label and metadata."""
_CRC_START = 0xF597A6CF
_AREA = 4096
_TEXT_AT = 512
_SIGNATURE = b" LVM2 x[5A%r0N*>"


class Segment(NamedTuple):
    """A piece of a logical volume: its first extent in the physical volume, and how many."""

    first: int
    extents: int


def header(size: int, group: str, volumes: dict[str, Sequence[Segment]]) -> bytes:
    """The first MiB of a physical volume of `size` bytes; the logical volumes are called as in `volumes`."""
    text = _metadata(size, group, volumes).encode() + b"\0"
    locations = struct.pack("<QQII", _TEXT_AT, len(text), _crc(text), 0) + bytes(24)
    body = _SIGNATURE + struct.pack("<IQQ", 1, _AREA, START - _AREA) + locations
    body = body.ljust(SECTOR - 4, b"\0")
    area = struct.pack("<I", _crc(body)) + body + text
    return (bytes(SECTOR) + _label(size, group)).ljust(_AREA, b"\0") + area.ljust(START - _AREA, b"\0")


def _label(size: int, group: str) -> bytes:
    """Sector 1: label, PV header with its data area and its metadata area, each list ended by zeros; extension of version 2."""
    name = _identifier(f"{group}-pv").replace("-", "").encode()
    areas = struct.pack("<QQQQ", START, 0, 0, 0) + struct.pack("<QQQQ", _AREA, START - _AREA, 0, 0)
    volume = name + struct.pack("<Q", size) + areas + struct.pack("<IIQQ", 2, 1, 0, 0)
    rest = (struct.pack("<I8s", 32, b"LVM2 001") + volume).ljust(SECTOR - 20, b"\0")
    return struct.pack("<8sQI", b"LABELONE", 1, _crc(rest)) + rest


def _metadata(size: int, group: str, volumes: dict[str, Sequence[Segment]]) -> str:
    extents = (size - START) // EXTENT
    logical = "".join(_volume(group, name, segments) for name, segments in volumes.items())
    return f"""\
{group} {{
id = "{_identifier(group)}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {EXTENT // SECTOR}
max_lv = 0
max_pv = 0
metadata_copies = 0

physical_volumes {{

pv0 {{
id = "{_identifier(f"{group}-pv")}"
device = "/dev/vda1"
status = ["ALLOCATABLE"]
flags = []
dev_size = {size // SECTOR}
pe_start = {START // SECTOR}
pe_count = {extents}
}}
}}

logical_volumes {{
{logical}}}
}}
contents = "Text Format Volume Group"
version = 1

description = ""

creation_host = "lab"
creation_time = 1700000000
"""


def _volume(group: str, name: str, segments: Sequence[Segment]) -> str:
    done, pieces = 0, ""
    for number, segment in enumerate(segments, 1):
        pieces += f"""
segment{number} {{
start_extent = {done}
extent_count = {segment.extents}

type = "striped"
stripe_count = 1

stripes = [
"pv0", {segment.first}
]
}}
"""
        done += segment.extents
    return f"""
{name} {{
id = "{_identifier(f"{group}-{name}")}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
creation_time = 1700000000
creation_host = "lab"
segment_count = {len(segments)}
{pieces}}}
"""


def _identifier(name: str) -> str:
    """32 characters as LVM writes them: 6-4-4-4-4-4-6; the same for the same name."""
    text = unique(name).hex
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[first:last] for first, last in pairwise(cuts))


def _crc(data: bytes) -> int:
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
