"""Tar archives made by hand."""

import io
import tarfile
from pathlib import Path


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info


def archive(path: Path, *members: tarfile.TarInfo, data: bytes = b"content\n", mode: str = "w:gz") -> str:
    """An archive of these; every regular file has the same content."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info in members:
            content = data if info.isreg() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)
