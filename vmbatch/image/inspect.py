"""An image file before anything else opens it: it is what its format is said to be, complete, and within the limit."""

import os
import stat

import msgspec

from ..format import FormatError, Read, foreign, qcow, qcow2, vhd
from ..units import format_size

_SLACK = 16 << 20
"""Bytes that an image's own tables may take beyond a sixteenth of the limit."""
_STATED = {"qcow": "qcow", "qcow2": "qcow2", "VHD": "vhd"}
_PACKED = frozenset({"gzip", "bzip2", "xz", "zstd", "lz4", "lzop", "7-Zip", "ZIP", "tar"})


class Known(msgspec.Struct, frozen=True):
    """`size` is what the guest sees, `file_size` what the file is long, in bytes; `chained` needs a parent beside it."""

    form: str
    size: int
    file_size: int
    chained: bool


def inspect(fd: int, form: str, limit: int) -> Known:
    """The image in an open file; `form` is raw, qcow2, qcow or vhd, `limit` the bytes that a guest may see. FormatError."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError("is not a regular file")
    file_size = status.st_size
    if not file_size:
        raise FormatError("is empty")
    if file_size > limit + limit // 16 + _SLACK:
        raise FormatError(f"is a file of {format_size(file_size)}, but the limit is {format_size(limit)}")
    size, chained = _read(_reader(fd, file_size), file_size, form)
    if size > limit:
        raise FormatError(f"is a disk of {format_size(size)}, but the limit is {format_size(limit)}")
    return Known(form, size, file_size, chained)


def _reader(fd: int, file_size: int) -> Read:
    def read(offset: int, length: int) -> bytes:
        if not 0 <= offset < file_size:
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}") from None

    return read


def _read(read: Read, file_size: int, form: str) -> tuple[int, bool]:
    """Bytes for the guest, and whether a parent is needed."""
    if form == "raw":
        _check_raw(read, file_size)
        return file_size, False
    if form == "qcow2":
        return qcow2.parse(read, file_size).size, False
    if form == "qcow":
        return qcow.parse(read, file_size).size, False
    if form == "vhd":
        disk = vhd.parse(read, file_size)
        return disk.size, disk.kind == "differencing"
    raise ValueError(f"{form!r} is no format of images")


def _check_raw(read: Read, file_size: int) -> None:
    found = foreign.signature(read, file_size)
    if found in _STATED:
        raise FormatError(f"is {found}, not raw", f"state source_format='{_STATED[found]}'")
    if found is not None:
        raise FormatError(f"is {found}, not raw", "unpack it" if found in _PACKED else "convert it to raw or qcow2")
    if file_size % 512:
        raise FormatError(f"is raw, but its {file_size} bytes are no multiple of 512")
