"""The context in a guest's own disk, written before the guest boots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from ..context.content import Content
from ..context.tree import Entry
from ..errors import SiteError
from ..format import FormatError, filesystem, lvm, table
from ..resource import Piece, Work
from . import enable, ext
from .appliance import appliance
from .fat import Fat
from .files import File, Guest
from .mounted import mounted
from .view import View, view

_BIG = ("job/", "tar/")
"""Of the context: what goes to the disk for jobs, where there is one."""
_JOBS = "/vmbatch"
_EXT = ("ext2", "ext3", "ext4")
_IN_PARTS = "a volume in several parts"


class Target(msgspec.Struct, frozen=True):
    """A file system of the job's disk at `path`, in the `form` of format.name, over `backing` (path, format) if it is an overlay.

    In `partition` (0: the whole disk), and there in the logical `volume` if that is not ''. `where` is for messages.
    """

    path: str
    form: str
    backing: tuple[str, str] | None
    partition: int
    volume: str
    trusted: bool
    where: str


class Injection(Piece, frozen=True, tag="injection"):
    """The context in the file system `root`, and its big part in `jobs`, which the guest knows as `device`.

    `init` as enable.items has it. `scratch` is a directory of the job's; `account` has no rights; `appliance` is libguestfs'
    own system, which is `emulated` where there is no KVM.
    """

    content: Content
    root: Target
    jobs: Target | None
    device: str
    init: str
    scratch: str
    account: str
    appliance: str
    emulated: bool

    def make(self, work: Work) -> None:
        """Writes all of it. SiteError names the file system and what is wrong with it."""
        entries = list(self.content.entries())
        apart = [entry for entry in entries if self.jobs is not None and entry.name.startswith(_BIG)]
        with self._opened(self.root, work) as guest:
            items = enable.items(guest, self.init, self.device if self.jobs is not None else "")
            items += tuple(_file(enable.MEDIUM, entry) for entry in entries if entry not in apart)
            enable.check_mounts(guest, [item.path for item in items])
            guest.write(enable.labelled(guest, items), work.deadline)
        if self.jobs is not None:
            with self._opened(self.jobs, work) as guest:
                guest.write([_file(_JOBS, entry) for entry in apart], work.deadline)

    @contextlib.contextmanager
    def _opened(self, target: Target, work: Work) -> Iterator[Guest]:
        """The file system, by the safest tool that can write it."""
        try:
            with view(target.path, target.form, self.account, work.deadline, target.backing) as seen:
                yield from self._by_a_tool(target, seen, work)
        except FormatError as error:
            raise SiteError(f"{target.where}: the disk {error.what}", error.hint, code="VB403") from None

    def _by_a_tool(self, target: Target, seen: View, work: Work) -> Iterator[Guest]:
        place = table.Extent(0, seen.size)
        if target.partition:
            place = table.partition(seen.read, seen.size, target.partition)
        parts: tuple[table.Extent, ...] = (place,)
        if target.volume:
            parts = lvm.logical_volume(seen.read, place, target.volume)
        place = parts[0]
        kind = filesystem.identify(seen.read, place.offset, place.length) if len(parts) == 1 else _IN_PARTS
        if kind == "lvm":
            raise FormatError("has LVM there", "say which logical volume: <vbdisk ... volume='VG/LV'/>")
        if kind in ("", "swap"):
            raise FormatError(f"has {kind or 'no file system that VmBatch knows'} there", "see <vbdisk partition='...'>")
        if kind in ("xfs", "btrfs", *_EXT) and target.trusted:
            with mounted(seen, kind, place.offset, place.length, work.deadline) as guest:
                yield guest
        elif kind in _EXT and not ext.odd(seen, place.offset):
            yield ext.Ext(seen, place.offset, self.scratch, work.deadline)
        elif kind == "vfat":
            yield Fat(seen, place.offset, self.scratch, work.deadline)
        else:
            device = target.volume or (str(target.partition) if target.partition else "")
            with appliance(seen, device, self.account, self.appliance, self.scratch, work.deadline,
                           emulated=self.emulated) as guest:
                yield guest

    def __str__(self) -> str:
        jobs = f", its job in {self.jobs.where}" if self.jobs is not None else ""
        return f"context in {self.root.where}{jobs} ({self.content})"


def _file(directory: str, entry: Entry) -> File:
    return File(f"{directory}/{entry.name}", entry.mode, entry.data, entry.source)
