"""qcow version 1, with and without Xen's extension: what is written, to the byte, and what is refused."""

import hashlib
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmbatch.format import FormatError, Layout
from vmbatch.format.qcow import Qcow, blank, overlay, parse

from .test_qcow2 import changed, reader

HEADER = struct.Struct(">4sIQIIQBBHIQ")
XEN = struct.Struct(">4sIII")


@pytest.mark.parametrize(("size", "entries"), [(512, 1), (2 << 20, 1), ((2 << 20) + 512, 2), (1 << 30, 512), (8 << 40, 4 << 20)])
def test_blank(size: int, entries: int) -> None:
    layout = blank(size)
    assert layout.parts == ((0, HEADER.pack(b"QFI\xfb", 1, 0, 0, 0, size, 12, 9, 0, 0, 48)),)
    assert layout.size == -(-(48 + 8 * entries) // 512) * 512
    assert parse(reader(layout), layout.size) == Qcow(size, 12, 9, False)


def test_overlay() -> None:
    layout = overlay("/srv/base.raw", 1 << 30)
    assert layout.parts == ((0, HEADER.pack(b"QFI\xfb", 1, 48, 13, 0, 1 << 30, 9, 12, 0, 0, 64) + b"/srv/base.raw"),)
    assert layout.size == 64 + 4096 + 448


@pytest.mark.parametrize("size", [512, 1 << 30, 3 << 40])
def test_xen(size: int) -> None:
    layout = blank(size, xen=True)
    head = layout.parts[0][1]
    entries = -(-size >> 21)
    checksum = int.from_bytes(hashlib.md5(bytes(8 * entries)).digest()[:4], "little")  # noqa: S324
    assert HEADER.unpack_from(head) == (b"QFI\xfb", 1, 0, 0, 0, size, 12, 9, 0, 0, 4096)
    assert XEN.unpack_from(head, 48) == (b"XEN\xfb", checksum, 512, 3)
    assert layout.size == 4096 + -(-8 * entries // 4096) * 4096
    assert parse(reader(layout), layout.size) == Qcow(size, 12, 9, True)


def test_xens_checksum_is_a_known_one() -> None:
    """The first word of b6d81b360a5672d80c27430f39153e2c, which is the MD5 of a megabyte of zeros."""
    head = blank(256 << 30, xen=True).parts[0][1]
    assert struct.unpack_from(">I", head, 52) == (0x361BD8B6,)


def test_xen_overlay() -> None:
    layout = overlay("/srv/base.raw", 1 << 30, xen=True)
    head = layout.parts[0][1]
    assert HEADER.unpack_from(head) == (b"QFI\xfb", 1, 64, 13, 0, 1 << 30, 9, 12, 0, 0, 4096)
    assert XEN.unpack_from(head, 48)[2:] == (1, 3)
    assert head[64:] == b"/srv/base.raw"


def test_xen_overlay_with_a_long_path() -> None:
    """The L1 table stays at a multiple of 4096."""
    head = overlay("/" + "x" * 1022, 1 << 30, xen=True).parts[0][1]
    assert HEADER.unpack_from(head)[-1] == 4096
    head = overlay("/" + "x" * 1022, 1 << 30).parts[0][1]
    assert HEADER.unpack_from(head)[-1] == 1072


@pytest.mark.parametrize("xen", [False, True])
@pytest.mark.parametrize(("backing", "size", "what"), [
    ("/" + "x" * 1023, 512, "cannot name a backing file with a path of 1024 bytes"),
    ("base.raw", 512, "cannot have the backing file 'base.raw'"),
    ("/a", 0, "has a virtual size of 0"),
    ("/a", 1023, "has a virtual size of 1023 bytes, no multiple of 512"),
    ("/a", (8 << 40) + 512, "cannot have 8796093022720 bytes"),
])
def test_what_cannot_be_written(backing: str, size: int, what: str, xen: bool) -> None:
    with pytest.raises(FormatError) as caught:
        overlay(backing, size, xen=xen)
    assert caught.value.what == what


@pytest.mark.parametrize("xen", [False, True])
def test_overlay_is_no_complete_image(xen: bool) -> None:
    layout = overlay("/srv/base.raw", 1 << 30, xen=xen)
    with pytest.raises(FormatError, match=r"^has a backing file$"):
        parse(reader(layout), layout.size)


def xen_image(l1: bytes, checksum: int, flags: int = 3) -> Layout:
    layout = blank(4 << 20, xen=True)
    parts = (*layout.parts, (4096, l1), (52, struct.pack(">I", checksum)), (60, struct.pack(">I", flags)))
    return Layout(64 << 10, parts)


def test_xens_checksum_is_over_the_table_as_it_is_in_the_file() -> None:
    table = struct.pack(">QQ", 8192, 16384)
    checksum = int.from_bytes(hashlib.md5(table).digest()[:4], "little")  # noqa: S324
    good = xen_image(table, checksum)
    assert parse(reader(good), good.size) == Qcow(4 << 20, 12, 9, True)
    for wrong in (checksum ^ 1, int.from_bytes(checksum.to_bytes(4), "little")):
        bad = xen_image(table, wrong)
        with pytest.raises(FormatError, match=r"^has an L1 table that its checksum denies$"):
            parse(reader(bad), bad.size)


def test_native_endian_table() -> None:
    table = struct.pack("<QQ", 8192, 16384)
    checksum = int.from_bytes(hashlib.md5(struct.pack(">QQ", 8192, 16384)).digest()[:4], "little")  # noqa: S324
    layout = xen_image(table, checksum, 1)
    with pytest.raises(FormatError) as caught:
        parse(reader(layout), layout.size)
    assert caught.value.what == "has an L1 table in the processor's byte order, as Xen wrote it before 2010"
    assert caught.value.hint == "qcow2raw of Xen's blktap makes a raw image of it"


def test_an_entry_that_looks_like_xens_mark() -> None:
    """Without the extension the L1 table may begin where its mark would be."""
    layout = changed(Layout(64 << 10, blank(1 << 30).parts), 48, b"XEN\xfb")
    with pytest.raises(FormatError, match=r"^has an L2 table at no multiple of 4096$|^has an L2 table outside the file$"):
        parse(reader(layout), layout.size)


@pytest.mark.parametrize(("version", "hint"), [(2, "state source_format='qcow2'"), (3, "state source_format='qcow2'")])
def test_qcow2_is_told_apart(version: int, hint: str) -> None:
    layout = changed(blank(512), 4, struct.pack(">I", version))
    with pytest.raises(FormatError, match=r"^is qcow2, not qcow version 1$") as caught:
        parse(reader(layout), layout.size)
    assert caught.value.hint == hint


@pytest.mark.parametrize("length", range(48))
def test_truncated_in_the_header(length: int) -> None:
    with pytest.raises(FormatError, match=r"^(is not qcow|ends in its header)$"):
        parse(reader(blank(512), length), length)


@pytest.mark.parametrize("xen", [False, True])
@pytest.mark.parametrize("missing", [1, 512, 4096])
def test_truncated_in_the_table(missing: int, xen: bool) -> None:
    layout = blank(1 << 40, xen=xen)
    end = (4096 if xen else 48) + (8 << 19) - missing
    with pytest.raises(FormatError, match=r"^has its L1 table outside the file$"):
        parse(reader(layout, end), end)


@given(
    st.booleans(), st.lists(st.tuples(st.integers(0, 8200), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6))
@example(True, [(40, b"\xff" * 8)])
@example(False, [(24, b"\x7f" + b"\xff" * 7)])
@example(False, [(32, b"\xff\xff")])
def test_nothing_but_an_answer_or_a_refusal(xen: bool, changes: list[tuple[int, bytes]]) -> None:
    layout = Layout(64 << 10, blank(1 << 30, xen=xen).parts)
    for offset, data in changes:
        layout = changed(layout, offset, data)
    try:
        known = parse(reader(layout), layout.size)
    except FormatError as error:
        assert error.what
    else:
        assert 0 < known.size <= 64 << 50
