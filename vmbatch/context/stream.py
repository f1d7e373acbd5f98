"""The context as a tar, for a guest that takes it as it comes."""

import os
import posixpath
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator

import msgspec

from ..errors import NodeError, SiteError
from .tree import Entry

_CHUNK = 256 << 10
_BLOCK = 512


def tar(members: Iterable[Entry]) -> Iterator[bytes]:
    """The files as a tar that any tar reads, root's, in pieces; long names in GNU's way. NodeError for a source."""
    written = 0
    now = int(time.time())
    for entry in members:
        for piece in _member(entry, now):
            written += len(piece)
            yield piece
    yield bytes(2 * _BLOCK + -(written + 2 * _BLOCK) % tarfile.RECORDSIZE)


def placed(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The context as it lies in a guest that waited: the job's files where the user will have them, all else beside them."""
    for entry in entries:
        yield entry if entry.name.startswith("job/") else msgspec.structs.replace(entry, name=f"taken/{entry.name}")


def size(members: Iterable[Entry]) -> int:
    """Bytes of what `tar` makes of them. NodeError for a source."""
    total = 2 * _BLOCK
    for entry in members:
        try:
            inside = os.stat(entry.source).st_size if entry.source else len(entry.data)
        except OSError as error:
            raise NodeError(f"{entry.source} cannot be read: {error.strerror}", code="VB503") from None
        total += len(_header(entry, inside, 0)) + inside + -inside % _BLOCK
    return total + -total % tarfile.RECORDSIZE


def _member(entry: Entry, now: int) -> Iterator[bytes]:
    if not entry.source:
        yield _header(entry, len(entry.data), now)
        yield entry.data
        yield bytes(-len(entry.data) % _BLOCK)
        return
    try:
        with open(os.open(entry.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NodeError(f"{entry.source} is not a regular file", code="VB503")
            left = status.st_size
            yield _header(entry, left, now)
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise NodeError(f"{entry.source} became shorter while it was sent to the guest", code="VB503")
                left -= len(piece)
                yield piece
            yield bytes(-status.st_size % _BLOCK)
    except OSError as error:
        raise NodeError(f"{entry.source} cannot be read: {error.strerror}", code="VB503") from None


def _header(entry: Entry, size: int, now: int) -> bytes:
    member = tarfile.TarInfo(entry.name)
    member.size = size
    member.mode = entry.mode & 0o777
    member.mtime = now
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def checked(entries: Iterable[Entry]) -> Iterator[Entry]:
    """All of them. SiteError for a name that is not one plain place below the medium's, or is there twice."""
    seen: set[str] = set()
    above: set[str] = set()
    for entry in entries:
        name = entry.name
        if not name.isprintable() or posixpath.normpath(name) != name or name.split("/")[0] in ("", ".", ".."):
            raise SiteError(f"the context cannot have a file {name[:300]!r}", "see the template's <vbtarfile option='cdrom'>",
                            code="VB501")
        parents = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if name in seen or name in above or parents & seen:
            raise SiteError(f"the context would have {name[:300]!r} twice", "see the template's <vbtarfile option='cdrom'>",
                            code="VB501")
        seen.add(name)
        above |= parents
        yield entry
