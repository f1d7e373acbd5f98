"""The file of a guest that libvirt has saved: its domain can be exchanged for another one, behind which the same state follows.

libvirt 9, src/qemu/qemu_saveimage.h (virQEMUSaveHeader), in the machine's own byte order: magic, version, bytes of data, whether
it ran, compression, where the cookie begins in the data or 0, 14 words not used. The data are the domain's XML, which ends with a
zero byte, padding, and the cookie, which ends with one, too. The state follows at once.
"""

import struct

import msgspec

from . import FormatError, Read

_HEADER = struct.Struct("=16s5I14I")
_MAGIC = b"LibvirtQemudSave"
_VERSION = 2
_DATA_LIMIT = 16 << 20
_UNKNOWN = "VmBatch knows version 2, which libvirt writes with save_image_format other than \"sparse\""


class SaveFile(msgspec.Struct, frozen=True):
    """The header's `ran` and `compression`, the domain's `xml`, libvirt's `cookie`, and the offset of the `state`."""

    ran: int
    compression: int
    xml: bytes
    cookie: bytes
    state: int


def parse(read: Read) -> SaveFile:
    """FormatError for what is not such a file, or of a version that is not known."""
    head = read(0, _HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise FormatError("is not a whole file of a saved guest of libvirt's", _UNKNOWN)
    _magic, version, length, ran, compression, cookie_at, *_unused = _HEADER.unpack(head)
    if version != _VERSION:
        raise FormatError(f"has version {version} of libvirt's format for saved guests", _UNKNOWN)
    data = read(_HEADER.size, length) if length <= _DATA_LIMIT else b""
    xml, end, _rest = data.partition(b"\0")
    if len(data) != length or not end or not (cookie_at == 0 or len(xml) < cookie_at < length):
        raise FormatError("has a header that does not fit its content")
    return SaveFile(ran, compression, xml, data[cookie_at:].partition(b"\0")[0] if cookie_at else b"", _HEADER.size + length)


def header(known: SaveFile, xml: bytes) -> bytes:
    """What stands before the state, with another domain."""
    data = xml + b"\0"
    cookie_at = len(data) if known.cookie else 0
    if known.cookie:
        data += known.cookie + b"\0"
    return _HEADER.pack(_MAGIC, _VERSION, len(data), known.ran, known.compression, cookie_at, *[0] * 14) + data
