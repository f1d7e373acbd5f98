"""What a job's guest gets: the files of its context, however they get there."""

import os
from collections.abc import Iterator

import msgspec

from ..errors import SiteError
from ..host import file, ssh
from ..job import Script
from ..template import TarFile
from . import archive
from .parameters import assignments
from .tree import Entry

_KIT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "kit")
_SCRIPT_LIMIT = 64 << 20
_SEED_BYTES = 64


class Content(msgspec.Struct, frozen=True):
    """The sources are paths on the node; `scripts` are pairs of (name in the context, path), `more` is what a form adds.

    `host_key`: whether the guest gets a host key from us. `party`: beside the keys lies what the guest must know of the job's
    other guests. `seed`: it gets random numbers to begin with, as it has those of the saved guest that it is made of.
    `kit`: it has not got kit and archives yet. `nobody`: it is to wait, and gets nothing of a job.
    """

    parameters: dict[str, str]
    keys: str
    host_key: bool
    script: Script | None
    node_file: str | None
    archives: tuple[TarFile, ...]
    scripts: tuple[tuple[str, str], ...]
    more: tuple[Entry, ...] = ()
    party: bool = False
    seed: bool = False
    kit: bool = True
    nobody: bool = False

    def entries(self) -> Iterator[Entry]:
        """Every file. SiteError for a name that is there twice, or both as file and as directory."""
        files: set[str] = set()
        directories: set[str] = set()
        for entry in self._all():
            parents = [entry.name[:at] for at, char in enumerate(entry.name) if char == "/"]
            both = {entry.name} & directories or files.intersection(parents)
            if entry.name in files or both:
                what = f"{both.pop()!r} both as file and as directory" if both else f"{entry.name!r} twice"
                raise SiteError(f"the context would have {what}", "see the template's <vbtarfile option='cdrom'>", code="VB501")
            files.add(entry.name)
            directories.update(parents)
            yield entry

    def _all(self) -> Iterator[Entry]:
        user_key, host_key = ssh.key_files(self.keys)
        if self.kit:
            yield from kit()
        yield Entry("parameters.sh", 0o600, assignments(self.parameters))
        if self.host_key:
            yield Entry("ssh/host_key", 0o600, source=host_key)
            yield Entry("ssh/host_key.pub", 0o644, source=f"{host_key}.pub")
        if not self.nobody:
            yield Entry("ssh/authorized_key", 0o600, source=f"{user_key}.pub")
            yield from self._of_job()
        if self.kit:
            yield from self._archives()
        yield from self.more

    def _of_job(self) -> Iterator[Entry]:
        if self.party:
            yield Entry("ssh/party_key", 0o600, source=ssh.party_key(self.keys))
            yield Entry("ssh/party_keys", 0o600, source=os.path.join(self.keys, "party_keys"))
            yield Entry("ssh/party", 0o644, source=os.path.join(self.keys, "party"))
        if self.seed:
            yield Entry("seed", 0o600, os.urandom(_SEED_BYTES))
        if self.script is not None:
            identity = (self.script.device, self.script.inode, self.script.mtime_ns)
            yield Entry("job/script", 0o700, file.read_same(self.script.path, identity, _SCRIPT_LIMIT))
        if self.node_file is not None:
            source = os.path.join(self.keys, "nodefile") if self.party else self.node_file
            yield Entry("job/nodefile", 0o700, source=source)
        for name, path in self.scripts:
            yield Entry(name, 0o755, source=path)

    def _archives(self) -> Iterator[Entry]:
        listed = []
        for number, tar in enumerate(self.archives):
            if tar.on_medium:
                for name, mode, content in archive.contents(tar.archive, tar.strip):
                    yield Entry(archive.on_medium(tar.directory, name), mode | 0o444, content)
            else:
                yield Entry(f"tar/{number}.tar", 0o600, source=tar.archive)
                listed.append(f"{number} {tar.strip} {archive.compression(tar.archive)} {tar.directory}\n")
        if listed:
            yield Entry("tar/list", 0o600, "".join(listed).encode())

    def __str__(self) -> str:
        return f"{len(self.archives)} archives, {len(self.scripts)} site scripts"


def kit() -> Iterator[Entry]:
    """The kit's scripts: the entry points at the top of the tree."""
    for script in sorted(os.listdir(_KIT)):
        if script.endswith(".sh"):
            name = script if script in ("prolog.sh", "epilog.sh") else f"kit/{script}"
            with open(os.path.join(_KIT, script), "rb") as opened:
                yield Entry(name, 0o755, opened.read())
