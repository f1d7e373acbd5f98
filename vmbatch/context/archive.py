"""Tar archives of the site: read member by member, never unpacked on the node."""

import tarfile
from collections.abc import Iterator

from ..errors import SiteError


def members(path: str, strip: int) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode, content) of every regular file, `strip` leading directories dropped. SiteError."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                parts = [part for part in member.name.split("/") if part not in ("", ".")][strip:]
                if ".." in parts:
                    raise SiteError(f"{path}: the member {member.name!r} leads outside")
                if not parts or member.isdir():
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise SiteError(f"{path}: {member.name!r} is neither file nor directory; the medium takes no others")
                yield "/".join(parts), member.mode & 0o755, content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SiteError(f"the archive {path} cannot be read: {error}") from None
