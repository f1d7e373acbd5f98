"""The context medium: an ISO 9660 image with Rock Ridge and Joliet names."""

import io
import os
from importlib import resources

from ..errors import SiteError
from ..host import file, ssh
from ..job import Script
from ..resource import Piece, Work
from ..template import TarFile
from . import archive
from .parameters import assignments

LABEL = "VMBATCH"
_SCRIPT_LIMIT = 64 << 20
_NAME_CHARS = 64
"""Joliet's limit."""


class Medium(Piece, frozen=True, tag="medium"):
    """The image at `path`; the sources are paths on the node, `scripts` pairs of (name on the medium, path)."""

    path: str
    parameters: dict[str, str]
    keys: str
    script: Script | None
    node_file: str | None
    archives: tuple[TarFile, ...]
    scripts: tuple[tuple[str, str], ...]

    def make(self, work: Work) -> None:
        """Writes the image, root's alone."""
        tree = _Tree()
        for name, data in _kit():
            tree.add(name, data, 0o755)
        tree.add("parameters.sh", assignments(self.parameters), 0o600)
        user_key, host_key = ssh.key_files(self.keys)
        tree.add("ssh/authorized_key", _read(f"{user_key}.pub"), 0o600)
        tree.add("ssh/host_key", _read(host_key), 0o600)
        tree.add("ssh/host_key.pub", _read(f"{host_key}.pub"), 0o644)
        if self.script is not None:
            identity = (self.script.device, self.script.inode, self.script.mtime_ns)
            tree.add("job/script", file.read_same(self.script.path, identity, _SCRIPT_LIMIT), 0o600)
        if self.node_file is not None:
            tree.add("job/nodefile", _read(self.node_file), 0o644)
        for name, path in self.scripts:
            tree.add(name, _read(path), 0o755)
        self._add_archives(tree)
        tree.write(self.path)

    def _add_archives(self, tree: "_Tree") -> None:
        listed = []
        for number, tar in enumerate(self.archives):
            if tar.on_medium:
                for name, mode, content in archive.contents(tar.archive, tar.strip):
                    tree.add(archive.on_medium(tar.directory, name), content, mode | 0o444)
            else:
                tree.add_file(f"tar/{number}.tar", tar.archive, 0o600)
                listed.append(f"{number} {tar.strip} {archive.compression(tar.archive)} {tar.directory}\n")
        if listed:
            tree.add("tar/list", "".join(listed).encode(), 0o600)

    def __str__(self) -> str:
        return f"medium {self.path} ({len(self.archives)} archives, {len(self.scripts)} site scripts)"


def _read(path: str) -> bytes:
    with open(path, "rb") as content:
        return content.read()


def _kit() -> list[tuple[str, bytes]]:
    """The kit's scripts by their names on the medium: the entry points at its top."""
    scripts = sorted(resources.files("vmbatch").joinpath("kit").iterdir(), key=lambda entry: entry.name)
    found = [(entry.name, entry.read_bytes()) for entry in scripts if entry.name.endswith(".sh")]
    return [(name if name in ("prolog.sh", "epilog.sh") else f"kit/{name}", data) for name, data in found]


class _Tree:
    """Files by name, as pycdlib wants them: every directory first, ISO names short and unique."""

    def __init__(self) -> None:
        import pycdlib

        self._iso = pycdlib.PyCdlib()
        self._iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
        self._directories = {"": ""}
        self._names: dict[str, str] = {}
        self._open: list[io.IOBase] = []

    def _directory(self, name: str) -> str:
        """The ISO path of a directory, made if it is not there."""
        if name in self._names:
            raise SiteError(f"the medium would have {name!r} both as file and as directory")
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
                            f"names are printable and have {_NAME_CHARS} characters at most")
        if name in self._names or name in self._directories:
            raise SiteError(f"the medium would have {name!r} twice", "see the template's <vbtarfile option='cdrom'>")
        iso = f"{self._directory(parent)}/F{len(self._names):06d}.;1"
        self._names[name] = iso
        return iso, last

    def add(self, name: str, data: bytes, mode: int) -> None:
        """A file with this content."""
        iso, last = self._place(name)
        self._iso.add_fp(io.BytesIO(data), len(data), iso, rr_name=last, joliet_path=f"/{name}", file_mode=0o100000 | mode)

    def add_file(self, name: str, path: str, mode: int) -> None:
        """A file with the content of the file at `path`, read when the image is written."""
        iso, last = self._place(name)
        content = open(path, "rb")  # noqa: SIM115  pycdlib reads it in write()
        self._open.append(content)
        size = os.fstat(content.fileno()).st_size
        self._iso.add_fp(content, size, iso, rr_name=last, joliet_path=f"/{name}", file_mode=0o100000 | mode)

    def write(self, path: str) -> None:
        """The image, and an end to everything open."""
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as out:
            self._iso.write_fp(out)
        self._iso.close()
        for content in self._open:
            content.close()

