"""Image formats against the real tools; and VHD images made by hand, for these tests and the pure ones."""

import struct
import uuid
from collections.abc import Mapping, Sequence

from vmbatch.format import Layout, Read, vhd

SECTOR = 512
BASE, MIDDLE, CHILD = (uuid.UUID(int=number * 0x0123456789ABCDEF0123456789) for number in (1, 2, 3))
NOW = 1_600_000_000
Sectors = Mapping[int, bytes]
"""The content of a block's sectors, by their number in the block."""


def sealed(data: bytes, at: int) -> bytes:
    """With the checksum at this place put right."""
    blank = data[:at] + bytes(4) + data[at + 4 :]
    return data[:at] + struct.pack(">I", 0xFFFFFFFF - sum(blank)) + data[at + 4 :]


def written(layout: Layout) -> bytes:
    """The file, holes and all."""
    data = bytearray(layout.size)
    for offset, part in layout.parts:
        data[offset : offset + len(part)] = part
    return bytes(data)


def reader(data: bytes | Layout) -> Read:
    """Reads like os.pread; of a layout without making the file."""
    if isinstance(data, bytes):
        return lambda offset, length: data[offset : offset + length]

    def read(offset: int, length: int) -> bytes:
        length = max(0, min(length, data.size - offset))
        found = bytearray(length)
        for start, part in data.parts:
            first, behind = max(start, offset), min(start + len(part), offset + length)
            if first < behind:
                found[first - offset : behind - offset] = part[first - start : behind - start]
        return bytes(found)

    return read


def parsed(data: bytes | Layout) -> vhd.Vhd:
    return vhd.parse(reader(data), len(data) if isinstance(data, bytes) else data.size)


def block(block_size: int, sectors: Sectors) -> bytes:
    """Bitmap and data of a block; what is no sector of its own is 0xEE, that must not show."""
    bitmap = bytearray(max(SECTOR, block_size // SECTOR // 8))
    data = bytearray(b"\xee" * block_size)
    for sector, content in sectors.items():
        bitmap[sector // 8] |= 0x80 >> sector % 8
        data[sector * SECTOR : (sector + 1) * SECTOR] = content
    return bytes(bitmap + data)


def filled(data: bytes, blocks: Mapping[int, Sectors]) -> bytes:
    """An empty image with a table at byte 1536, and blocks behind all else in the given order."""
    (block_size,) = struct.unpack_from(">I", data, 512 + 32)
    head, footer = bytearray(data[:-SECTOR]), data[-SECTOR:]
    for number, sectors in blocks.items():
        struct.pack_into(">I", head, 1536 + 4 * number, len(head) // SECTOR)
        head += block(block_size, sectors)
    return bytes(head) + footer


def sparse(size: int, block_size: int, blocks: Mapping[int, Sectors] | None = None, *, identity: uuid.UUID = BASE,
           parent: uuid.UUID | None = None, name: bytes = b"", locators: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A dynamic image, or a differencing one; locators are (code, data)."""
    footer = struct.pack(">8sIIQI4sI4sQQHBBII16sB427x", b"conectix", 2, 0x10000, 512, NOW - 946684800, b"win ", 0x60001,
                         b"Wi2k", size, size, 0, 0, 0, 4 if parent else 3, 0, identity.bytes, 0)
    footer = sealed(footer, 64)
    entries = (size + block_size - 1) // block_size
    table = b"\xff" * ((entries * 4 + SECTOR - 1) // SECTOR * SECTOR)
    places, data = b"", b""
    for code, text in locators:
        places += struct.pack(">4sIIIQ", code, 1, len(text), 0, 1536 + len(table) + len(data))
        data += text.ljust(SECTOR, b"\0")
    header = struct.pack(">8sQQIIII16sII512s192s256x", b"cxsparse", (1 << 64) - 1, 1536, 0x10000, entries, block_size, 0,
                         parent.bytes if parent else b"", 0, 0, name, places)
    return filled(footer + sealed(header, 36) + table + data + footer, blocks or {})


def merged(*images: bytes) -> bytes:
    """The disk of a chain, base first."""
    chain = [(parsed(data), reader(data)) for data in images]
    disk = bytearray(chain[-1][0].size)
    for offset, data in vhd.extents(chain):
        assert offset + len(data) <= len(disk)
        disk[offset : offset + len(data)] = data
    return bytes(disk)
