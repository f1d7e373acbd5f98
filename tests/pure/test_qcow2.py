"""qcow2: what is written, to the byte, and that nothing hostile is read as an image."""

import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmbatch.format import FormatError, Layout, Read
from vmbatch.format.qcow2 import Area, Qcow2, blank, check_areas, check_tables, overlay, parse

K64 = 65536
HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")


def reader(layout: Layout, limit: int | None = None) -> Read:
    """Reads of a layout, as os.pread of its file, `limit` bytes at most."""
    end = layout.size if limit is None else limit

    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 <= length <= 2 << 20, "no read is large"
        data = bytearray(max(0, min(length, end - offset)))
        for place, part in layout.parts:
            first, last = max(place, offset), min(place + len(part), offset + len(data))
            if first < last:
                data[first - offset:last - offset] = part[first - place:last - place]
        return bytes(data)

    return read


def changed(layout: Layout, offset: int, data: bytes) -> Layout:
    return Layout(layout.size, (*layout.parts, (offset, data)))


@pytest.mark.parametrize(
    ("size", "entries"), [(512, 1), (512 << 20, 1), ((512 << 20) + 512, 2), (1 << 40, 2048), (2 << 50, 4 << 20)])
def test_blank(size: int, entries: int) -> None:
    layout = blank(size)
    (_, head), (table, table_data), (block, block_data) = layout.parts
    assert HEADER.unpack_from(head) == (
        b"QFI\xfb", 3, 0, 0, 16, size, 0, entries, 3 * K64, K64, 1, 0, 0, 0, 0, 0, 4, 104)
    assert head[104:] == bytes(8)
    assert (table, table_data) == (K64, struct.pack(">Q", 2 * K64))
    clusters = 3 + -(-entries * 8 // K64)
    assert (block, block_data) == (2 * K64, b"\0\1" * clusters)
    assert layout.size == clusters * K64
    assert parse(reader(layout), layout.size) == Qcow2(3, size, 16, "zlib")


def test_overlay() -> None:
    layout = overlay("/srv/images/base.raw", "raw", 1 << 30)
    head = layout.parts[0][1]
    assert HEADER.unpack_from(head) == (
        b"QFI\xfb", 3, 128, 20, 16, 1 << 30, 0, 2, 3 * K64, K64, 1, 0, 0, 0, 0, 0, 4, 104)
    assert head[104:] == b"\xe2\x79\x2a\xca\0\0\0\3raw\0\0\0\0\0" + bytes(8) + b"/srv/images/base.raw"
    assert layout.size == 4 * K64


def test_overlay_is_no_complete_image() -> None:
    layout = overlay("/srv/images/base.raw", "raw", 1 << 30)
    with pytest.raises(FormatError, match=r"^has a backing file$") as caught:
        parse(reader(layout), layout.size)
    assert caught.value.hint == "qemu-img convert makes a complete image of it"


@pytest.mark.parametrize("form", ["raw", "qcow2", "vpc", "extended"])
def test_overlay_names_the_format_always(form: str) -> None:
    head = overlay("/b", form, 512).parts[0][1]
    assert struct.unpack_from(">II", head, 104) == (0xE2792ACA, len(form))
    assert head[112:112 + len(form)] == form.encode()
    place = struct.unpack_from(">Q", head, 8)[0]
    assert place % 8 == 0
    assert head[place - 8:] == bytes(8) + b"/b"


@pytest.mark.parametrize(("backing", "form", "size", "what"), [
    ("/" + "x" * 1023, "raw", 512, "cannot name a backing file with a path of 1024 bytes"),
    ("/" + "ü" * 512, "raw", 512, "cannot name a backing file with a path of 1025 bytes"),
    ("base.raw", "raw", 512, "cannot have the backing file 'base.raw'"),
    ("json:{}", "raw", 512, "cannot have the backing file 'json:{}'"),
    ("nbd:127.0.0.1:10809", "raw", 512, "cannot have the backing file 'nbd:127.0.0.1:10809'"),
    ("", "raw", 512, "cannot have the backing file ''"),
    ("/a\0b", "raw", 512, r"cannot have the backing file '/a\x00b'"),
    ("/a", "", 512, "cannot name '' as the format of its backing file"),
    ("/a", "x" * 16, 512, "cannot name 'xxxxxxxxxxxxxxxx' as the format of its backing file"),
    ("/a", "raw", 0, "has a virtual size of 0"),
    ("/a", "raw", 511, "has a virtual size of 511 bytes, no multiple of 512"),
    ("/a", "raw", (2 << 50) + 512, "cannot have 2251799813685760 bytes"),
    ("/a", "raw", (64 << 50) + 512, "has a virtual size of 72057594037928448 bytes, more than 64 PiB"),
])
def test_what_cannot_be_written(backing: str, form: str, size: int, what: str) -> None:
    with pytest.raises(FormatError) as caught:
        overlay(backing, form, size)
    assert caught.value.what == what


def test_longest_path() -> None:
    head = overlay("/" + "x" * 1022, "raw", 512).parts[0][1]
    assert struct.unpack_from(">QI", head, 8) == (128, 1023)
    assert head[128:] == b"/" + b"x" * 1022


def test_path_that_is_no_text() -> None:
    assert overlay("/\udcff", "raw", 512).parts[0][1].endswith(b"/\xff")


def names(length: int) -> bytes:
    return struct.pack(">II", 0x6803F857, length) + bytes(length) + bytes(8)


@pytest.mark.parametrize(("offset", "data", "known"), [
    (72, struct.pack(">Q", 8) + struct.pack(">QQII", 0, 0, 4, 112) + b"\1".ljust(8, b"\0"), Qcow2(3, 1 << 30, 16, "zstd")),
    (80, struct.pack(">Q", 1), Qcow2(3, 1 << 30, 16, "zlib")),
    (96, struct.pack(">I", 0), Qcow2(3, 1 << 30, 16, "zlib")),
    (96, struct.pack(">I", 6), Qcow2(3, 1 << 30, 16, "zlib")),
    (100, struct.pack(">I", 112) + bytes(16), Qcow2(3, 1 << 30, 16, "zlib")),
    (100, struct.pack(">I", 1024), Qcow2(3, 1 << 30, 16, "zlib")),
    (104, names(48 * 8), Qcow2(3, 1 << 30, 16, "zlib")),
    (104, names(0), Qcow2(3, 1 << 30, 16, "zlib")),
    (36, struct.pack(">I", 8192), Qcow2(3, 1 << 30, 16, "zlib")),
    (4, struct.pack(">I", 2), Qcow2(2, 1 << 30, 16, "zlib")),
    (64, struct.pack(">Q", 5 * K64), Qcow2(3, 1 << 30, 16, "zlib")),
    (3 * K64, struct.pack(">QQ", 4 * K64, 5 * K64 | 1 << 63), Qcow2(3, 1 << 30, 16, "zlib")),
], ids=["zstd", "lazy", "1 bit", "64 bits", "112 bytes", "future header", "names", "no names", "large L1", "version 2",
        "old snapshots", "L2"])
def test_good(offset: int, data: bytes, known: Qcow2) -> None:
    layout = changed(blank(1 << 30), offset, data)
    layout = Layout(6 * K64, layout.parts)
    assert parse(reader(layout), layout.size) == known


def test_extended_l2_needs_twice_the_table() -> None:
    layout = changed(blank(1 << 30), 72, struct.pack(">Q", 16))
    with pytest.raises(FormatError, match=r"^has an L1 table of 2 entries, but needs 4$"):
        parse(reader(layout), layout.size)
    layout = changed(layout, 36, struct.pack(">I", 4))
    assert parse(reader(layout), layout.size).size == 1 << 30


@pytest.mark.parametrize("length", [200, K64 - 1, K64, K64 + 8, 2 * K64 - 1, 2 * K64, 3 * K64, 3 * K64 + 16383])
def test_truncated(length: int) -> None:
    """The L1 table takes 16 KiB; what is behind it in its cluster may be missing, as in what qemu-img makes."""
    with pytest.raises(FormatError, match=r"^has its (header|L1 table|refcount table) outside the file$") as caught:
        parse(reader(blank(1 << 40), length), length)
    assert caught.value.hint == "it may be truncated"
    assert parse(reader(blank(1 << 40), 3 * K64 + 16384), 3 * K64 + 16384).size == 1 << 40


@pytest.mark.parametrize("length", range(112))
def test_truncated_in_the_header(length: int) -> None:
    with pytest.raises(FormatError, match=r"^(is not qcow2|ends in its header|has header extensions without an end)$"):
        parse(reader(blank(512), length), length)


@given(st.lists(st.tuples(st.integers(0, 4 * K64 + 16), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6))
@example([(16, b"\xff" * 4), (8, b"\0" * 8)])
@example([(40, b"\xff" * 8)])
@example([(100, b"\xff\xff\xff\xf8")])
def test_nothing_but_an_answer_or_a_refusal(changes: list[tuple[int, bytes]]) -> None:
    layout = blank(1 << 30)
    for offset, data in changes:
        layout = changed(layout, offset, data)
    try:
        known = parse(reader(layout), layout.size)
    except FormatError as error:
        assert error.what
    else:
        assert 0 < known.size <= 64 << 50
        assert known.size % 512 == 0


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_magic(data: bytes) -> None:
    layout = Layout(K64, ((0, b"QFI\xfb" + data),))
    with pytest.raises(FormatError):
        parse(reader(layout), layout.size)


@given(st.integers(3, 60).flatmap(lambda count: st.tuples(st.lists(st.integers(1, 50), min_size=count, max_size=count))))
def test_twice_is_seen(found: tuple[list[int]]) -> None:
    entries = [4096 + 512 * number for number in found[0]]
    layout = Layout(1 << 20, ((512, struct.pack(f">{len(entries)}Q", *entries)),))
    table = Area("L1 table", 512, 512 + 8 * len(entries))
    twice = len(set(entries)) < len(entries)
    try:
        check_tables(reader(layout), table, [table], unit=512, length=512, file_size=layout.size)
    except FormatError as error:
        assert (error.what, twice) == ("has an L2 table that is in use twice", True)
    else:
        assert not twice


def test_a_table_longer_than_one_read() -> None:
    """The second of two equal entries stands in another read than the first."""
    entries = [1 << 30, *[0] * 20000, 1 << 30]
    layout = Layout(2 << 30, ((4096, struct.pack(f">{len(entries)}Q", *entries)),))
    table = Area("L1 table", 4096, 4096 + 8 * len(entries))
    with pytest.raises(FormatError, match=r"^has an L2 table that is in use twice$"):
        check_tables(reader(layout), table, [table], unit=512, length=512, file_size=layout.size)


@pytest.mark.parametrize("areas", list(itertools.permutations([Area("a", 0, 512), Area("b", 512, 1024), Area("c", 1023, 1536)])))
def test_areas_apart(areas: tuple[Area, ...]) -> None:
    with pytest.raises(FormatError, match=r"^has b and c in one place$"):
        check_areas(list(areas), 1, 4096)
    check_areas([Area("a", 0, 512), Area("b", 512, 1024)], 512, 1024)
