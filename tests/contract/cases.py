"""Of each kind: how one is made, whether it is there, and what stands in its place half-made or another's."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import libvirt
import msgspec
import pytest

from lab import node
from vmbatch.claim import Claim
from vmbatch.exchange.address import Address
from vmbatch.exchange.export import Export, exported
from vmbatch.exchange.member import Member
from vmbatch.exchange.volume import Volume
from vmbatch.guard import Guard, Port, removal, rules
from vmbatch.host import clock, libvirtd, nft, virt
from vmbatch.hypervisor import netfilter
from vmbatch.hypervisor.domain import Domain
from vmbatch.hypervisor.netfilter import NetworkFilter
from vmbatch.hypervisor.watcher import Watcher
from vmbatch.resource import Resource
from vmbatch.spool.directory import MARK, Directory
from vmbatch.spool.first import FirstFill
from vmbatch.units import Deadline

from .tokens import new_token

URI = "test:///default"
XML = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid>{metadata}
<memory>8192</memory><os><type>hvm</type></os></domain>"""
OWNER = "<metadata><vmbatch:job xmlns:vmbatch='urn:vmbatch:job:1' id='42.vm' token='{token}' user='alice'/></metadata>"


class Case:
    """One resource that is not there, and what the suite must know of it."""

    resource: Resource

    def prepare(self) -> None:
        """Makes what must be there before `acquire`."""

    def exists(self) -> bool:
        """Whether something stands where the resource would."""
        raise NotImplementedError

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """States in which an `acquire` that was cut short leaves things."""
        raise NotImplementedError

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Things of others in the resource's place."""
        raise NotImplementedError

    def clear(self) -> None:
        """Takes away whatever the test left."""
        raise NotImplementedError


class DirectoryCase(Case):
    """A directory, called after the start (spool, share) or after the job alone (hand-over)."""

    def __init__(self, parent: Path, *, named: bool) -> None:
        self.token = new_token()
        self.path = parent / (f"42.vm.{self.token}" if named else "42.vm")
        self.named = named
        self.resource = Directory(str(self.path), self.token, 0o711)

    def exists(self) -> bool:
        return self.path.is_symlink() or self.path.exists()

    def _marked(self, mark: str, *files: str) -> Callable[[], None]:
        def make() -> None:
            self.path.mkdir()
            (self.path / MARK).write_text(mark)
            for name in files:
                (self.path / name).write_text("content")

        return make

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "no mark", self.path.mkdir
        yield "empty mark", self._marked("")
        yield "torn mark", self._marked(self.token[:7])
        yield "half removed", self._marked(self.token, "rest")
        if self.named:
            yield "mark lost with the power", self._marked("", "vda.qcow2", "domain.xml")

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        other = new_token()
        yield "another start's, just made", self._marked(other)
        yield "another start's", self._marked(other, "vda.qcow2")
        yield "a longer mark", self._marked(self.token + "0", "x")
        yield "no mark, not empty", self._filled("x", b"precious")
        yield "binary mark", self._filled(MARK, b"\xff" * 32)
        yield "a file", self._file
        yield "a link to an empty directory", self._link
        yield "a link to nowhere", lambda: self.path.symlink_to("nowhere")
        if not self.named:
            yield "empty mark, not alone", self._marked("", "x")

    def _filled(self, name: str, content: bytes) -> Callable[[], None]:
        def make() -> None:
            self.path.mkdir()
            (self.path / name).write_bytes(content)

        return make

    def _file(self) -> None:
        self.path.write_text("precious")

    def _link(self) -> None:
        target = self.path.with_name("target")
        target.mkdir()
        self.path.symlink_to(target)

    def clear(self) -> None:
        """pytest removes the directory."""


class FirstFillCase(DirectoryCase):
    """The right to fill a disk that is made once."""

    def __init__(self, parent: Path) -> None:
        super().__init__(parent, named=False)
        self.ready = parent / "ready"
        self.resource = FirstFill(str(self.path), self.token, str(self.ready))

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield from super().half_made()
        yield "with a disk that no job has filled", self._marked(self.token, "disk")


class DomainCase(Case):
    """A domain of libvirt's test driver, which lives in this process."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.uuid = str(uuid.UUID(hex=self.token, version=4))
        self.name = f"vmbatch-42.vm-{self.token[:8]}"
        self.file = parent / "domain.xml"
        self.resource = Domain(URI, self.name, self.uuid, self.token, str(self.file))

    def prepare(self) -> None:
        self.file.write_text(self.xml(OWNER.format(token=self.token)))

    def xml(self, metadata: str, *, identifier: str = "") -> str:
        return XML.format(name=self.name, uuid=identifier or self.uuid, metadata=metadata)

    def exists(self) -> bool:
        return any(domain.name() == self.name for domain in libvirtd.connect(URI).listAllDomains())

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "file without domain", lambda: None
        yield "no file", self.file.unlink

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        other = OWNER.format(token=new_token())
        yield "another start's", lambda: virt.create(URI, self.xml(other))
        yield "the name alone", lambda: virt.create(URI, self.xml(other, identifier=str(uuid.uuid4())))
        yield "persistent and another's", lambda: libvirtd.connect(URI).defineXML(self.xml(other)).create()

    def clear(self) -> None:
        for domain in libvirtd.connect(URI).listAllDomains():
            if domain.name() == self.name:
                if domain.isActive():
                    domain.destroy()
                try:
                    domain.undefine()
                except libvirt.libvirtError:
                    continue


class AddressCase(Case):
    """An address of a pool, in a directory that other nodes share."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.path = parent / "10.0.0.20"
        self.resource = Address(str(self.path), self.token, "42.vm", "node1")

    def _mark(self, token: str, node: str = "node1") -> str:
        return json.dumps({"job": "42.vm", "token": token, "node": node})

    def _temporary(self, content: str) -> None:
        (self.path.parent / f".{self.token}.10.0.0.20@node1").write_text(content)

    def exists(self) -> bool:
        return bool(list(self.path.parent.iterdir()))

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "empty, not linked", lambda: self._temporary("")
        yield "torn, not linked", lambda: self._temporary(self._mark(self.token)[:20])
        yield "not linked", lambda: self._temporary(self._mark(self.token))
        yield "with both names", self._both

    def _both(self) -> None:
        self._temporary(self._mark(self.token))
        os.link(self.path.parent / f".{self.token}.10.0.0.20@node1", self.path)

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        other = new_token()
        yield "another start's", lambda: self._write(self._mark(other))
        yield "another node's", lambda: self._write(self._mark(other, "node2"))
        yield "no mark", lambda: self._write("")
        yield "a directory", self.path.mkdir
        yield "a link to nowhere", lambda: self.path.symlink_to("nowhere")

    def _write(self, text: str) -> None:
        self.path.write_text(text)

    def clear(self) -> None:
        """pytest removes the directory."""


class MemberCase(Case):
    """A sister's entry, in a directory that other nodes share."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.path = parent / "42.vm@node2"
        self.resource = Member(str(parent), self.token, "42.vm", "node2.cluster", 1, "vm-42-n1", ("node1",), 60.0)

    def _entry(self, token: str, node: str = "node2.cluster", **more: object) -> str:
        return json.dumps({"job": "42.vm", "rank": 1, "guest": {"token": token, "node": node, "name": "vm-42-n1"}, **more})

    def _temporary(self, content: str) -> None:
        (self.path.parent / f".{self.token}.42.vm@node2").write_text(content)

    def exists(self) -> bool:
        return bool(list(self.path.parent.iterdir()))

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "empty, not renamed", lambda: self._temporary("")
        yield "torn, not renamed", lambda: self._temporary(self._entry(self.token)[:30])
        yield "not renamed", lambda: self._temporary(self._entry(self.token))
        yield "there, and a new version not renamed", self._both
        yield "looked for at the server", lambda: (self.path.parent / f".look.{self.token}").mkdir()

    def _both(self) -> None:
        self.path.write_text(self._entry(self.token))
        self._temporary(self._entry(self.token, ready=True))

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "another node's of that name", lambda: self._write(self._entry(new_token(), "node2.elsewhere"))
        yield "no entry", lambda: self._write("")
        yield "not even JSON", lambda: self._write("\x00" * 100)
        yield "a directory", self.path.mkdir
        yield "a link to nowhere", lambda: self.path.symlink_to("nowhere")

    def _write(self, text: str) -> None:
        self.path.write_text(text)

    def clear(self) -> None:
        """pytest removes the directory."""


class NetworkFilterCase(Case):
    """Rules of nftables' in the lab's node."""

    resource: NetworkFilter

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.port = Port(self.token, 0)
        self.file = parent / "filter-0.nft"
        self.guard = Guard("52:54:00:12:34:56", (), "", True, ("10.77.0.1",), (), (53,), 32768)
        self.resource = NetworkFilter(self.token, 0, str(self.file))

    def prepare(self) -> None:
        if not node.inside():
            pytest.skip("packet filters are for the lab's node")
        self.file.write_text(rules(self.port, self.guard))

    def exists(self) -> bool:
        return self.port.interface in {found.port.interface for found in netfilter.left()}

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """nft makes all or nothing; somebody else may have taken some of it away, or all."""
        text = rules(self.port, msgspec.structs.replace(self.guard, learns=True))
        yield "file without filter", lambda: None
        yield "no file", self.file.unlink
        for what in ("delete table bridge vmbatch", "flush table bridge vmbatch", "flush chain bridge vmbatch to-{}",
                     "flush map bridge vmbatch to"):
            yield what, partial(nft.apply, f"{text}{what.format(self.port.name)}\n")

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Another start's, whose token begins with the same digits."""
        other = Port(self.token[:8] + new_token()[8:], 0)
        yield "an interface of that name", lambda: nft.apply(rules(other, self.guard))

    def clear(self) -> None:
        for found in netfilter.left():
            if found.port.interface == self.port.interface:
                nft.apply(removal(found.port))


class VolumeCase(Case):
    """A file system in memory, below a link: the kernel names it by its real path."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.path = parent / "share/guest"
        self.resource = Volume(str(self.path), self.token, 1 << 20, 1500, 1500)

    def prepare(self) -> None:
        if not node.inside():
            pytest.skip("mounts are for the lab's node")
        self.path.parent.with_name("real").mkdir()
        self.path.parent.symlink_to("real")

    def _mount(self, token: str) -> None:
        self.path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", f"vmbatch:{token}", self.path], check=True)

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "not mounted", self.path.mkdir
        yield "mounted", lambda: self._mount(self.token)
        yield "with what a guest wrote", self._used

    def _used(self) -> None:
        self._mount(self.token)
        (self.path / "a").mkdir()
        (self.path / "a/b").write_text("content")

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "another start's", lambda: self._mount(new_token())
        yield "a directory with files", self._directory
        yield "a file", self._file
        yield "a link", lambda: self.path.symlink_to("nowhere")

    def _directory(self) -> None:
        self.path.mkdir()
        (self.path / "x").write_text("precious")

    def _file(self) -> None:
        self.path.write_text("precious")

    def clear(self) -> None:
        if self.path.is_mount():
            subprocess.run(["umount", self.path], check=True)


class ExportCase(Case):
    """An entry in the table of the node's NFS server, which need not run for that."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.path = parent / "guest"
        self.resource = Export(str(self.path), self.token, "10.77.0.99", str(uuid.UUID(hex=self.token, version=4)), 1500, 1500)

    def prepare(self) -> None:
        if not node.inside():
            pytest.skip("exports are for the lab's node")
        self.path.mkdir()

    def exists(self) -> bool:
        return any(path == str(self.path) for path, _ in exported(Deadline(30)))

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "nothing", lambda: None
        yield "no directory", self.path.rmdir

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield from ()

    def clear(self) -> None:
        for path, client in exported(Deadline(30)):
            if path == str(self.path):
                subprocess.run(["exportfs", "-u", f"{client}:{path}"], check=True)


class WatcherCase(Case):
    """The record of a watcher, in the job's own directory."""

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.path = parent / "watch"
        domain = Domain(URI, "vmbatch-42.vm", str(uuid.UUID(hex=self.token, version=4)), self.token, str(parent / "domain.xml"))
        self.resource = Watcher(
            path=str(self.path), token=self.token, job="42.vm", domain=domain, seconds=15.0, place=str(parent / "share"),
            local=True, handover=str(parent / "handover"), log=str(parent / "log"))

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "empty", self.path.touch
        yield "torn", lambda: self._write(msgspec.json.encode(self.resource)[:40])

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "another start's", lambda: self._write(msgspec.json.encode(self.resource).replace(self.token.encode(), b"f" * 32))
        yield "no record", lambda: self._write(b"\xff")
        yield "a directory", self.path.mkdir
        yield "a link to nowhere", lambda: self.path.symlink_to("nowhere")

    def _write(self, data: bytes) -> None:
        self.path.write_bytes(data)

    def clear(self) -> None:
        """pytest removes the directory."""


class ClaimCase(Case):
    """Room on the node."""

    resource: Claim

    def __init__(self, parent: Path) -> None:
        self.token = new_token()
        self.parent = parent
        self.resource = Claim(str(parent), self.token, "42.vm", 2, 1 << 30, 7.5, clock.this_process())

    def _link(self, state: str, target: str = "") -> Callable[[], None]:
        return lambda: (self.parent / f"{self.token}.{state}").symlink_to(target or msgspec.json.encode(self.resource).decode())

    def exists(self) -> bool:
        return any(True for _ in self.parent.iterdir())

    def half_made(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for state in ("asking", "held", "waiting", "starting", "running"):
            yield state, self._link(state)

    def foreign(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "a file", (self.parent / f"{self.token}.asking").touch
        yield "a directory", (self.parent / f"{self.token}.asking").mkdir
        yield "a link to nowhere", self._link("asking", "nowhere")
        yield "another start's", self._link("asking", msgspec.json.encode(
            msgspec.structs.replace(self.resource, token=new_token())).decode())

    def clear(self) -> None:
        """pytest removes the directory."""


FACTORIES: dict[str, tuple[type[Resource], Callable[[Path], Case]]] = {
    "spool directory": (Directory, lambda parent: DirectoryCase(parent, named=True)),
    "hand-over directory": (Directory, lambda parent: DirectoryCase(parent, named=False)),
    "first filling": (FirstFill, FirstFillCase),
    "domain": (Domain, DomainCase),
    "address": (Address, AddressCase),
    "volume": (Volume, VolumeCase),
    "export": (Export, ExportCase),
    "network filter": (NetworkFilter, NetworkFilterCase),
    "entry for the job's other nodes": (Member, MemberCase),
    "watcher": (Watcher, WatcherCase),
    "claim": (Claim, ClaimCase),
}
"""Of every kind in the registry, at least one; but a guest makes its leases by itself, see test_dhcp_lease.py."""
