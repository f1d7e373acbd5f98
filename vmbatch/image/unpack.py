"""Packed images, unpacked while they come in, within bounds of size and memory."""

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import zstandard

from ..format import FormatError
from ..units import format_size

_PIECE = 1 << 20
_BLOCKS = 8
"""What zstd is given at once: each block unpacks to 128 KiB at most, even one of 4 bytes (RFC 8878, 3.1.1.2.4)."""
_MEMORY = 128 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"


class _Stream(Protocol):
    """One packed stream: `eof` at its end, and then `unused` has what was fed beyond it."""

    eof: bool
    unused: bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpacks more, in pieces of bounded size."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.eof = False
        self.unused = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._inner.decompress(data, _PIECE)
            data = self._inner.unconsumed_tail
            yield piece
            if self._inner.eof or (not data and len(piece) < _PIECE):
                break
        self.eof, self.unused = self._inner.eof, self._inner.unused_data


class _Stepwise:
    """bzip2 and xz, whose decompressors of Python's own have the same form."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner
        self.eof = False
        self.unused = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._inner.decompress(data, _PIECE)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", _PIECE)
        self.eof, self.unused = self._inner.eof, self._inner.unused_data


class _Zstd:
    """A frame, by its blocks (RFC 8878, 3.1.1): python-zstandard cannot bound what a piece of input unpacks to."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=_MEMORY).decompressobj()
        self._held = b""
        self._part = self._header
        self._checksum = False
        self._last = False
        self.eof = False
        self.unused = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._held += data
        begin = at = parts = 0
        while not self._last and (length := self._part(at)) is not None and at + length <= len(self._held):
            self._take(at)
            at += length
            parts += 1
            if parts == _BLOCKS:
                yield self._inner.decompress(self._held[begin:at])
                begin, parts = at, 0
        if begin < at:
            yield self._inner.decompress(self._held[begin:at])
        self._held = self._held[at:]
        if self._last:
            self.eof, self.unused = True, self._held

    def _header(self, at: int) -> int | None:
        """Length of the frame's header, if it can be known yet."""
        if len(self._held) < 5:
            return None
        descriptor = self._held[4]
        single = descriptor >> 5 & 1
        return 6 - single + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]

    def _block(self, at: int) -> int | None:
        """Length of the block at `at`."""
        if len(self._held) < at + 3:
            return None
        head = int.from_bytes(self._held[at : at + 3], "little")
        last_and_checked = 4 if head & 1 and self._checksum else 0
        return 3 + (1 if head >> 1 & 3 == 1 else head >> 3) + last_and_checked

    def _take(self, at: int) -> None:
        if self._part == self._header:
            self._checksum = bool(self._held[4] >> 2 & 1)
            self._part = self._block
        else:
            self._last = bool(self._held[at] & 1)


class _Skipped:
    """A frame of something else (RFC 8878, 3.1.2), as pzstd writes them."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self.eof = False
        self.unused = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        missing = 8 - len(self._head)
        if missing:
            self._head, data = self._head + data[:missing], data[missing:]
            self._left = int.from_bytes(self._head[4:], "little")
        self.unused = data[self._left :]
        self._left -= len(data) - len(self.unused)
        self.eof = len(self._head) == 8 and not self._left
        yield b""


def _frame(data: bytes) -> _Stream:
    return _Zstd() if data.startswith(_ZSTD) else _Skipped()


class _Format:
    """How a stream of a packed file begins, and who unpacks it; `padded`: zero bytes may follow a stream."""

    def __init__(self, name: str, magic: tuple[bytes, ...], opens: Callable[[bytes], _Stream], *, padded: bool = False) -> None:
        self.name = name
        self.magic = magic
        self.opens = opens
        self.padded = padded


_FORMATS = {
    "gz": _Format("gzip", (b"\x1f\x8b\x08",), lambda _: _Gzip(), padded=True),
    "bz2": _Format("bzip2", (b"BZh",), lambda _: _Stepwise(bz2.BZ2Decompressor())),
    "xz": _Format("xz", (b"\xfd7zXZ\0",), lambda _: _Stepwise(lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)), padded=True),
    "zst": _Format("zstd", (_ZSTD, *(bytes([0x50 + kind]) + b"\x2a\x4d\x18" for kind in range(16))), _frame),
}


def compression_of(name: str) -> str:
    """`gz`, `bz2`, `xz`, `zst` by the end of a name, or ''."""
    match = re.search(r"\.(gz|bz2|xz|zst)$", name)
    return match[1] if match else ""


def unpack(chunks: Iterable[bytes], compression: str, limit: int) -> Iterator[bytes]:
    """The content of a packed file, or of one that is not packed, in pieces; at most `limit` bytes. FormatError.

    A piece has at most 1 MiB where `chunks` have so too.
    """
    total = 0
    for piece in _streams(chunks, _FORMATS[compression]) if compression else chunks:
        total += len(piece)
        if total > limit:
            raise FormatError(f"{'unpacks to' if compression else 'has'} more than {format_size(limit)}",
                              "see [images] largest, and [userimages] largest, in vmbatch.conf")
        if piece:
            yield piece


def _streams(chunks: Iterable[bytes], form: _Format) -> Iterator[bytes]:
    """One stream after another."""
    stream: _Stream | None = None
    head = b""
    begun = False
    for chunk in chunks:
        data = head + chunk
        head = b""
        while data:
            if stream is None:
                if begun and form.padded:
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                if any(len(data) < len(magic) and magic.startswith(data) for magic in form.magic):
                    head = data
                    break
                if not data.startswith(form.magic):
                    raise FormatError(f"has something else behind its {form.name} data" if begun else f"is not {form.name}")
                stream, begun = form.opens(data), True
            yield from _fed(stream, data, form)
            data = stream.unused if stream.eof else b""
            if stream.eof:
                stream = None
    if stream is not None or head or not begun:
        raise FormatError(f"is cut short: its {form.name} data has no end" if begun or head else f"is not {form.name}")


def _fed(stream: _Stream, data: bytes, form: _Format) -> Iterator[bytes]:
    try:
        yield from stream.feed(data)
    except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, zstandard.ZstdError) as error:
        if re.search(r"memory|window|too much", str(error), re.IGNORECASE):
            raise FormatError(f"needs more than {_MEMORY >> 20} MiB of memory to unpack") from None
        raise FormatError(f"is damaged: its {form.name} data cannot be unpacked") from None
