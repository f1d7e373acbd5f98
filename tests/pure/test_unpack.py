"""Packed images: any number of streams, all damage noticed, bounded in size and memory."""

import bz2
import gzip
import hashlib
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from vmbatch.format import FormatError
from vmbatch.image.unpack import compression_of, unpack

CONTENT = hashlib.shake_128(b"7").digest(200_000) + bytes(300_000) + b"the end" * 1000
MIB = 1 << 20


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}
NAMES = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}


def sliced(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def result(data: bytes, compression: str, *, limit: int = 1 << 30, size: int = 1000) -> bytes:
    return b"".join(unpack(sliced(data, size), compression, limit))


def mistake(data: bytes, compression: str, *, limit: int = 1 << 30, size: int = 1000) -> str:
    with pytest.raises(FormatError) as caught:
        result(data, compression, limit=limit, size=size)
    return caught.value.what


@pytest.mark.parametrize(
    ("name", "compression"),
    [("a.img.gz", "gz"), ("a.qcow2.bz2", "bz2"), ("https://h/a.xz", "xz"), ("a.zst", "zst"), ("a.img", ""), ("gz", ""),
     ("a.gz.img", ""), ("a.tgz", ""), ("", "")],
)
def test_compression_by_name(name: str, compression: str) -> None:
    assert compression_of(name) == compression


def test_what_is_not_packed_comes_as_it_is() -> None:
    assert list(unpack([b"ab", b"", b"c"], "", 3)) == [b"ab", b"c"]
    assert list(unpack([], "", 0)) == []


@pytest.mark.parametrize("size", [1, 2, 7, 4096, 1 << 20])
@pytest.mark.parametrize("compression", PACK)
def test_one_stream_in_pieces_of_any_size(compression: str, size: int) -> None:
    content = CONTENT[-2000:] if size < 10 else CONTENT
    assert result(PACK[compression](content), compression, size=size) == content


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize("compression", PACK)
def test_several_streams_are_one_content(compression: str, size: int) -> None:
    parts = [b"one" * 100, b"", b"three", bytes(5000)]
    assert result(b"".join(PACK[compression](part) for part in parts), compression, size=size) == b"".join(parts)


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_zeros_may_follow_and_stand_between(compression: str, size: int) -> None:
    pack = PACK[compression]
    assert result(pack(b"one") + bytes(512) + pack(b"two") + bytes(4), compression, size=size) == b"onetwo"


@pytest.mark.parametrize("compression", ["bz2", "zst"])
def test_zeros_may_not_follow_elsewhere(compression: str) -> None:
    name = NAMES[compression]
    assert mistake(PACK[compression](b"one") + bytes(4), compression) == f"has something else behind its {name} data"


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
@pytest.mark.parametrize("compression", PACK)
def test_what_follows_must_be_a_stream(compression: str, size: int) -> None:
    data = PACK[compression](b"one") + b"<html>"
    assert mistake(data, compression, size=size) == f"has something else behind its {NAMES[compression]} data"


@pytest.mark.parametrize("data", [b"<html><body>404</body></html>", b"", b"QFI\xfb", bytes(100)])
@pytest.mark.parametrize("compression", PACK)
def test_another_format(compression: str, data: bytes) -> None:
    assert mistake(data, compression) == f"is not {NAMES[compression]}"


@pytest.mark.parametrize("compression", PACK)
def test_every_cut_is_noticed(compression: str) -> None:
    data = PACK[compression](CONTENT[:3000])
    for end in [*range(1, 60), *range(60, len(data) - 40, 97), *range(len(data) - 40, len(data))]:
        assert mistake(data[:end], compression) == f"is cut short: its {NAMES[compression]} data has no end", end


@pytest.mark.parametrize("compression", PACK)
def test_a_cut_in_the_second_stream_is_noticed(compression: str) -> None:
    data = PACK[compression](b"one")
    for end in range(1, len(data)):
        assert mistake(data + data[:end], compression).startswith("is cut short"), end


@pytest.mark.parametrize("compression", PACK)
def test_a_changed_byte_is_noticed(compression: str) -> None:
    data = PACK[compression](hashlib.shake_128(b"3").digest(2000))
    for at in range(600, 1600, 10):
        changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        damaged = f"is damaged: its {NAMES[compression]} data cannot be unpacked"
        endless = f"is cut short: its {NAMES[compression]} data has no end"  # what was the end of a block of bzip2 no longer is
        assert mistake(changed, compression) in ((damaged, endless) if compression == "bz2" else (damaged,)), at


def test_a_wrong_checksum_is_noticed() -> None:
    data = gzip.compress(b"content")
    assert mistake(data[:-8] + bytes(4) + data[-4:], "gz") == "is damaged: its gzip data cannot be unpacked"
    framed = zst(b"content" * 100)
    assert mistake(framed[:-4] + bytes(4), "zst") == "is damaged: its zstd data cannot be unpacked"


@pytest.mark.parametrize("compression", PACK)
def test_a_bomb_stops_at_the_limit(compression: str) -> None:
    packed = PACK[compression](bytes(40 * MIB))
    assert len(result(packed, compression, limit=40 * MIB)) == 40 * MIB
    assert mistake(packed, compression, limit=8 * MIB) == "unpacks to more than 8M"
    assert mistake(packed, compression, limit=40 * MIB - 1).startswith("unpacks to more than ")


def test_the_limit_is_said_as_the_configuration_has_it() -> None:
    assert mistake(gzip.compress(bytes(2048)), "gz", limit=1024) == "unpacks to more than 1K"
    assert mistake(bytes(2048), "", limit=1024) == "has more than 1K"


def peak_begins() -> int:
    """Forgets the peak of our memory (proc(5), /proc/PID/clear_refs); what we have now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most memory that we had since, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def rle_bomb(blocks: int) -> bytes:
    """A zstd frame of blocks that take 4 bytes and unpack to 128 KiB: magic, descriptor, window of 128 KiB, blocks."""
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (128 * 1024 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (blocks - 1) + last


@pytest.mark.parametrize("size", [3, 256 << 10])
def test_no_piece_is_larger_than_a_mebibyte(size: int) -> None:
    for compression, data in [*((name, pack(bytes(30 * MIB))) for name, pack in PACK.items()), ("zst", rle_bomb(300))]:
        pieces = [len(piece) for piece in unpack(sliced(data, size), compression, 1 << 30)]
        assert max(pieces) <= MIB, compression
        assert sum(pieces) in (30 * MIB, 300 * 128 * 1024)


def test_memory_stays_bounded_while_bombs_are_unpacked() -> None:
    before = peak_begins()
    total = sum(len(piece) for piece in unpack([rle_bomb(8192)], "zst", 1 << 40))
    assert total == 1 << 30
    packed = zlib.compressobj(9, wbits=31)
    data = b"".join(packed.compress(bytes(MIB)) for _ in range(512)) + packed.flush()
    assert sum(len(piece) for piece in unpack([data], "gz", 1 << 40)) == 512 * MIB
    assert peak() - before < 64 << 10, "KiB"


def test_xz_that_wants_too_much_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 * MIB}]
    data = lzma.compress(b"content" * 100, filters=filters)
    assert mistake(data, "xz") == "needs more than 128 MiB of memory to unpack"


def test_xz_at_its_highest_preset_is_within_bounds() -> None:
    assert result(lzma.compress(b"content" * 100, preset=9), "xz") == b"content" * 100


def test_zstd_that_wants_too_much_memory() -> None:
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([18 << 3]) + (1 | 5 << 3).to_bytes(3, "little") + b"hello"  # window 2^28
    assert mistake(frame, "zst") == "needs more than 128 MiB of memory to unpack"
    allowed = frame[:5] + bytes([17 << 3]) + frame[6:]
    assert result(allowed, "zst") == b"hello"


def test_zstd_frames_of_every_kind_of_header() -> None:
    content = os.urandom(700)
    for checksum in (True, False):
        for size in (True, False):
            for length in (0, 1, 255, 256, 65_791, 65_792, 200_000):
                data = (content * 300)[:length]
                parameters = zstandard.ZstdCompressionParameters(write_checksum=checksum, write_content_size=size)
                packed = zstandard.ZstdCompressor(compression_params=parameters).compress(data)
                assert result(packed * 2, "zst", size=11) == data * 2, (checksum, size, length)


@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_zstd_frames_to_be_skipped(size: int) -> None:
    skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"pzst"
    empty = b"\x5f\x2a\x4d\x18" + struct.pack("<I", 0)
    assert result(skipped + zst(b"one") + empty + zst(b"two") + skipped, "zst", size=size) == b"onetwo"
    assert mistake(zst(b"one") + skipped[:-1], "zst", size=size) == "is cut short: its zstd data has no end"
    assert mistake(zst(b"one") + skipped[:6], "zst", size=size) == "is cut short: its zstd data has no end"


def test_a_long_download_of_empty_streams_yields_nothing() -> None:
    assert list(unpack([gzip.compress(b"")] * 1000, "gz", 0)) == []
