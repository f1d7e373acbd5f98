"""Tar archives as a stream that a stranger wrote: ustar, GNU's long names, pax. Nothing is believed, nothing is kept.

POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from collections.abc import Callable, Iterator

import msgspec

from . import FormatError

BLOCK = 512
_NAME_LIMIT = 8 << 10
_HEADER_LIMIT = 64 << 10
_PIECE = 256 << 10
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "directory", b"2": "link", b"1": "hard link"}


class Member(msgspec.Struct, frozen=True):
    """`kind` is file, directory, link, hard link or '' for anything else; `target` is a link's; `size` bytes of data follow."""

    name: bytes
    kind: str
    mode: int
    mtime: int
    size: int
    target: bytes


class Reader:
    """`read` gives at most so many bytes of the stream, b"" at its end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """The members in their order; what is not read of one's data is passed over. FormatError."""
        while (member := self._member()) is not None:
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member
            for _ in self.data():
                pass
            self._exactly(self._padding)

    def data(self) -> Iterator[bytes]:
        """The data of the member that was yielded last, or what is left of it. FormatError."""
        while self._left:
            piece = self._read(min(self._left, _PIECE))
            if not piece:
                raise _cut()
            self._left -= len(piece)
            yield piece

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._read(size - len(found))
            if not piece:
                raise _cut()
            found += piece
        return found

    def _member(self) -> Member | None:
        """The next member; None at the mark of the end."""
        name = target = b""
        pax: dict[bytes, bytes] = {}
        while True:
            block = self._exactly(BLOCK)
            if block == bytes(BLOCK):
                return None
            _check(block)
            kind, size = block[156:157], _number(block[124:136])
            if kind in (b"L", b"K", b"x", b"g"):
                if size > (_NAME_LIMIT if kind in b"LK" else _HEADER_LIMIT):
                    raise FormatError("has a name or header of more than a name's length")
                data = self._exactly(size + -size % BLOCK)[:size]
                if kind == b"L":
                    name = data.rstrip(b"\0")
                elif kind == b"K":
                    target = data.rstrip(b"\0")
                elif kind == b"x":
                    pax = _records(data)
                continue
            if kind in (b"S", b"M"):
                raise FormatError("has a sparse file or a part of one")
            return _made(block, kind, size, name, target, pax)


def _made(block: bytes, kind: bytes, size: int, name: bytes, target: bytes, pax: dict[bytes, bytes]) -> Member:
    if not name:
        name = _text(block[0:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = _text(block[345:500]) + b"/" + name
    size = _decimal(pax[b"size"]) if b"size" in pax else size
    return Member(
        name=pax.get(b"path", name), kind=_KINDS.get(kind, ""), mode=_number(block[100:108]) & 0o7777,
        mtime=_number(block[136:148]), size=size if kind in (b"0", b"\0", b"7") or kind not in _KINDS else 0,
        target=pax.get(b"linkpath", target or _text(block[157:257])),
    )


def _check(block: bytes) -> None:
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156]) != total:
        raise FormatError("is no tar archive, or is damaged")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Octal, or GNU's base 256 for what is too large for that."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise FormatError("is no tar archive, or is damaged")
        value = int(digits or b"0", 8)
    if value >= 1 << 62:
        raise FormatError("is no tar archive, or is damaged")
    return value


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise FormatError("has a size that is none")
    return int(text)


def _records(data: bytes) -> dict[bytes, bytes]:
    """A pax header's `LENGTH KEYWORD=VALUE\\n` records."""
    found = {}
    while data:
        length, blank, _ = data[:8].partition(b" ")
        size = _decimal(length) if blank else 0
        record = data[len(length) + 1 : size]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or len(record) < 3 or not record.endswith(b"\n") or size > len(data):
            raise FormatError("has a header that cannot be understood")
        found[key] = value
        data = data[size:]
    return found


def _cut() -> FormatError:
    return FormatError("ends too early")
