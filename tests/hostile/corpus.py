"""Hostile images: how each is made, as what it is handed in, and why it must be refused. Files are sparse and stay small."""

import os
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from vmbatch.format import FormatError
from vmbatch.image.inspect import inspect

LIMIT = 256 << 30
CHAINED = "needs a parent"
"""What callers of `inspect` say of a chained image, and must."""

K64 = 64 << 10
MIB = 1 << 20
GIB = 1 << 30


class Hostile(NamedTuple):
    """`build` makes it at a path that is free; `reason` matches all that is said of it."""

    name: str
    form: str
    reason: str
    build: Callable[[Path], None]


def verdict(path: Path, form: str, limit: int = LIMIT) -> str:
    """Why the image is refused; '' if it is taken."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return CHAINED if inspect(fd, form, limit).chained else ""
    except FormatError as error:
        return error.what
    finally:
        os.close(fd)


def write(path: Path, size: int, parts: Mapping[int, bytes]) -> None:
    """A file of `size` bytes, zero but for `parts`; what lies behind its end is cut off."""
    with path.open("wb") as file:
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def extension(kind: int, data: bytes = b"", length: int | None = None) -> bytes:
    """A header extension of qcow2; `length` lies."""
    return struct.pack(">II", kind, len(data) if length is None else length) + data + bytes(-len(data) % 8)


END = extension(0)
FEATURE_NAMES = 0x6803F857


def table(entries: Iterable[int]) -> bytes:
    """An L1 table."""
    words = array("Q", entries)
    words.byteswap()
    return words.tobytes()


def qcow2_file(
    path: Path, *, magic: bytes = b"QFI\xfb", version: int = 3, backing: bytes = b"", backing_at: int = 0, backing_size: int = 0,
    bits: int = 16, size: int = GIB, crypt: int = 0, entries: int = 2, l1: int = 3 * K64, refcounts: int = K64,
    refcount_clusters: int = 1, snapshots: int = 0, incompatible: int = 0, autoclear: int = 0, order: int = 4, length: int = 104,
    fields: bytes = b"", extensions: bytes = END, l1_table: Iterable[int] = (), file_size: int = 8 * K64,
) -> None:
    """A good image but for what is given: two L1 entries, room for four L2 tables behind the L1 table."""
    place = 1024 if backing else 0
    header = struct.pack(">4sIQIIQIIQQIIQ", magic, version, place or backing_at, len(backing) or backing_size, bits, size, crypt,
                         entries, l1, refcounts, refcount_clusters, snapshots, 5 * K64 if snapshots else 0)
    if version == 3:
        header += struct.pack(">QQQII", incompatible, 0, autoclear, order, length) + fields
    write(path, file_size, {0: header + extensions, **({place: backing} if backing else {}), 3 * K64: table(l1_table)})


def qcow2(name: str, reason: str, **changes: Any) -> Hostile:
    return Hostile(f"qcow2: {name}", "qcow2", reason, partial(qcow2_file, **changes))


def large_qcow2(path: Path) -> None:
    """The largest L1 table there may be, its last entry its first."""
    start, entries = 64 * MIB, 4 * MIB
    offsets = [*range(start, start + 512 * (entries - 1), 512), start]
    qcow2_file(path, bits=9, size=entries << 15, entries=entries, l1=3 * K64, refcounts=512, l1_table=offsets,
               file_size=start + 512 * entries)


def qcow_file(
    path: Path, *, version: int = 1, backing: bytes = b"", backing_size: int = 0, size: int = GIB, bits: int = 12,
    l2_bits: int = 9, padding: int = 0, crypt: int = 0, l1: int = 4096, xen: bytes = b"", l1_table: Iterable[int] = (),
    file_size: int = K64,
) -> None:
    """A good image but for what is given: 512 L1 entries at 4096, room for L2 tables at 8192 and behind."""
    header = struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", version, 48 if backing else 0, len(backing) or backing_size, 0, size, bits,
                         l2_bits, padding, crypt, l1)
    write(path, file_size, {0: header + (xen or backing), 4096: table(l1_table)})


def qcow(name: str, reason: str, **changes: Any) -> Hostile:
    return Hostile(f"qcow: {name}", "qcow", reason, partial(qcow_file, **changes))


def xen(checksum: int = 0xA1B2C3D4, allocation: int = 512, flags: int = 3) -> bytes:
    """Xen's extension of qcow."""
    return struct.pack(">4sIII", b"XEN\xfb", checksum, allocation, flags)


def sealed(data: bytes, at: int, wrong: int = 0) -> bytes:
    """A VHD structure with its checksum at `at`."""
    value = (~(sum(data) - sum(data[at:at + 4])) & 0xFFFFFFFF) ^ wrong
    return data[:at] + struct.pack(">I", value) + data[at + 4:]


def vhd_file(
    path: Path, *, kind: int = 3, size: int = 64 * MIB, cookie: bytes = b"conectix", version: int = 0x10000, header_at: int = 512,
    header_cookie: bytes = b"cxsparse", table_at: int = 1536, entries: int | None = None, block: int = 2 * MIB,
    blocks: Iterable[int] = (), footer_wrong: int = 0, header_wrong: int = 0, copy: bytes = b"", saved: int = 0,
    file_size: int = 16 * MIB,
) -> None:
    """A good dynamic or fixed image but for what is given; `blocks` are the block table's first entries, in sectors."""
    footer = struct.pack(">8sIIQI4sIIQQHBBII16sB427x", cookie, 2, version, header_at if kind > 2 else (1 << 64) - 1, 0, b"tap\0",
                         0x10003, 0, size, size, 1024, 4, 17, kind, 0, b"\1" * 16, saved)
    footer = sealed(footer, 64, footer_wrong)
    if kind == 2:
        write(path, file_size, {file_size - 512: footer})
        return
    count = size // block if entries is None else entries
    header = struct.pack(">8sQQIIII16sI4x512s448x", header_cookie, (1 << 64) - 1, table_at, 0x10000, count, block, 0, b"", 0, b"")
    used = array("I", blocks)
    used.byteswap()
    bat = used.tobytes().ljust(4 * min(size // block, 1 << 20), b"\xff")
    write(path, file_size, {0: copy or footer, 512: sealed(header, 36, header_wrong), 1536: bat, file_size - 512: footer})


def vhd(name: str, reason: str, **changes: Any) -> Hostile:
    return Hostile(f"vhd: {name}", "vhd", reason, partial(vhd_file, **changes))


def large_vhd(path: Path) -> None:
    """The largest block table there may be, its last entry its first."""
    entries, first, step = 1 << 20, 16384, 4608 // 512
    places = [*range(first, first + step * (entries - 1), step), first]
    vhd_file(path, size=entries * 4096, block=4096, blocks=places, file_size=(first + step * entries + 1) * 512)


def raw(name: str, reason: str, size: int = MIB, **parts: bytes) -> Hostile:
    """`parts` are called after their places: `at_512`, or `end_512` for bytes before the end."""
    places = {(size - int(key[4:]) if key.startswith("end_") else int(key[3:])): data for key, data in parts.items()}
    return Hostile(f"raw: {name}", "raw", reason, partial(write, size=size, parts=places))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


CORPUS: tuple[Hostile, ...] = (
    qcow2("wrong magic", "is not qcow2", magic=b"QFI\xfc"),
    qcow2("version 1", "is qcow version 1, not qcow2", version=1),
    qcow2("version 4", "is qcow version 4, which is not known", version=4),
    qcow2("backing file", "has a backing file", backing=b"/etc/shadow"),
    qcow2("backing file of version 2", "has a backing file", version=2, backing=b"/etc/shadow"),
    qcow2("json: backing", "has a backing file", backing=b'json:{"driver":"nbd","host":"198.51.100.1","port":"10809"}'),
    qcow2("backing name of 1024 bytes", "has a backing file", backing=b"/" + b"a" * 1023),
    qcow2("backing offset alone", "has a backing file", backing_at=1024),
    qcow2("backing size alone", "has a backing file", backing_size=0xFFFFFFFF),
    qcow2("backing format alone", "names the format of a backing file", extensions=extension(0xE2792ACA, b"raw") + END),
    qcow2("data file bit", "has an external data file", incompatible=1 << 2),
    qcow2("data file bit and name", "has an external data file", incompatible=1 << 2,
          extensions=extension(0x44415441, b"/etc/shadow") + END),
    qcow2("data file name alone", "names an external data file", extensions=extension(0x44415441, b"/etc/shadow") + END),
    qcow2("data file of version 2", "names an external data file", version=2,
          extensions=extension(0x44415441, b"/etc/shadow") + END),
    qcow2("raw data file bit", r"has bitmaps or other autoclear features \(0x2\)", autoclear=2),
    qcow2("incompatible bit 5", r"has incompatible features that are not known \(0x20\)", incompatible=1 << 5),
    qcow2("incompatible bit 63", r"has incompatible features that are not known \(0x8000000000000000\)", incompatible=1 << 63),
    qcow2("dirty", r"was not closed by its last writer \(dirty bit\)", incompatible=1),
    qcow2("corrupt", "is marked as corrupt", incompatible=2),
    qcow2("AES", "is encrypted", crypt=1),
    qcow2("LUKS", "is encrypted", crypt=2),
    qcow2("LUKS header alone", "has a header for encryption",
          extensions=extension(0x0537BE77, struct.pack(">QQ", 4 * K64, 592)) + END),
    qcow2("snapshots", "has internal snapshots", snapshots=1),
    qcow2("2^32 snapshots", "has internal snapshots", snapshots=0xFFFFFFFF),
    qcow2("bitmaps", "has bitmaps", extensions=extension(0x23852875, struct.pack(">IIQQ", 1, 0, 32, 4 * K64)) + END),
    qcow2("bitmaps bit", r"has bitmaps or other autoclear features \(0x1\)", autoclear=1),
    qcow2("unknown autoclear bit", r"has bitmaps or other autoclear features \(0x100\)", autoclear=1 << 8),
    qcow2("compression bit alone", "has compression type 0, but its features deny it", incompatible=1 << 3),
    qcow2("compression type alone", "has compression type 1, but its features deny it", length=112, fields=b"\1".ljust(8, b"\0")),
    qcow2("compression type 2", "has compression type 2, which is not known", incompatible=1 << 3, length=112,
          fields=b"\2".ljust(8, b"\0")),
    qcow2("extended L2 in small clusters", "has extended L2 entries, but clusters below 16 KiB", incompatible=1 << 4, bits=13),
    qcow2("extended L2 and half an L1 table", "has an L1 table of 2 entries, but needs 4", incompatible=1 << 4),
    qcow2("unknown extension", r"has a header extension that is not known \(0x12345678\)",
          extensions=extension(0x12345678, b"x") + END),
    qcow2("extension without end", "has header extensions without an end",
          extensions=extension(FEATURE_NAMES, b"\0" * (K64 - 112))),
    qcow2("extension longer than the cluster", "has a table of feature names of 96000 bytes",
          extensions=extension(FEATURE_NAMES, length=96000)),
    qcow2("extension of 4 GiB", "has a table of feature names of 4294967280 bytes",
          extensions=extension(FEATURE_NAMES, length=0xFFFFFFFF // 48 * 48)),
    qcow2("endless extensions", "has the table of feature names twice", extensions=extension(FEATURE_NAMES) * 8000),
    qcow2("end with a length", "has data in the end of its header extensions", extensions=extension(0, length=64)),
    qcow2("header of 96 bytes", "has a header that says it is 96 bytes long", length=96),
    qcow2("header of 108 bytes", "has a header that says it is 108 bytes long", length=108),
    qcow2("header of 4 GiB", "has a header that says it is 4294967288 bytes long", length=0xFFFFFFF8),
    qcow2("unknown header fields", "has header fields that are not known", length=120, fields=bytes(15) + b"\1"),
    qcow2("reference counts of 128 bits", r"has reference counts of 2\^7 bits, not of 2\^0 to 2\^6", order=7),
    qcow2("clusters of 256 bytes", r"has clusters of 2\^8 bytes, not of 2\^9 to 2\^21", bits=8),
    qcow2("clusters of 4 MiB", r"has clusters of 2\^22 bytes, not of 2\^9 to 2\^21", bits=22),
    qcow2("clusters of 2 GiB", r"has clusters of 2\^31 bytes, not of 2\^9 to 2\^21", bits=31),
    qcow2("cluster bits 2^32 - 1", r"has clusters of 2\^4294967295 bytes, not of 2\^9 to 2\^21", bits=0xFFFFFFFF),
    qcow2("size 0", "has a virtual size of 0", size=0),
    qcow2("size 513", "has a virtual size of 513 bytes, no multiple of 512", size=513),
    qcow2("size 2^63", "has a virtual size of 9223372036854775808 bytes, more than 64 PiB", size=1 << 63),
    qcow2("size 2^64 - 512", "has a virtual size of 18446744073709551104 bytes, more than 64 PiB", size=(1 << 64) - 512),
    qcow2("size above the limit", "is a disk of 257G, but the limit is 256G", size=257 * GIB, entries=514),
    qcow2("L1 table too small", "has an L1 table of 1 entries, but needs 2", entries=1),
    qcow2("L1 table empty", "has an L1 table of 0 entries, but needs 2", entries=0),
    qcow2("huge L1 table", "has an L1 table of more than 32 MiB", size=1 << 52, entries=1 << 23),
    qcow2("L1 table of 2^32 entries", "has an L1 table of more than 32 MiB", entries=0xFFFFFFFF),
    qcow2("L1 table outside", "has its L1 table outside the file", l1=8 * K64),
    qcow2("L1 table at 2^64", "has its L1 table outside the file", l1=(1 << 64) - K64),
    qcow2("L1 table unaligned", "has its L1 table at no multiple of 65536", l1=3 * K64 + 512),
    qcow2("L1 table over the header", "has header and L1 table in one place", l1=0),
    qcow2("L1 table over the refcount table", "has (L1|refcount) table and (refcount|L1) table in one place", l1=K64),
    qcow2("no refcount table", "has a refcount table of 0 clusters", refcount_clusters=0),
    qcow2("huge refcount table", "has a refcount table of 4294967295 clusters", refcount_clusters=0xFFFFFFFF),
    qcow2("refcount table outside", "has its refcount table outside the file", refcounts=64 * K64),
    qcow2("refcount table unaligned", "has its refcount table at no multiple of 65536", refcounts=K64 + 8),
    qcow2("refcount table over the header", "has header and refcount table in one place", refcounts=0),
    qcow2("one L2 table twice", "has an L2 table that is in use twice", l1_table=[4 * K64, 4 * K64]),
    qcow2("one L2 table twice, once with a flag", "has an L2 table that is in use twice", l1_table=[4 * K64, 4 * K64 | 1 << 63]),
    qcow2("L2 table over the header", "has L2 table and header in one place", l1_table=[0, 1 << 63]),
    qcow2("L2 table over the L1 table", "has L2 table and L1 table in one place", l1_table=[3 * K64]),
    qcow2("L2 table over the refcount table", "has L2 table and refcount table in one place", l1_table=[K64 | 1 << 63]),
    qcow2("L2 table outside", "has an L2 table outside the file", l1_table=[4 * K64, 8 * K64]),
    qcow2("L2 table half outside", "has an L2 table outside the file", l1_table=[7 * K64], file_size=8 * K64 - 512),
    qcow2("L2 table unaligned", "has an L2 table at no multiple of 65536", l1_table=[4 * K64 + 512]),
    qcow2("reserved low bit", "has an L2 table at no multiple of 65536", l1_table=[4 * K64 | 1]),
    qcow2("reserved high bit", "has reserved bits in its L1 table", l1_table=[4 * K64 | 1 << 62]),
    Hostile("qcow2: 4194304 L2 tables, the last the first", "qcow2", "has an L2 table that is in use twice", large_qcow2),
    qcow2("truncated in the magic", "is not qcow2", file_size=3),
    qcow2("truncated behind the magic", "ends in its header", file_size=4),
    qcow2("truncated in the header", "ends in its header", file_size=71),
    qcow2("truncated in the header of version 3", "ends in its header", file_size=103),
    qcow2("truncated in the header of version 2", "ends in its header", version=2, file_size=71),
    qcow2("truncated in the further fields", "ends in its header", length=1024, extensions=bytes(64), file_size=512),
    qcow2("truncated before the extensions", "has header extensions without an end", file_size=104),
    qcow2("truncated in the refcount table", "has its refcount table outside the file", refcounts=4 * K64,
          file_size=4 * K64 + 100),
    qcow2("truncated in the L1 table", "has its L1 table outside the file", file_size=3 * K64 + 8),
    Hostile("qcow: wrong magic", "qcow", "is not qcow", partial(write, size=K64, parts={0: b"QFI\xfc\0\0\0\1"})),
    qcow("version 7", "is qcow version 7, which is not known", version=7),
    qcow("version 3", "is qcow2, not qcow version 1", version=3),
    qcow("backing file", "has a backing file", backing=b"/etc/shadow"),
    qcow("backing size alone", "has a backing file", backing_size=4000),
    qcow("AES", "is encrypted", crypt=1),
    qcow("padding", "has header fields that are not known", padding=1),
    qcow("size 0", "has a virtual size of 0", size=0),
    qcow("huge", "has a virtual size of 9223372036854775808 bytes, more than 64 PiB", size=1 << 63),
    qcow("L1 table of 128 MiB", "has an L1 table of more than 32 MiB", size=32 << 40),
    qcow("above the limit", "is a disk of 257G, but the limit is 256G", size=257 * GIB, file_size=2 * MIB),
    qcow("clusters of 256 bytes", r"has clusters of 2\^8 bytes, not of 2\^9 to 2\^16", bits=8),
    qcow("clusters of 128 KiB", r"has clusters of 2\^17 bytes, not of 2\^9 to 2\^16", bits=17),
    qcow("L2 tables of 32 entries", r"has L2 tables of 2\^5 entries, not of 2\^6 to 2\^13", l2_bits=5),
    qcow("L2 tables of 2^64 entries", r"has L2 tables of 2\^64 entries, not of 2\^6 to 2\^13", l2_bits=64),
    qcow("L1 table at 2^64", "has its L1 table outside the file", l1=(1 << 64) - 8),
    qcow("L1 table over the header", "has header and L1 table in one place", l1=40),
    qcow("duplicates", "has an L2 table that is in use twice", l1_table=[8192, 0, 8192]),
    qcow("L2 table over the L1 table", "has L2 table and L1 table in one place", l1_table=[4096]),
    qcow("L2 table that reaches into the L1 table", "has L2 table and L1 table in one place", bits=9, l2_bits=12, l1_table=[512]),
    qcow("L2 table outside", "has an L2 table outside the file", l1_table=[1 << 63]),
    qcow("L2 table unaligned", "has an L2 table at no multiple of 4096", l1_table=[8192 + 8]),
    qcow("truncated in the header", "ends in its header", file_size=47),
    qcow("truncated in the L1 table", "has its L1 table outside the file", file_size=8000),
    qcow("Xen's bad checksum", "has an L1 table that its checksum denies", xen=xen()),
    qcow("Xen's native-endian L1 table", "has an L1 table in the processor's byte order, as Xen wrote it before 2010",
         xen=xen(flags=1), l1_table=[0x0020000000000000]),
    qcow("Xen's unknown flag", r"has flags of Xen that are not known \(0x7\)", xen=xen(flags=7)),
    qcow("Xen's allocation of 3", "has allocations of 3 clusters in Xen's extension", xen=xen(allocation=3)),
    qcow("Xen's L1 table unaligned", "has its L1 table at no multiple of 4096", xen=xen(), l1=4096 + 8),
    vhd("a differencing one as if it stood alone", CHAINED, kind=4),
    vhd("no footer", "has no VHD footer at its end", cookie=b"conectiy"),
    vhd("bad checksum of the footer", "has a VHD footer with a wrong checksum", footer_wrong=1),
    vhd("bad checksum of the header", "has a VHD header with a wrong checksum", header_wrong=1),
    vhd("no header", "has no VHD header where its footer says", header_cookie=b"cxsparsf"),
    vhd("header outside", "has its VHD header at byte 18446744073709551104, outside the file", header_at=(1 << 64) - 512),
    vhd("version 2", "has the unknown VHD version 0x00020000", version=0x20000),
    vhd("type 5", "has the unknown VHD type 5", kind=5),
    vhd("saved state", "belongs to a machine in saved state", saved=1),
    vhd("two entries for one block", "has two blocks at overlapping places, at byte 1048576", blocks=[2048, 2048]),
    vhd("blocks that overlap", "has two blocks at overlapping places, at byte 1049088", blocks=[2048, 2049]),
    vhd("block over the block table", "has a block at byte 1536, over its block table", blocks=[3]),
    vhd("block over the footer", "has a block at byte 0, over its first footer", blocks=[0]),
    vhd("block outside", "has block 1 at byte 2199023254528, outside the file", blocks=[2048, 0xFFFFFFFE]),
    vhd("block table outside", "has its block table at byte 9223372036854775808, outside the file", table_at=1 << 63),
    vhd("block table over the header", "has its header and its block table at overlapping places", table_at=1024),
    vhd("more entries than needed", "has a block table of 4294967295 entries, not the 32 of its size", entries=0xFFFFFFFF),
    vhd("fewer entries than needed", "has a block table of 1 entries, not the 32 of its size", entries=1),
    vhd("blocks of 512 bytes", "has blocks of 512 bytes, not of a power of two from 4 KiB to 16 MiB", block=512),
    vhd("size 2^63", "has a disk size of 9223372036854775808 bytes, more than the 2040 GiB that a VHD can have", size=1 << 63,
        entries=1),
    vhd("size 0", "has a disk size of 0 bytes", size=0, entries=0),
    vhd("above the limit", "is a disk of 257G, but the limit is 256G", size=257 * GIB),
    vhd("a fixed one that lies about its size", "has 16777216 bytes, not the 67109376 of a fixed VHD of its size", kind=2),
    vhd("copy of the footer differs", "has a VHD footer that differs from its copy at the beginning",
        copy=b"conectix" + bytes(504)),
    Hostile("vhd: truncated", "vhd", "has 511 bytes, too few for a VHD footer", partial(write, size=511, parts={0: b"conectix"})),
    Hostile("vhd: 1048576 blocks, the last the first", "vhd", "has two blocks at overlapping places, at byte 8388608", large_vhd),
    raw("qcow2 header", "is qcow2, not raw", at_0=b"QFI\xfb\0\0\0\3"),
    raw("qcow header", "is qcow, not raw", at_0=b"QFI\xfb\0\0\0\1"),
    raw("QED", "is QED, not raw", at_0=b"QED\0"),
    raw("VMDK descriptor", "is VMDK, not raw",
        at_0=b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n'),
    raw("VMDK descriptor behind comments", "is VMDK, not raw", at_0=b'# a\n\n# b\r\nversion=1\nRW 2048 FLAT "/etc/shadow" 0\n'),
    raw("sparse VMDK", "is VMDK, not raw", at_0=b"KDMV\1\0\0\0"),
    raw("ESX VMDK", "is VMDK, not raw", at_0=b"COWD\1\0\0\0"),
    raw("VHD footer", "is VHD, not raw", end_512=b"conectix"),
    raw("VHD header", "is VHD, not raw", at_0=b"conectix"),
    raw("VHDX", "is VHDX, not raw", at_0=b"vhdxfile"),
    raw("VDI", "is VDI, not raw", at_64=b"\x7f\x10\xda\xbe"),
    raw("Parallels", "is Parallels, not raw", at_0=b"WithouFreSpacExt"),
    raw("DMG", "is DMG, not raw", end_512=b"koly\0\0\0\4\0\0\2\0"),
    raw("LUKS", "is LUKS, not raw", at_0=b"LUKS\xba\xbe\0\2"),
    raw("gzip", "is gzip, not raw", at_0=b"\x1f\x8b\x08\0"),
    raw("xz", "is xz, not raw", at_0=b"\xfd7zXZ\0"),
    raw("zstd", "is zstd, not raw", at_0=b"\x28\xb5\x2f\xfd"),
    raw("bzip2", "is bzip2, not raw", at_0=b"BZh91AY&SY"),
    raw("empty", "is empty", size=0),
    raw("odd size", "is raw, but its 1048577 bytes are no multiple of 512", size=MIB + 1),
    raw("bigger than the limit", "is a disk of 257G, but the limit is 256G", size=257 * GIB),
    raw("file bigger than the limit", "is a file of 280G, but the limit is 256G", size=280 * GIB),
    Hostile("a FIFO", "raw", "is not a regular file", os.mkfifo),
    Hostile("a directory", "raw", "is not a regular file", Path.mkdir),
    Hostile("a device", "raw", "is not a regular file", device),
    Hostile("a FIFO as qcow2", "qcow2", "is not a regular file", os.mkfifo),
)
