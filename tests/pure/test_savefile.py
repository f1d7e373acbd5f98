"""libvirt's file of a saved guest: another head for the same state."""

import contextlib
import random
import struct

import pytest

from vmbatch.format import FormatError, savefile
from vmbatch.format.savefile import SaveFile

XML = b"<domain type='qemu'><name>saved</name></domain>"
COOKIE = b"<cookie>\n  <slirpHelper/>\n</cookie>\n"


def file(xml: bytes = XML, cookie: bytes = COOKIE, padding: int = 1000, magic: bytes = b"LibvirtQemudSave", version: int = 2,
         **wrong: int) -> bytes:
    """As libvirt 9 writes it: the space behind the XML is for a longer one (virQEMUSaveDataNew)."""
    data = xml + b"\0" + bytes(padding)
    cookie_at = len(data) if cookie else 0
    data += cookie + b"\0" if cookie else b""
    head = struct.pack("=16s5I14I", magic, version, wrong.get("length", len(data)), 1, 0, wrong.get("cookie_at", cookie_at),
                       *[0] * 14)
    return head + data + b"the guest's state"


def parse(content: bytes) -> SaveFile:
    return savefile.parse(lambda offset, size: content[offset: offset + size])


@pytest.mark.parametrize("padding", [0, 1, 65000])
@pytest.mark.parametrize("cookie", [b"", COOKIE])
def test_what_it_says(cookie: bytes, padding: int) -> None:
    content = file(cookie=cookie, padding=padding)
    known = parse(content)
    assert (known.xml, known.cookie, known.ran, known.compression) == (XML, cookie, 1, 0)
    assert content[known.state:] == b"the guest's state"


@pytest.mark.parametrize("cookie", [b"", COOKIE])
def test_another_head(cookie: bytes) -> None:
    known = parse(file(cookie=cookie))
    xml = b"<domain><name>another, with a longer name</name></domain>" * 3
    again = parse(savefile.header(known, xml) + b"state")
    assert (again.xml, again.cookie, again.ran, again.compression) == (xml, cookie, known.ran, known.compression)
    assert (savefile.header(known, xml) + b"state")[again.state:] == b"state"


@pytest.mark.parametrize(("content", "why"), [
    (b"", "is not a whole file of a saved guest"),
    (file()[:91], "is not a whole file of a saved guest"),
    (file(magic=b"LibvirtQemudPart"), "is not a whole file of a saved guest"),
    (file(version=3), "has version 3 of libvirt's format"),
    (file()[:500], "has a header that does not fit"),
    (file(length=1 << 31), "has a header that does not fit"),
    (file(length=4), "has a header that does not fit"),
    (file(cookie_at=3), "has a header that does not fit"),
    (file(cookie_at=1 << 20), "has a header that does not fit"),
])
def test_what_is_none(content: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse(content)


def test_any_bytes() -> None:
    """A head in which a byte is another is read or refused, and what is read is bounded by the file."""
    chance = random.Random(3)  # noqa: S311
    content = file()
    for at in range(92):
        bad = bytearray(content)
        bad[at] = chance.randrange(256)
        with contextlib.suppress(FormatError):
            known = parse(bytes(bad))
            assert 92 < known.state <= len(content)
