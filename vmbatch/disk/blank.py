"""An empty disk for one job, with a file system in it where the template asks for one."""

import contextlib
import ctypes
import errno
import os
import time
import uuid

from ..errors import NodeError
from ..format import Layout, qcow, qcow2, vhd
from ..format.name import Form
from ..host import process
from ..resource import Piece, Work
from . import layout

_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of linux/falloc.h: takes the space, and leaves the file as long as it is."""
MAKERS: dict[str, tuple[str, ...]] = {
    "ext2": ("mkfs.ext2", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"),
    "ext3": ("mkfs.ext3", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
    "vfat": ("mkfs.vfat",),
    "swap": ("mkswap",),
}
"""Programs that make file systems."""
_LABEL_OPTION = {"vfat": "-n"}


class Blank(Piece, frozen=True, tag="blank"):
    """A disk of `size` bytes at `path`; `program` is the tool's path, '' where VmBatch writes the format itself."""

    path: str
    form: Form
    program: str
    size: int
    filesystem: str
    maker: str
    label: str
    reserve: bool

    def make(self, work: Work) -> None:
        """Makes the file, then takes its space, so that a full node is noticed now and not by the guest."""
        if self.filesystem and self.form.format != "raw":
            raw = f"{self.path}.raw"
            self._make_raw(raw, work)
            process.run(["/usr/bin/qemu-img", "convert", "-q", "-f", "raw", *_output(self.form.format), raw, self.path],
                        work.deadline)
            os.unlink(raw)
        elif self.form.format == "raw":
            self._make_raw(self.path, work)
        elif self.program:
            process.run(_command(self.form, self.program, self.path, self.size), work.deadline)
        else:
            layout.write(self.path, _layout(self.form.format, self.size))
        if self.reserve:
            reserve(self.path, self.size)

    def _make_raw(self, path: str, work: Work) -> None:
        layout.write(path, Layout(self.size, ()))
        if self.filesystem:
            label = [_LABEL_OPTION.get(self.filesystem, "-L"), self.label] if self.label else []
            process.run([self.maker, *MAKERS[self.filesystem][1:], *label, path], work.deadline)

    def __str__(self) -> str:
        inside = f", with {self.filesystem}" if self.filesystem else ""
        return f"empty disk {self.path} ({self.form}, {self.size >> 20} MiB{inside})"


def _output(form: str) -> list[str]:
    """qemu-img's options for a format."""
    if form.startswith("vhd"):
        return ["-O", "vpc", "-o", f"subformat={'fixed' if form == 'vhd-fixed' else 'dynamic'},force_size=on"]
    return ["-O", form]


def _command(form: Form, program: str, path: str, size: int) -> list[str]:
    if form.tool == "vhd-util":  # xen/tools/blktap2/vhd/lib/vhd-util-create.c
        return [program, "create", "-n", path, "-s", str(size >> 20), *(["-r"] if form.format == "vhd-fixed" else [])]
    if form.tool == "qcow-create":  # xen/tools/blktap2/drivers/qcow-create.c
        return [program, str(size >> 20), path]
    kind, *options = _output(form.format)[1:]
    return [program, "create", "-q", "-f", kind, *options, path, str(size)]


def _layout(form: str, size: int) -> Layout:
    now = int(time.time())
    if form == "qcow2":
        return qcow2.blank(size)
    if form == "qcow":
        return qcow.blank(size)
    if form == "vhd-fixed":
        return vhd.fixed(size, uuid.uuid4(), now)
    return vhd.dynamic(size, uuid.uuid4(), now)


def reserve(path: str, size: int) -> None:
    """Takes `size` bytes of the file system for a file. NodeError if they are not there."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
            return
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return  # not every file system can; the plan has checked what is free
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise NodeError(f"{size >> 20} MiB for the disk {path} are not there: {os.strerror(code)}", code="VB401")
    finally:
        os.close(fd)
