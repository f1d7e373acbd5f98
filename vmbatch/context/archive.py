"""Tar archives of the site: read member by member, never unpacked on the node."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import SiteError

if TYPE_CHECKING:
    import tarfile

_COMPRESSIONS = {b"\x1f\x8b": "z", b"BZh": "j", b"\xfd7zXZ\0": "J"}
_OURS = frozenset(("prolog.sh", "epilog.sh", "parameters.sh", "kit", "ssh", "job", "tar", "site"))


def names(path: str, directory: str, strip: int) -> list[str]:
    """Where the files of an archive get on the medium. SiteError if one would take the place of VmBatch's own."""
    found = []
    with _opened(path) as archive:
        for name, _member in _files(archive, path, strip):
            place = on_medium(directory, name)
            if place.split("/", 1)[0] in _OURS:
                raise SiteError(f"the archive {path} has {name!r}, which on the medium would take the place of VmBatch's {place}",
                                "choose another path='...' in the <vbtarfile>", code="VB501")
            found.append(place)
    return found


def contents(path: str, strip: int) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode, content) of every regular file, `strip` leading directories dropped. SiteError."""
    with _opened(path) as archive:
        for name, member in _files(archive, path, strip):
            content = archive.extractfile(member)
            yield name, member.mode & 0o755, content.read() if content else b""


def compression(path: str) -> str:
    """The flag that makes any tar unpack the archive: `z`, `j`, `J`, or `-` for none. Old ones do not see it themselves."""
    with open(path, "rb") as file:
        head = file.read(6)
    return next((flag for magic, flag in _COMPRESSIONS.items() if head.startswith(magic)), "-")


def on_medium(directory: str, name: str) -> str:
    """The place of an archive's file on the medium."""
    return posixpath.normpath(posixpath.join("/", directory, name)).lstrip("/")


@contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    import lzma
    import tarfile
    import zlib

    try:
        with tarfile.open(path, "r:*") as archive:
            yield archive
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass  # to its end, where gzip and xz have their checksums
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SiteError(f"the archive {path} cannot be read: {error}", code="VB501") from None


def _files(archive: tarfile.TarFile, path: str, strip: int) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for member in archive:
        parts = [part for part in member.name.split("/") if part not in ("", ".")][strip:]
        if ".." in parts:
            raise SiteError(f"{path}: the member {member.name!r} leads outside", code="VB501")
        if not parts or member.isdir():
            continue
        if not member.isreg():
            raise SiteError(f"{path}: {member.name!r} is neither file nor directory; the medium takes no others", code="VB501")
        yield "/".join(parts), member
