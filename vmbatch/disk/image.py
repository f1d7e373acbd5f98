"""Images as they lie on the node: their header against the format that the template states. Nothing is probed."""

import os
import stat
import struct

import msgspec

from ..errors import SiteError

_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQ")
_QCOW2_INCOMPATIBLE = struct.Struct(">Q")
_QCOW2_KNOWN = 0b11000
"""Incompatible features that need nothing outside the file: compression type, extended L2 entries (docs/interop/qcow2.txt)."""


class Image(msgspec.Struct, frozen=True):
    """`size` is what the guest sees, `file_size` what a copy takes at most; both in bytes."""

    path: str
    format: str
    size: int
    file_size: int


def check(path: str, form: str, *, shared: bool) -> Image:
    """The image at `path`, if it is a complete one of the stated format, and one that guests can share. SiteError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SiteError(f"the image {path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SiteError(f"the image {path} is not a regular file")
        if shared and not status.st_mode & 0o004:
            raise SiteError(f"the image {path} stays root's, and QEMU's account cannot read it", f"chmod o+r {path}")
        size = status.st_size if form == "raw" else _qcow2_size(path, os.pread(fd, 104, 0))
    finally:
        os.close(fd)
    if not size:
        raise SiteError(f"the image {path} is empty")
    return Image(path, form, size, status.st_size)


def _qcow2_size(path: str, header: bytes) -> int:
    if len(header) < _QCOW2.size or header[:4] != b"QFI\xfb":
        raise SiteError(f"the image {path} is not qcow2", "if it is raw, say so in the template: type='raw'")
    _, version, backing, _, _, size, crypt, *_ = _QCOW2.unpack_from(header)
    if version not in (2, 3):
        raise SiteError(f"the image {path} is qcow version {version}, not qcow2")
    if backing:
        raise SiteError(f"the image {path} has a backing file", "qemu-img convert it to an image that is complete")
    if crypt:
        raise SiteError(f"the image {path} is encrypted")
    if version == 3 and len(header) >= 80 and _QCOW2_INCOMPATIBLE.unpack_from(header, 72)[0] & ~_QCOW2_KNOWN:
        raise SiteError(f"the image {path} is damaged, in use, or has an external data file", f"see qemu-img check {path}")
    return int(size)
