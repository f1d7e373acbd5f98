"""Whoever saves a guest is killed before each thing that it does: the sweep leaves nothing but a saved guest that is whole."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vmbatch import claim, saver, sweep
from vmbatch.config import Config, parse
from vmbatch.format import savefile
from vmbatch.host import libvirtd, process
from vmbatch.host.log import Log
from vmbatch.image import saved
from vmbatch.journal import Journal
from vmbatch.spool import directory

from .killed import Killed, KilledError

pytestmark = pytest.mark.usefixtures("places")

TEMPLATE = """<domain type='qemu'>
  <name>guest</name>
  <vbconfig><vbstart>RESUME</vbstart></vbconfig>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='{image}' copy_method='cow'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <vbpreparecdrom source='context.iso'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
    <interface type='network'><source network='default'/></interface>
  </devices>
</domain>
"""


class Node(Killed):
    """A node with a libvirt that is played, and a process that is killed before its call number `at`."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.directory = place
        image = place / "base.raw"
        image.write_bytes(bytes(1 << 20))
        image.chmod(0o644)
        self.template = place / "guest.xml"
        self.template.write_text(TEMPLATE.format(image=image))
        self.template.chmod(0o644)
        places = {f"{name}_directory": str(place / name) for name in ("spool", "images", "share")}
        for made in places.values():
            Path(made).mkdir(mode=0o711)
        self.config: Config = msgspec.structs.replace(
            parse(b"", "x"), libvirt_uri="test:///default", log_directory=str(place / "log"), log_trace="", log_history="",
            admission_cores="none", admission_memory="none", images_keep_free=0, spool_keep_free=0, **places)
        self._play(monkeypatch)
        self.watch(monkeypatch, "save", "detach")

    def _play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.play(monkeypatch, "save", save=self.save, laid_out=lambda _uri, uuid: self.layout(uuid), detach=lambda *_: None)
        monkeypatch.setattr(libvirtd, "versions", lambda _uri: ("9", "QEMU", "7"))
        monkeypatch.setattr(libvirtd, "capabilities", lambda _uri: "")
        monkeypatch.setattr(saver, "_wait", lambda *_: None)
        monkeypatch.setattr(claim, "DIRECTORY", str(self.directory / "claims"))

    def layout(self, uuid: str) -> str:
        made, = (self.directory / "images/saved").glob("*.making")
        token = self.running[uuid]
        return f"""<domain type='qemu'><uuid>{uuid}</uuid><metadata><job token="{token}"/></metadata><devices>
          <disk><source file='{made}/waiting.iso'/><target dev='vdb'/><address bus='4'/></disk>
          <interface><address bus='1'/></interface></devices></domain>"""

    def save(self, _uri: str, uuid: str, path: str) -> None:
        known = savefile.SaveFile(1, 0, b"", b"", 0)
        Path(path).write_bytes(savefile.header(known, b"<domain/>") + b"state")
        del self.running[uuid]

    def run(self, at: int) -> bool:
        """Whether it came to its end, and was not killed before its call `at`."""
        self.at, self.calls = at, []
        try:
            saver.save(str(self.template), self.config, Log(None, "1.save", "save"), 1)
        except KilledError:
            return False
        finally:
            self.at = 0
        return True

    def sweep(self) -> list[str]:
        """As after a kill: the kernel lets go of the dead one's locks."""
        for fd in list(process._held):
            process.let_go(fd)
            os.close(fd)
        process.watch(None)
        return sweep.sweep(self.config, Log(None, "0", "sweep"), dry_run=False)

    def left(self) -> list[str]:
        """What there is of a start."""
        found = [path for name in ("spool", "images/uses", "images/saved", "claims", "state/jobs", "share")
                 for path in (self.directory / name).glob("*")]
        return [str(path) for path in found if not (path.parent.name == "saved" and "." not in path.name)] + list(self.running)

    def guests(self) -> list[Path]:
        """The saved guests."""
        return [path for path in (self.directory / "images/saved").glob("*") if "." not in path.name]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    yield Node(tmp_path, monkeypatch)
    process.watch(None)


def test_a_guest_is_saved(node: Node) -> None:
    assert node.run(0)
    assert node.left() == []
    guest, = node.guests()
    assert {path.name for path in guest.iterdir()} == {"memory", "record", "vda.qcow2"}
    assert saved.tidy(node.config.images_directory) == []
    assert {"journal", "create", "destroy", "detach", "save", "rename", "mkdir", "unlink"} <= set(node.calls)


def test_one_is_enough(node: Node) -> None:
    assert node.run(0)
    guest, = node.guests()
    before = guest.stat()
    assert node.run(0)
    assert "create" not in node.calls
    assert guest.stat().st_ino == before.st_ino


def test_killed_anywhere(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each call; the sweep, and then another start, find nothing in their way."""
    monkeypatch.setattr(saver, "release", lambda *_words, **_named: None)  # a dead one releases nothing
    monkeypatch.setattr(Journal, "close", lambda _book: None)
    assert node.run(0)
    whole = len(node.calls)
    node.sweep()
    assert whole > 30
    for at in range(1, whole + 1):
        for guest in node.guests():
            assert saved.remove(str(guest))
        assert not node.run(at), f"{at}: {node.calls}"
        node.sweep()
        assert node.left() == [], f"killed before {at}: {node.calls[-3:]}"
        for guest in node.guests():
            assert (guest / "record").exists(), f"killed before {at}: {node.calls[-3:]}"
            assert (guest / "memory").read_bytes().endswith(b"state")
    for guest in node.guests():
        saved.remove(str(guest))
    assert node.run(0)
    node.sweep()
    assert len(node.guests()) == 1
    assert node.left() == []


@pytest.mark.parametrize("last", ["create", "save"])
def test_what_is_neither_promised_nor_marked_stays(node: Node, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """That is, the test above sees what is left."""
    assert node.run(0)
    at = node.calls.index(last) + 1
    for guest in node.guests():
        saved.remove(str(guest))
    monkeypatch.setattr(saver, "release", lambda *_words, **_named: None)
    monkeypatch.setattr(Journal, "close", lambda _book: None)
    monkeypatch.setattr(Journal, "promise", lambda _book, _resource: None)
    monkeypatch.setattr(directory, "ours", lambda _parent, **_named: [])
    assert not node.run(at)
    node.sweep()
    assert any(path.endswith(".making") for path in node.left())
