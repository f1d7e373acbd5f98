"""The context on a CD: an ISO 9660 image with Rock Ridge and Joliet names."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import BinaryIO

from ..errors import SiteError
from ..resource import Piece, Work
from .content import Content
from .tree import Entry

_NAME_CHARS = 64
"""Joliet's limit."""
_DATE = 1_600_000_000


class Medium(Piece, frozen=True, tag="medium"):
    """The image at `path`."""

    path: str
    label: str
    content: Content

    def make(self, work: Work) -> None:
        """Writes the image, root's alone."""
        write(self.path, self.label, self.content.entries(), work)

    def __str__(self) -> str:
        return f"medium {self.path}, label {self.label} ({self.content})"


def write(path: str, label: str, entries: Iterable[Entry], work: Work) -> None:
    """An image with these files, root's alone. SiteError for what it cannot have."""
    with contextlib.ExitStack() as files:
        tree = _Tree(label, files)
        for entry in entries:
            tree.add(entry)
        tree.write(path, work.alive)


class _Tree:
    """Files by name, as pycdlib wants them: every directory first, ISO names short and unique."""

    def __init__(self, label: str, files: contextlib.ExitStack) -> None:
        import pycdlib

        for module in (pycdlib.pycdlib, pycdlib.headervd):  # who date all files: the same content is the same image
            vars(module)["time"] = SimpleNamespace(time=lambda: _DATE)
        self._iso = pycdlib.PyCdlib()
        self._iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
        self._directories = {"": ""}
        self._count = 0
        self._files = files

    def _directory(self, name: str) -> str:
        """The ISO path of a directory, made if it is not there."""
        if name not in self._directories:
            parent, _, last = name.rpartition("/")
            iso = f"{self._directory(parent)}/D{len(self._directories):06d}"
            self._iso.add_directory(iso, rr_name=last, joliet_path=f"/{name}", file_mode=0o040755)
            self._directories[name] = iso
        return self._directories[name]

    def _place(self, name: str) -> tuple[str, str]:
        parent, _, last = name.rpartition("/")
        if not name.isprintable() or any(len(part) > _NAME_CHARS for part in name.split("/")):
            raise SiteError(f"the medium cannot have a file {name[:300]!r}",
                            f"names are printable and have {_NAME_CHARS} characters at most", code="VB501")
        iso = f"{self._directory(parent)}/F{self._count:06d}.;1"
        self._count += 1
        return iso, last

    def add(self, entry: Entry) -> None:
        """A file; a source is read when the image is written."""
        iso, last = self._place(entry.name)
        content: BinaryIO = io.BytesIO(entry.data)
        size = len(entry.data)
        if entry.source:
            content = self._files.enter_context(open(entry.source, "rb"))  # noqa: SIM115
            size = os.fstat(content.fileno()).st_size
        self._iso.add_fp(content, size, iso, rr_name=last, joliet_path=f"/{entry.name}", file_mode=0o100000 | entry.mode)

    def write(self, path: str, alive: Callable[[], None] = lambda: None) -> None:
        """The image, and an end to everything open."""
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
            self._iso.write_fp(out, progress_cb=lambda _done, _all, _opaque: alive())
        self._iso.close()
