"""What the fuzzer calls with bytes: a reader that may only end well, or with an error of ours, in bounded time and memory."""

from collections.abc import Callable

import msgspec

from vmbatch import record, registry
from vmbatch.errors import NodeError
from vmbatch.format import FormatError, Read, filesystem, foreign, lvm, qcow, qcow2, table, vhd
from vmbatch.record import Start

_SIZE_BYTES = 5
_TAIL_BYTES = 1024
_READ_LIMIT = 64 << 20
LIMIT = 1 << 56
"""No reader of a header says that a disk is larger."""


def sparse(data: bytes) -> tuple[Read, int]:
    """(reader, size) of a file with a hole: its size, then its begin, and the last 1024 bytes at its end."""
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    body = data[_SIZE_BYTES:]
    head, tail = (body[:-_TAIL_BYTES], body[-_TAIL_BYTES:]) if len(body) > _TAIL_BYTES else (body, b"")
    size = max(size, len(body))

    def read(offset: int, length: int) -> bytes:
        assert length <= _READ_LIMIT, f"{length} bytes are read at once"
        if not 0 <= offset < size:
            return b""
        found = bytearray(min(length, size - offset))
        for start, part in ((0, head), (size - len(tail), tail)):
            begin, end = max(offset, start), min(offset + len(found), start + len(part))
            if begin < end:
                found[begin - offset : end - offset] = part[begin - start : end - start]
        return bytes(found)

    return read, size


def images(data: bytes) -> None:
    """The readers of images, by the first byte."""
    read, size = sparse(data[1:])
    try:
        kind = data[0] % 4 if data else 0
        if kind == 0:
            assert 0 <= qcow2.parse(read, size).size <= LIMIT
        elif kind == 1:
            assert 0 <= qcow.parse(read, size).size <= LIMIT
        elif kind == 2:
            assert 0 <= vhd.parse(read, size).size <= LIMIT
        else:
            foreign.signature(read, size)
    except FormatError as error:
        assert error.what.isprintable()


def disks(data: bytes) -> None:
    """The readers of what is in a disk, partitions or LVM by the first byte."""
    read, size = sparse(data[1:])
    try:
        if data[:1] < b"\x80":
            for extent in table.partitions(read, size).values():
                assert extent.offset >= 0 and extent.offset + extent.length <= size
                filesystem.identify(read, extent.offset, extent.length)
        else:
            whole = table.Extent(0, size)
            for name in lvm.names(read, whole)[:3]:
                for extent in lvm.logical_volume(read, whole, name):
                    assert extent.offset >= 0 and extent.offset + extent.length <= size
    except FormatError as error:
        assert error.what.isprintable()


def records(data: bytes) -> None:
    """A journal: what is understood is what was written."""
    try:
        found = record.parse("x.journal", data)
    except NodeError as error:
        assert error.what.startswith("x.journal cannot be understood")
        return
    assert found.own <= len(found.resources)
    assert msgspec.json.decode(msgspec.json.encode(found.start), type=Start) == found.start
    for resource in found.resources:
        assert registry.resource(msgspec.json.encode(resource)) == resource


TARGETS: dict[str, Callable[[bytes], None]] = {"images": images, "disks": disks, "journal": records}
