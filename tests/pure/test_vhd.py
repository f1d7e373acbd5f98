"""VHD images: written and read back, every malformed one refused, chains merged."""

import contextlib
import struct
import uuid
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmbatch.format import FormatError, Layout, vhd

from ..format import BASE, CHILD, MIDDLE, NOW, SECTOR, filled, merged, parsed, reader, sealed, sparse, written

MIB, GIB = 1 << 20, 1 << 30
LOCATORS = [(b"W2ku", "C:\\Images\\base.vhd".encode("utf-16-le")), (b"MacX", "file://./bäse.vhd".encode())]
SAMPLE = sparse(64 << 10, 4 << 10, {3: {0: b"a" * SECTOR}, 0: {7: b"b" * SECTOR}}, identity=CHILD, parent=BASE,
                name="base.vhd".encode("utf-16-be"), locators=LOCATORS)
"""Footer at 0, header at 512, table at 1536, locators at 2048 and 2560, blocks 3 and 0 at 3072 and 7680, footer at 12288."""

GEOMETRIES = {
    2 * MIB: (60, 4, 17),
    40 * MIB: (963, 5, 17),
    16 * 1024 * 17 * 512 - 512: (1023, 16, 17),
    16 * 1024 * 17 * 512: (561, 16, 31),
    16 * 1024 * 31 * 512 - 512: (1023, 16, 31),
    16 * 1024 * 31 * 512: (503, 16, 63),
    4 * GIB: (8322, 16, 63),
    127 * GIB: (65278, 16, 255),
    65535 * 16 * 63 * 512 - 512: (65534, 16, 63),
    65535 * 16 * 63 * 512: (16191, 16, 255),
    65535 * 16 * 255 * 512: (65535, 16, 255),
    2040 * GIB: (65535, 16, 255),
}


def changed(offset: int, value: bytes, data: bytes = SAMPLE) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def footer(offset: int, value: bytes, data: bytes = SAMPLE) -> bytes:
    """Both footers changed, with their checksums right."""
    new = sealed(changed(offset, value, data[-SECTOR:]), 64)
    return (new if data[:8] == b"conectix" else data[:SECTOR]) + data[SECTOR:-SECTOR] + new


def header(offset: int, value: bytes, data: bytes = SAMPLE) -> bytes:
    """The header changed, with its checksum right."""
    return data[:512] + sealed(changed(offset, value, data[512:1536]), 36) + data[1536:]


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


ALONE = changed(1536 + 12, u32(0xFFFFFFFF))
"""Without block 3."""

FIXED = written(vhd.fixed(2 * MIB, BASE, NOW))
TOO_MUCH = "more than the 2040 GiB that a VHD can have"
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes, too few for a VHD footer"),
    "short": (SAMPLE[-511:], "has 511 bytes, too few for a VHD footer"),
    "no footer": (SAMPLE[:-SECTOR], "has no VHD footer at its end"),
    "poisoned": (footer(0, b"v_poison"), "has no VHD footer at its end"),
    "footer's checksum": (changed(12288 + 200, b"x"), "has a VHD footer with a wrong checksum"),
    "footer's copy": (changed(200, b"x"), "has a VHD footer that differs from its copy at the beginning"),
    "footer alone": (SAMPLE[-SECTOR:], "has its VHD header at byte 512, outside the file"),
    "version": (footer(12, u32(0x00020000)), "has the unknown VHD version 0x00020000"),
    "type": (footer(60, u32(5)), "has the unknown VHD type 5"),
    "no type": (footer(60, u32(0)), "has the unknown VHD type 0"),
    "saved": (footer(84, b"\1"), "belongs to a machine in saved state"),
    "tapdisk 0.1": (footer(28, b"tap\0\0\0\0\1"), "was written by tapdisk 0.1, whose bitmaps are in another order"),
    "no size": (footer(48, u64(0)), "has a disk size of 0 bytes"),
    "odd size": (footer(48, u64(65537)), "has a disk size of 65537 bytes, which is no multiple of 512"),
    "large": (footer(48, u64((2040 << 30) + 512)), f"has a disk size of 2190433321472 bytes, {TOO_MUCH}"),
    "huge": (footer(48, u64((1 << 64) - 512)), f"has a disk size of 18446744073709551104 bytes, {TOO_MUCH}"),
    "fixed, short": (FIXED[512:], "has 2097152 bytes, not the 2097664 of a fixed VHD of its size"),
    "fixed, long": (bytes(512) + FIXED, "has 2098176 bytes, not the 2097664 of a fixed VHD of its size"),
    "header nowhere": (footer(16, u64((1 << 64) - 1)), "has its VHD header at byte 18446744073709551615, outside the file"),
    "header over the end": (footer(16, u64(12288 - 1023)), "has its VHD header at byte 11265, outside the file"),
    "no header": (footer(16, u64(1536)), "has no VHD header where its footer says"),
    "header in the footer": (
        changed(100, SAMPLE[512:1536], footer(16, u64(100))), "has a VHD footer that differs from its copy at the beginning"),
    "header's checksum": (changed(700, b"x"), "has a VHD header with a wrong checksum"),
    "header's version": (header(24, u32(0x00010001)), "has the unknown VHD header version 0x00010001"),
    "no blocks": (header(32, u32(0)), "has blocks of 0 bytes, not of a power of two from 4 KiB to 16 MiB"),
    "odd blocks": (header(32, u32(4097)), "has blocks of 4097 bytes, not of a power of two from 4 KiB to 16 MiB"),
    "small blocks": (header(32, u32(2048)), "has blocks of 2048 bytes, not of a power of two from 4 KiB to 16 MiB"),
    "large blocks": (header(32, u32(32 * MIB)), "has blocks of 33554432 bytes, not of a power of two from 4 KiB to 16 MiB"),
    "few entries": (header(28, u32(15)), "has a block table of 15 entries, not the 16 of its size"),
    "many entries": (header(28, u32(17)), "has a block table of 17 entries, not the 16 of its size"),
    "large table": (
        header(28, u32((1 << 20) + 1), footer(48, u64((4 << 30) + 512))),
        "has a block table of 1048577 entries, more than 1048576",
    ),
    "table nowhere": (header(16, u64(1 << 63)), "has its block table at byte 9223372036854775808, outside the file"),
    "table over the end": (header(16, u64(12288 - 63)), "has its block table at byte 12225, outside the file"),
    "table in the footer": (header(16, u64(511)), "has its first footer and its block table at overlapping places"),
    "table in the header": (header(16, u64(1535)), "has its header and its block table at overlapping places"),
    "table in a locator": (header(16, u64(2040)), "has its block table and a parent locator at overlapping places"),
    "block nowhere": (changed(1540, u32(0xFFFFFFFE)), "has block 1 at byte 2199023254528, outside the file"),
    "block over the end": (changed(1540, u32(16)), "has block 1 at byte 8192, outside the file"),
    "torn block": (SAMPLE[:-513] + SAMPLE[-512:], "has block 0 at byte 7680, outside the file"),
    "block in the footer": (changed(1536, u32(0), ALONE), "has a block at byte 0, over its first footer"),
    "block in the header": (changed(1536, u32(1), ALONE), "has a block at byte 512, over its header"),
    "block in the table": (changed(1536, u32(3)), "has two blocks at overlapping places, at byte 3072"),
    "block alone in the table": (changed(1536, u32(3), ALONE), "has a block at byte 1536, over its block table"),
    "block in a locator": (changed(1536, u32(5), ALONE), "has a block at byte 2560, over a parent locator"),
    "same place twice": (changed(1540, u32(6)), "has two blocks at overlapping places, at byte 3072"),
    "blocks that overlap": (changed(1540, u32(14)), "has two blocks at overlapping places, at byte 7168"),
    "blocks that overlap at their ends": (changed(1536 + 12, u32(7)), "has two blocks at overlapping places, at byte 7680"),
    "locator nowhere": (header(576 + 16, u64(1 << 63)), "has a parent locator at byte 9223372036854775808, outside the file"),
    "locator over the end": (header(576 + 16, u64(12288 - 35)), "has a parent locator at byte 12253, outside the file"),
    "empty locator": (header(576 + 8, u32(0)), "has a parent locator of 0 bytes, not of 1 to 8192 within its place"),
    "locator longer than its place": (
        header(576 + 8, u32(513)), "has a parent locator of 513 bytes, not of 1 to 8192 within its place"),
    "locator longer than its place in bytes": (
        header(576 + 4, u32(512) + u32(513)), "has a parent locator of 513 bytes, not of 1 to 8192 within its place"),
    "long locator": (
        header(576 + 4, u32(17) + u32(8193)), "has a parent locator of 8193 bytes, not of 1 to 8192 within its place"),
    "huge locator": (
        header(576 + 4, b"\xff" * 8), "has a parent locator of 4294967295 bytes, not of 1 to 8192 within its place"),
    "half a character": (header(576 + 8, u32(35)), "has a parent locator that is not printable text"),
    "surrogate": (changed(2048, b"\0\xd8"), "has a parent locator that is not printable text"),
    "escape sequence": (changed(2560 + 7, b"\x1b[2J"), "has a parent locator that is not printable text"),
    "NUL within": (changed(2560 + 9, b"\0"), "has a parent locator that is not printable text"),
    "no UTF-8": (changed(2560 + 9, b"\xff"), "has a parent locator that is not printable text"),
    "no file": (changed(2560, b"http"), "has a parent locator that is not a file:// URL"),
    "no path": (header(576 + 8, u32(4)), "has a parent locator without a path"),
    "name": (header(64, "a\nb".encode("utf-16-be")), "has a parent name that is not printable text"),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parsed(data)
    assert caught.value.what == message


def test_well_formed() -> None:
    assert parsed(SAMPLE) == vhd.Vhd("differencing", 64 << 10, str(CHILD), NOW, 1536, 16, 4096,
                                     vhd.Parent(str(BASE), "base.vhd", ("/Images/base.vhd", "./bäse.vhd")))


def test_header_elsewhere() -> None:
    """Only then it can reach into what must not be reached into."""
    data = SAMPLE[:-SECTOR] + SAMPLE[512:1536] + SAMPLE[-SECTOR:]
    moved = footer(16, u64(12288), changed(512, bytes(1024), data))
    assert parsed(moved) == parsed(SAMPLE)
    into = changed(1536, u32(16), moved)
    with pytest.raises(FormatError) as caught:
        parsed(into)
    assert caught.value.what == "has a block at byte 8192, over its header"


def test_locators_that_say_nothing() -> None:
    """Other codes, and entries that are not used, wherever they point to."""
    assert parsed(header(576, b"Wi2r" + b"\xff" * 20)).parent == vhd.Parent(str(BASE), "base.vhd", ("./bäse.vhd",))
    dynamic = sparse(64 << 10, 4 << 10, locators=[(b"MacX", b"http")])
    assert parsed(dynamic).parent is None


def test_locators_space_in_sectors_or_bytes() -> None:
    for space in (1, 511, 512, 1024):
        assert parsed(header(576 + 4, u32(space))) == parsed(SAMPLE)


def test_name_ends_at_its_nul_or_at_the_field() -> None:
    parent = parsed(header(64, "x\0\x1b".encode("utf-16-be"))).parent
    assert parent is not None
    assert parent.name == "x"
    parent = parsed(header(64, ("ä" * 256).encode("utf-16-be"))).parent
    assert parent is not None
    assert parent.name == "ä" * 256


@pytest.mark.parametrize("length", [*range(0, len(SAMPLE), 97), len(SAMPLE) - 1])
def test_truncated(length: int) -> None:
    with pytest.raises(FormatError):
        parsed(SAMPLE[:length])


def test_truncated_while_read() -> None:
    for missing in (512, 1536, 2048, 2560):
        def read(offset: int, length: int, missing: int = missing) -> bytes:
            return reader(SAMPLE)(offset, length)[: max(0, missing - offset) if offset + length <= 12288 else length]

        with pytest.raises(FormatError, match=r"^is truncated: it ends before byte \d+$"):
            vhd.parse(read, len(SAMPLE))


@given(st.integers(0, 1535) | st.integers(12288, 12288 + 511), st.integers(1, 255))
def test_every_byte_of_footers_and_header_counts(at: int, change: int) -> None:
    with pytest.raises(FormatError):
        parsed(changed(at, bytes([SAMPLE[at] ^ change])))


@settings(max_examples=300)
@given(st.data())
def test_anything_with_right_checksums(data: st.DataObject) -> None:
    """A FormatError or an image, and never another error; of an image the extents can be read."""
    image = SAMPLE
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(st.binary(min_size=1, max_size=8))
        kind = data.draw(st.sampled_from(["footer", "header", "rest"]))
        if kind == "footer":
            image = footer(data.draw(st.integers(0, 90)), value, image)
        elif kind == "header":
            image = header(data.draw(st.integers(0, 620)), value, image)
        else:
            image = changed(data.draw(st.integers(1536, 3072)), value, image)
    with contextlib.suppress(FormatError):
        found = parsed(image)
        if found.parent is not None:
            base = vhd.Vhd("fixed", 512, found.parent.identity, 0)
            assert all(len(part) <= 16 * MIB for _, part in vhd.extents([(base, reader(bytes(512))), (found, reader(image))]))


def test_the_largest_table_takes_little_memory() -> None:
    """It is read in pieces, and the file's size is believed only where something is read."""
    largest = vhd.dynamic(2040 * GIB, BASE, NOW)
    lengths = []

    def read(offset: int, length: int) -> bytes:
        lengths.append(length)
        return reader(largest)(offset, length)

    assert vhd.parse(read, largest.size).entries == 1044480
    assert max(lengths) == 256 << 10


@pytest.mark.parametrize(("size", "expected"), GEOMETRIES.items())
def test_geometry(size: int, expected: tuple[int, int, int]) -> None:
    assert vhd.geometry(size) == expected


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 2 * MIB), (2 * MIB, 2 * MIB), (2 * MIB + 1, 4 * MIB)])
def test_rounded(size: int, expected: int) -> None:
    assert vhd.rounded(size) == expected


SIZES = st.integers(1, 2040 * GIB) | st.integers(1, 64 * MIB)
TIMES = st.integers(946684800, 946684800 + 0xFFFFFFFF)


@settings(deadline=None)
@given(SIZES, st.uuids(), TIMES)
@example(2040 * GIB, BASE, NOW)
def test_fixed_and_dynamic_come_back(size: int, identity: uuid.UUID, now: int) -> None:
    real = vhd.rounded(size)
    assert parsed(vhd.fixed(size, identity, now)) == vhd.Vhd("fixed", real, str(identity), now)
    assert parsed(vhd.dynamic(size, identity, now)) == vhd.Vhd(
        "dynamic", real, str(identity), now, 1536, real // (2 * MIB), 2 * MIB)


NAMES = st.text("abcäß漢😀 .%-", min_size=1, max_size=60).filter(lambda name: name.strip(".") != "")


@settings(deadline=None)
@given(SIZES, st.uuids(), TIMES, st.uuids(), NAMES)
@example(2040 * GIB, CHILD, NOW, BASE, "x" * 255)
def test_differencing_comes_back(size: int, identity: uuid.UUID, now: int, parent: uuid.UUID, name: str) -> None:
    size = -(-size // SECTOR) * SECTOR
    base = vhd.Vhd("dynamic", size, str(parent), NOW)
    child = parsed(vhd.differencing(size, identity, now, base, f"/images/{name}", "/images/child", now))
    assert child == vhd.Vhd("differencing", size, str(identity), now, 1536, -(-size // (2 * MIB)), 2 * MIB,
                            vhd.Parent(str(parent), name, (f"./{name}",) * 3))
    vhd.check_child(child, base)


def test_what_is_written() -> None:
    """Byte for byte what the fields of libvhd are, but for the zeros."""
    base = vhd.Vhd("dynamic", 6 * MIB, str(BASE), NOW)
    data = written(vhd.differencing(6 * MIB, CHILD, NOW, base, "/srv/golden/base.vhd", "/srv/spool/42/disk.vhd", NOW + 1))
    foot, head = data[:SECTOR], data[512:1536]
    assert foot == data[-SECTOR:]
    assert foot[:64] == b"conectix" + bytes.fromhex(
        "00000002 00010000 0000000000000200 26f0cc80 74617000 00010003 00000000"
        "0000000000600000 0000000000600000 00b4 04 11 00000004")
    assert foot[68:] == CHILD.bytes + bytes(428)
    assert head[:36] == b"cxsparse" + bytes.fromhex("ffffffffffffffff 0000000000000600 00010000 00000003 00200000")
    assert head[40:64] == BASE.bytes + bytes.fromhex("26f0cc81 00000000")
    assert head[64:576] == "base.vhd".encode("utf-16-be").ljust(512, b"\0")
    windows = ".\\..\\..\\golden\\base.vhd".encode("utf-16-le")
    mac = b"file://../../golden/base.vhd"
    locators = [(b"MacX", len(mac), 3072), (b"W2ku", len(windows), 3584), (b"W2ru", len(windows), 4096)]
    entries = b"".join(struct.pack(">4sIIIQ", code, 512, length, 0, at) for code, length, at in locators)
    assert head[576:] == entries.ljust(448, b"\0")
    assert data[1536:2048] == b"\xff" * 12 + bytes(500)
    assert data[2048:2560] == b"tdbatmap" + u64(2560) + u32(1) + u32(0x00010002) + u32(0xFFFFFFFF) + bytes(484)
    assert data[2560:3072] == bytes(512)
    assert data[3072:4608] == mac.ljust(512, b"\0") + 2 * windows.ljust(512, b"\0")
    assert len(data) == 4608 + 512


def test_a_fixed_footer() -> None:
    assert vhd.fixed(1, BASE, NOW).parts[0][0] == 2 * MIB
    assert FIXED[-SECTOR:][16:24] == b"\xff" * 8
    assert FIXED[-SECTOR:][60:64] == u32(2)


def test_times_before_the_format() -> None:
    assert parsed(vhd.dynamic(1, BASE, 0)).timestamp == 946684800
    assert parsed(vhd.dynamic(1, BASE, 1 << 40)).timestamp == 946684800 + 0xFFFFFFFF


@pytest.mark.parametrize("write", [vhd.fixed, vhd.dynamic])
@pytest.mark.parametrize(("size", "message"), [
    (0, "has a disk size of 0 bytes"),
    (-1, "has a disk size of 0 bytes"),
    (2040 * GIB + 1, f"has a disk size of 2190435418112 bytes, {TOO_MUCH}"),
])
def test_sizes_that_cannot_be_written(write: Callable[[int, uuid.UUID, float], Layout], size: int, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        write(size, BASE, NOW)
    assert caught.value.what == message


@pytest.mark.parametrize(("size", "parent", "child", "message"), [
    (1000, "/a", "/b", "has a disk size of 1000 bytes, which is no multiple of 512"),
    (512, "/a", "/b", "would have 512 bytes, fewer than the 1024 of its parent"),
    (1024, "a", "/b", "cannot be written down with 'a', which is not an absolute path"),
    (1024, "/a", "b", "cannot be written down with 'b', which is not an absolute path"),
    (1024, "/a\\b", "/b", "cannot be written down with the parent 'a\\\\b', whose path has a \\ or is not printable"),
    (1024, "/a\n", "/b", "cannot be written down with the parent 'a\\n', whose path has a \\ or is not printable"),
    (1024, "/\udcff", "/b", "cannot be written down with the parent '\\udcff', whose path has a \\ or is not printable"),
    (1024, "/" + 256 * "a", "/b", "has a parent whose name is longer than 255 characters"),
    (1024, "/" + 1024 * "aaaa/", "/b", "has a parent whose path is longer than 8192 bytes"),
])
def test_children_that_cannot_be_written(size: int, parent: str, child: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        vhd.differencing(size, CHILD, NOW, vhd.Vhd("dynamic", 1024, str(BASE), NOW), parent, child, NOW)
    assert caught.value.what == message


def test_a_parent_without_identity() -> None:
    """Only a raw image has none, given as such or as None."""
    with pytest.raises(FormatError, match=r"^would have a VHD without identity for parent, and take it for a raw image$"):
        vhd.differencing(1024, CHILD, NOW, vhd.Vhd("fixed", 1024, vhd.RAW_PARENT, NOW), "/a", "/b", NOW)
    one, other = (vhd.differencing(1024, CHILD, NOW, parent, "/a", "/b", NOW) for parent in (None, vhd.raw(1000)))
    assert one == other


def dynamic(size: int = 1024, identity: uuid.UUID = BASE) -> vhd.Vhd:
    return vhd.Vhd("dynamic", size, str(identity), NOW)


def child(size: int = 1024, parent: uuid.UUID = BASE) -> vhd.Vhd:
    return vhd.Vhd("differencing", size, str(CHILD), NOW, parent=vhd.Parent(str(parent), "", ()))


RAW = uuid.UUID(vhd.RAW_PARENT)


@pytest.mark.parametrize(("one", "parent"), [(child(), dynamic()), (child(2048), dynamic()), (child(parent=CHILD), child()),
                                             (child(parent=RAW), vhd.raw(1024)), (child(parent=RAW), vhd.raw(1000))])
def test_children(one: vhd.Vhd, parent: vhd.Vhd) -> None:
    vhd.check_child(one, parent)


@pytest.mark.parametrize(("one", "parent", "message"), [
    (dynamic(), dynamic(), "is not differencing and can have no parent"),
    (child(), dynamic(identity=MIDDLE), f"has the parent {BASE}, and what was found is {MIDDLE}"),
    (child(), vhd.raw(1024), f"has the parent {BASE}, and what was found is {RAW}"),
    (child(), dynamic(2048), "has 1024 bytes, fewer than the 2048 of its parent"),
    (child(parent=RAW), vhd.raw(1025), "has 1024 bytes, fewer than the 1025 of its parent"),
    (child(parent=RAW), dynamic(identity=RAW), "has a raw image for parent, and what was found is a VHD"),
    (child(parent=RAW), parsed(vhd.fixed(1, RAW, 0)), "has a raw image for parent, and what was found is a VHD"),
])
def test_no_children(one: vhd.Vhd, parent: vhd.Vhd, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        vhd.check_child(one, parent)
    assert caught.value.what == message
    if parent.parent is None:
        with pytest.raises(FormatError):
            vhd.extents([(parent, reader(b"")), (one, reader(b""))])


def test_a_child_alone() -> None:
    with pytest.raises(FormatError, match=r"^is differencing, and its parent is missing$"):
        vhd.extents([(parsed(SAMPLE), reader(SAMPLE))])


def test_bits_have_the_high_one_first() -> None:
    """Sectors 0, 3, 4 and 15 of 16."""
    data = sparse(8192, 8192, {0: {number: bytes([number]) * SECTOR for number in (0, 3, 4, 15)}})
    assert data[2048:2050] == b"\x98\x01"
    assert list(vhd.extents([(parsed(data), reader(data))])) == [
        (0, bytes(512)), (3 * 512, b"\3" * 512 + b"\4" * 512), (15 * 512, b"\x0f" * 512)]


def test_bits_behind_the_end() -> None:
    """A disk that ends within a block, all of whose bits are set."""
    data = sparse(5 * 512, 4096, {0: {number: bytes([number]) * SECTOR for number in range(8)}})
    assert merged(data) == b"".join(bytes([number]) * SECTOR for number in range(5))


def test_blocks_with_a_bitmap_of_several_sectors() -> None:
    data = sparse(16 * MIB, 16 * MIB, {0: {32767: b"z" * SECTOR}})
    assert list(vhd.extents([(parsed(data), reader(data))])) == [(16 * MIB - 512, b"z" * 512)]


def test_blocks_in_a_later_piece_of_the_table() -> None:
    data = sparse(512 * MIB, 4096, {65535: {0: b"x" * SECTOR}, 65536: {0: b"y" * SECTOR}, 131071: {7: b"z" * SECTOR}})
    assert list(vhd.extents([(parsed(data), reader(data))])) == [
        (65535 * 4096, b"x" * SECTOR), (65536 * 4096, b"y" * SECTOR), (512 * MIB - SECTOR, b"z" * SECTOR)]


def test_changed_under_our_hands() -> None:
    found = parsed(SAMPLE)
    moved = changed(1536, u32(0x7FFFFFFF))
    with pytest.raises(FormatError, match=r"^is truncated: it ends before byte 1099511627776$"):
        list(vhd.extents([(vhd.Vhd("fixed", 0, str(BASE), 0), reader(b"")), (found, reader(moved))]))


def test_three_with_bitmaps() -> None:
    """Every sector of two blocks from another image; what no one has is zero; 0xEE, where no bit is set, never shows."""
    def sectors(mark: int, *numbers: int) -> dict[int, bytes]:
        return {number: bytes([mark]) * SECTOR for number in numbers}

    size = 6 * MIB
    base = filled(written(vhd.dynamic(size, BASE, NOW)), {2: sectors(1, 0, 1, 2, 4095), 0: sectors(1, 7, 8)})
    middle = filled(written(vhd.differencing(size, MIDDLE, NOW, parsed(base), "/v/base", "/v/middle", NOW)),
                    {0: sectors(2, 8, 9), 2: sectors(2, 1, 2)})
    last = filled(written(vhd.differencing(size, CHILD, NOW, parsed(middle), "/v/middle", "/v/last", NOW)),
                  {2: sectors(0, 2), 1: sectors(3, 4095)})
    expected = bytearray(size)
    for sector, mark in {7: 1, 8: 2, 9: 2, 8191: 3, 8192: 1, 8193: 2, 8194: 0, 12287: 1}.items():
        expected[sector * SECTOR : (sector + 1) * SECTOR] = bytes([mark]) * SECTOR
    assert merged(base, middle, last) == expected
    assert merged(base, middle)[8194 * SECTOR] == 2


@pytest.mark.parametrize("size", [3 * MIB, 2 * MIB + 100])
def test_a_raw_base(size: int) -> None:
    base = bytes(range(256)) * (size // 256) + bytes(size % 256)
    last = filled(written(vhd.differencing(4 * MIB, CHILD, NOW, None, "/v/base", "/v/last", NOW)), {1: {0: b"\xff" * SECTOR}})
    pieces = list(vhd.extents([(vhd.raw(size), reader(base)), (parsed(last), reader(last))]))
    assert pieces == [(0, base[: 2 * MIB]), (2 * MIB, base[2 * MIB :]), (2 * MIB, b"\xff" * SECTOR)]


def test_a_fixed_base() -> None:
    base = b"\1" * (2 * MIB) + FIXED[-SECTOR:]
    last = written(vhd.differencing(2 * MIB, CHILD, NOW, parsed(base), "/v/base", "/v/last", NOW))
    last = filled(last, {0: {4095: bytes(SECTOR)}})
    assert merged(base, last) == b"\1" * (2 * MIB - SECTOR) + bytes(SECTOR)


LAYERS = st.dictionaries(st.integers(0, 3), st.dictionaries(st.integers(0, 7), st.integers(0, 255), max_size=8), max_size=4)


@given(st.lists(LAYERS, min_size=1, max_size=4), st.integers(25, 32))
def test_any_chain_is_as_sectors_one_by_one(layers: list[dict[int, dict[int, int]]], sectors: int) -> None:
    size = sectors * SECTOR
    identities = [uuid.UUID(int=number + 1) for number in range(len(layers))]
    images, expected = [], bytearray(32 * SECTOR)
    for number, layer in enumerate(layers):
        blocks = {block: {at: bytes([mark]) * SECTOR for at, mark in marks.items()} for block, marks in layer.items()}
        images.append(sparse(size, 4096, blocks, identity=identities[number], parent=identities[number - 1] if number else None))
        for block, marks in blocks.items():
            for at, content in marks.items():
                expected[block * 4096 + at * SECTOR : block * 4096 + (at + 1) * SECTOR] = content
    assert merged(*images) == expected[:size]
