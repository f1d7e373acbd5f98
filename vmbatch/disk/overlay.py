"""A copy-on-write overlay on an image that many jobs share."""

import os
import time
import uuid

from ..format import qcow, qcow2, vhd
from ..format.name import Form
from ..host import process
from ..resource import Piece, Work
from . import layout

_DRIVERS = {"vhd": "vpc", "vhd-fixed": "vpc"}
"""QEMU's names of formats, where they are not ours."""

class Overlay(Piece, frozen=True, tag="overlay"):
    """A file at `path` over `backing`, which has `backing_format` and `size` bytes.

    `program` is the tool's path, '' where VmBatch writes the format itself: that takes no process, and opens no image.
    """

    path: str
    form: Form
    program: str
    backing: str
    backing_format: str
    size: int

    def make(self, work: Work) -> None:
        """Makes the overlay."""
        if self.program:
            process.run(self._command(), work.deadline)
        elif self.form.format == "qcow2":
            layout.write(self.path, qcow2.overlay(self.backing, self._backing_driver(), self.size))
        elif self.form.format == "qcow":
            layout.write(self.path, qcow.overlay(self.backing, self.size))
        else:
            self._differencing()

    def _backing_driver(self) -> str:
        return _DRIVERS.get(self.backing_format, self.backing_format)

    def _differencing(self) -> None:
        with open(self.backing, "rb") as file:
            status = os.fstat(file.fileno())
            parent = None
            if self.backing_format == "vhd":
                parent = vhd.parse(lambda offset, length: os.pread(file.fileno(), length, offset), status.st_size)
        layout.write(self.path, vhd.differencing(
            self.size, uuid.uuid4(), int(time.time()), parent, self.backing, self.path, int(status.st_mtime)))

    def _command(self) -> list[str]:
        if self.form.tool == "vhd-util":  # xen/tools/blktap2/vhd/lib/vhd-util-snapshot.c; -m: the parent is raw
            raw = ["-m"] if self.backing_format == "raw" else []
            return [self.program, "snapshot", "-n", self.path, "-p", self.backing, *raw]
        if self.form.tool == "qcow-create":  # xen/tools/blktap2/drivers/qcow-create.c
            return [self.program, str(-(-self.size >> 20)), self.path, self.backing]
        return [self.program, "create", "-q", "-u", "-f", self.form.format, "-F",
                self._backing_driver(), "-b", self.backing, self.path, str(self.size)]

    def __str__(self) -> str:
        return f"overlay {self.path} ({self.form}) on {self.backing} ({self.backing_format})"
