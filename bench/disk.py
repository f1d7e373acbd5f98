"""A 4 GiB image for a job, each way, and overlays on sparse images of 1 to 64 GB. Needs space for four of the former.

The image is full: not a hole in it. It lies on an XFS of its own in a file, so that copies can share blocks where asked to.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vmbatch.config import parse
from vmbatch.disk.duplicate import Duplicate
from vmbatch.disk.link import Link
from vmbatch.disk.overlay import Overlay
from vmbatch.format.name import Form
from vmbatch.image import record, remote
from vmbatch.image.store import Store, stamp
from vmbatch.image.terms import Terms, terms
from vmbatch.image.transfer import Validators
from vmbatch.report.figure import Figure
from vmbatch.resource import Work
from vmbatch.template import Checksum, ImageSource
from vmbatch.units import Deadline

from .beside import against, measure

WORK = Work(Deadline(1e6), lambda: None, lambda _line: None)
URL = "http://images.invalid/base.raw"
_DIGEST = "0" * 64


_CP = "cp, as VM-Service did"
_QEMU_IMG = "qemu-img create -b"
_SIZES = (1, 4, 16, 64)


def figures(gib: int = 4) -> Iterator[Figure]:
    """Whole copies against overlays, overlays among each other, and as images grow."""
    with _xfs(gib * 3 + 4) as directory:
        base = directory / "base.raw"
        _fill(base, gib)
        os.sync()
        ways = Ways(directory, base)
        yield from against(f"A {gib} GiB image for a job, on XFS", measure({
            _CP: ways.copy, "cp --reflink=always": ways.reflink, "copy_method='copy'": ways.duplicate,
            _QEMU_IMG: ways.qemu_img, "copy_method='cow'": ways.overlay,
        }, 3), _CP)
        yield from against("An overlay", measure({
            _QEMU_IMG: ways.qemu_img, "copy_method='cow'": ways.overlay,
            "format='qemu-img-qcow2'": ways.overlay_by_tool, "format='qcow'": ways.overlay_qcow,
            "copy_method='cow' of a URL, in the store": ways.hit,
        }, 40), _QEMU_IMG)
        yield from against("A sparse image of so many GB, copy_method='cow'", measure(
            {f"{size} GB": ways.overlay_of(size) for size in _SIZES}, 40), "1 GB")
        yield from against("A sparse image of so many GB, copy_method='copy'", measure(
            {f"{size} GB": ways.copy_of(size) for size in _SIZES}, 20), "1 GB")


class Ways:
    """Each way to a job's disk, made and removed again; removing is part of the time, and the same for all."""

    def __init__(self, directory: Path, base: Path) -> None:
        self.base = base
        self.made = directory / "job.disk"
        self.link = directory / "job.base"
        self.size = base.stat().st_size
        self.terms = self._terms(directory / "images")
        self.source = ImageSource((URL,), "cow", "raw", "", Checksum("sha256", _DIGEST), "qcow2")
        self._publish()

    @staticmethod
    def _terms(store: Path) -> Terms:
        return terms(parse(f"[images]\ndirectory = '{store}'\n".encode(), "bench"))

    def _publish(self) -> None:
        store = Store(self.terms.directory)
        store.make()
        key = record.key(self.source)
        made = store.incoming(key, "new")
        subprocess.run(["cp", "--reflink=always", self.base, made], check=True)
        store.publish(key, made, record.Record(
            origin=URL, format="raw", size=self.size, content=_DIGEST, published={"sha256": _DIGEST},
            validators=Validators(URL, "", ""), stamp=stamp(os.stat(made)), checked=time.time())).close()

    def _cp(self, *options: str) -> None:
        subprocess.run(["cp", *options, self.base, self.made], check=True)
        self.made.unlink()

    def copy(self) -> None:
        self._cp("--reflink=never", "--sparse=never")

    def reflink(self) -> None:
        self._cp("--reflink=always")

    def duplicate(self) -> None:
        Duplicate(str(self.base), str(self.made)).make(WORK)
        self.made.unlink()

    def qemu_img(self) -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.base, self.made], check=True)
        self.made.unlink()

    def _overlay(self, form: Form, program: str, base: Path) -> None:
        Overlay(str(self.made), form, program, str(base), "raw", self.size).make(WORK)
        self.made.unlink()

    def overlay(self) -> None:
        self._overlay(Form("", "qcow2"), "", self.base)

    def overlay_by_tool(self) -> None:
        self._overlay(Form("qemu-img", "qcow2"), "/usr/bin/qemu-img", self.base)

    def overlay_qcow(self) -> None:
        self._overlay(Form("", "qcow"), "", self.base)

    def hit(self) -> None:
        held = remote.obtain(self.source, self.terms, WORK)
        Link(held.path, str(self.link)).make(WORK)
        held.close()
        self._overlay(Form("", "qcow2"), "", self.link)
        self.link.unlink()


    def _sparse(self, size: int) -> Path:
        """An image of so many GB, with 64 MB in it."""
        path = self.base.with_name(f"sparse-{size}.raw")
        with path.open("wb") as file:
            for number in range(64):
                file.seek(number * size * (1_000_000_000 // 64))
                file.write(os.urandom(1 << 20))
            file.truncate(size * 1_000_000_000)
        return path

    def overlay_of(self, size: int) -> Callable[[], None]:
        """An overlay on a sparse image of so many GB."""
        path = self._sparse(size)

        def make() -> None:
            Overlay(str(self.made), Form("", "qcow2"), "", str(path), "raw", size * 1_000_000_000).make(WORK)
            self.made.unlink()

        return make

    def copy_of(self, size: int) -> Callable[[], None]:
        """A copy of a sparse image of so many GB."""
        path = self._sparse(size)

        def make() -> None:
            Duplicate(str(path), str(self.made)).make(WORK)
            self.made.unlink()

        return make


def _fill(path: Path, gib: int) -> None:
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(gib << 10):
            file.write(number.to_bytes(8, "big") + piece[8:])


@contextlib.contextmanager
def _xfs(gib: int) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix="vmbatch-bench-", dir="/var/tmp"))
    disk, place = scratch / "disk", scratch / "mounted"
    place.mkdir()
    try:
        with disk.open("wb") as file:
            file.truncate(gib << 30)
        subprocess.run(["mkfs.xfs", "-q", disk], check=True)
        subprocess.run(["mount", "-o", "loop", disk, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        shutil.rmtree(scratch)

