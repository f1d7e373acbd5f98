"""Tar archives that a stranger wrote: as GNU and pax have them, and damaged in any way."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.format import FormatError
from vmbatch.format.tar import Member, Reader

LONG = "d/" * 100 + "file"


def made(form: int, *infos: tarfile.TarInfo) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return sink.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "", mode: int = 0o4755) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.size, found.linkname, found.mode, found.mtime = kind, size, target, mode, 1234567890
    return found


def members(data: bytes) -> list[tuple[Member, bytes]]:
    reader = Reader(io.BytesIO(data).read)
    return [(member, b"".join(reader.data())) for member in reader]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_kinds(form: int) -> None:
    name = LONG if form != tarfile.USTAR_FORMAT else "d/" * 60 + "file"
    found = members(made(form, info("./dir", tarfile.DIRTYPE), info(name, size=1000),
                         info("link", tarfile.SYMTYPE, target=name[:90]), info("hard", tarfile.LNKTYPE, target="x"),
                         info("pipe", tarfile.FIFOTYPE), info("null", tarfile.CHRTYPE),
                         info("empty"), info("last", size=512)))
    assert [(member.name.decode(), member.kind, member.size, member.target.decode()) for member, _ in found] == [
        ("./dir/", "directory", 0, ""), (name, "file", 1000, ""), ("link", "link", 0, name[:90]), ("hard", "hard link", 0, "x"),
        ("pipe", "", 0, ""), ("null", "", 0, ""), ("empty", "file", 0, ""), ("last", "file", 512, ""),
    ]
    assert [len(data) for _, data in found] == [0, 1000, 0, 0, 0, 0, 0, 512]
    assert {(member.mode, member.mtime) for member, _ in found} == {(0o4755, 1234567890)}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_targets_and_strange_names(form: int) -> None:
    names = ["é" * 120, "a\nb", " "]
    found = members(made(form, *(info(name, tarfile.SYMTYPE, target=LONG) for name in names)))
    assert [(member.name.decode(), member.target.decode()) for member, _ in found] == [(name, LONG) for name in names]


def test_data_that_is_not_read_is_passed_over() -> None:
    reader = Reader(io.BytesIO(made(tarfile.GNU_FORMAT, info("a", size=700), info("b", size=1))).read)
    assert [member.name for member in reader] == [b"a", b"b"]


def test_sizes_beyond_octal() -> None:
    """GNU's base 256, and what no file can have."""
    header = bytearray(made(tarfile.GNU_FORMAT, info("a", size=0))[:512])

    def sized(field: bytes) -> bytes:
        header[124:136] = field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header)

    reader = Reader(io.BytesIO(sized(b"\x80" + (1 << 40).to_bytes(11, "big"))).read)
    assert next(iter(reader)).size == 1 << 40
    for field in (b"\x80" + b"\xff" * 11, b"\xff" * 12, b"99999999999\0", b"-1         \0"):
        with pytest.raises(FormatError, match="is no tar archive, or is damaged"):
            members(sized(field))


WHOLE = made(tarfile.PAX_FORMAT, info(LONG, size=600))


@pytest.mark.parametrize("length", [0, 1, 511, 512, 1000, 1024, 2000, len(WHOLE) - 10240 + 2600])
def test_cut(length: int) -> None:
    with pytest.raises(FormatError, match="ends too early"):
        members(WHOLE[:min(length, 2559)])


def pax(content: bytes, kind: bytes = b"x", size: int | None = None) -> bytes:
    header = info("pax", kind, len(content) if size is None else size)
    block = header.tobuf(tarfile.USTAR_FORMAT)
    return block + content + bytes(-len(content) % 512) + made(tarfile.USTAR_FORMAT, info("real", size=3))


@pytest.mark.parametrize(("content", "said"), [
    (b"99 path=x\n", "has a header that cannot be understood"), (b"9 path=xx", "has a header that cannot be understood"),
    (b"path=x\n", "has a header that cannot be understood"), (b"0 path=x\n", "has a header that cannot be understood"),
    (b"x 3\n", "has a size that is none"), (b"11 size=-1\n", "has a size that is none"),
    (b"10 size=\xb2\n", "has a size that is none"), (b"1" * 9, "has a header that cannot be understood"),
])
def test_bad_pax_headers(content: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        members(pax(content))


def test_pax_headers_that_count_and_that_do_not() -> None:
    assert members(pax(b"10 path=x\n"))[0][0].name == b"x"
    assert members(pax(b"10 path=x\n", b"g"))[0][0].name == b"real"


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_names_that_would_fill_the_memory(kind: bytes) -> None:
    with pytest.raises(FormatError, match="of more than a name's length"):
        members(pax(b"", kind, 1 << 30))


@pytest.mark.parametrize("kind", [b"S", b"M"])
def test_sparse_files_and_parts(kind: bytes) -> None:
    with pytest.raises(FormatError, match="has a sparse file or a part of one"):
        members(pax(b"", kind, 0))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=20))
def test_damaged(at: int, junk: bytes) -> None:
    with contextlib.suppress(FormatError):
        members(WHOLE[:at] + junk + WHOLE[at + len(junk):])
