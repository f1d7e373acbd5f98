"""From a template's disks and the facts to what is made for a job, and what its domain says of it."""

import os

from . import digest
from .config import Config
from .disk.blank import MAKERS, Blank
from .disk.duplicate import Duplicate
from .disk.flatten import Flatten
from .disk.link import Link
from .disk.overlay import Overlay
from .errors import NodeError, SiteError
from .facts import Facts, Image
from .format import FormatError, qcow, vhd
from .format.name import Form, parse_form
from .hypervisor.profile import Profile
from .hypervisor.target import Target, warnings
from .job import Job
from .resource import Piece, Resource
from .spool.directory import Directory
from .spool.first import FirstFill
from .template import BlankSource, DiskChange, DiskTag, DriverChange, ImageSource, Template, known_format
from .units import format_size

_LIMITS = {"vhd": vhd.SIZE_LIMIT, "vhd-fixed": vhd.SIZE_LIMIT, "qcow": qcow.SIZE_LIMIT}


def _check_size(form: str, size: int) -> None:
    if size > _LIMITS.get(form, size):
        raise FormatError(f"a disk of {format_size(size)} cannot be {form}, which ends at {format_size(_LIMITS[form])}",
                          "use qcow2 or raw")


class Disks:
    """`steps` in their order, `changes` and `drivers` for the domain, `notes` for the log. SiteError, NodeError.

    `made` has (path, format, (path, format) of the image below an overlay) of the disks, by index; `own` is the step that makes
    a disk of the job's own, which the guest sees with `sizes` bytes.
    """

    def __init__(self, job: Job, template: Template, profile: Profile, spool: str, config: Config, facts: Facts) -> None:
        self.steps: list[Resource | Piece] = []
        self.changes: list[DiskChange] = []
        self.drivers: list[DriverChange] = []
        self.notes: list[str] = []
        self.made: dict[int, tuple[str, str, tuple[str, str] | None]] = {}
        self.own: dict[int, Piece] = {}
        self.sizes: dict[int, int] = {}
        self._job = job
        self._template = template
        self._profile = profile
        self._spool = spool
        self._config = config
        self._facts = facts
        self._uses = os.path.join(config.images_directory, "uses", job.unique)
        self._space = 0
        self._downloads: list[tuple[int, ImageSource, str]] = []
        for tag in template.disks:
            try:
                self._check_driver(tag)
                self._disk(tag)
            except FormatError as error:
                raise SiteError(f"{template.path}:{tag.line}: disk {tag.target}: {error.what}", error.hint,
                                code="VB303") from None
        self._check_space()
        self._add_downloads()
        self._check_order()

    def _check_driver(self, tag: DiskTag) -> None:
        """The template's own driver for what it has, and another one where a disk is not otherwise changed."""
        source = tag.source
        if isinstance(source, BlankSource):
            form = parse_form(source.form).format
        else:
            form = source.format if isinstance(source, ImageSource) else known_format(tag.type)
        self._profile.check_stated(tag.driver, form)
        if source is None and tag.medium is None and tag.driver:
            driver, device = self.driver(tag, form), self.device(tag, form)
            if driver != tag.driver or device:
                self.drivers.append(DriverChange(tag.index, driver, self._profile.drivers[form], device))

    def driver(self, tag: DiskTag, form: str) -> str:
        """The name of <driver> for a disk whose file has this format."""
        driver, note = self._profile.chosen(tag.driver, form)
        if note:
            self.notes.append(f"disk {tag.target}: {note}")
        return driver

    def device(self, tag: DiskTag, form: str) -> str:
        """What <disk device='...'> must be for a disk whose file has this format, '' for what the template has."""
        return self._profile.device(self._profile.chosen(tag.driver, form)[0]) if tag.readonly else ""

    def _check_order(self) -> None:
        """Where a bootloader on the node chooses the disk, by the targets' order."""
        root = self._template.root
        if not self._profile.xen or root.find("os/kernel") is not None or (root.findtext("os/type") or "").strip() == "hvm":
            return
        targets = [Target(tag.target, "medium" if tag.medium else "empty" if isinstance(tag.source, BlankSource)
                          else "image" if tag.source else "other") for tag in self._template.disks]
        places = [place for tag in self._template.disks if isinstance(tag.source, ImageSource) for place in tag.source.places]
        cernvm = any(tag.medium is not None and tag.medium.form == "cernvm" for tag in self._template.disks) or any(
            "cernvm" in place.rsplit("/", 1)[-1] for place in places)
        self.notes.extend(warnings(targets, cernvm=cernvm))

    def _disk(self, tag: DiskTag) -> None:
        source = self._facts.wishes.get(tag.index, tag.source)
        if isinstance(source, BlankSource) and tag.index in self._facts.images:
            form = parse_form(source.form)
            if form.format not in self._profile.overlays:
                form = Form("", self._profile.overlays[0])
            self._image(tag, source.method, form)
        elif isinstance(source, BlankSource):
            self._blank(tag, source)
        elif isinstance(source, ImageSource) and source.method == "download":
            self._download(tag, source)
        elif isinstance(source, ImageSource):
            self._warn(source)
            self._image(tag, source.method, parse_form(source.overlay))

    def _warn(self, source: ImageSource) -> None:
        if source.checksum is not None and source.checksum.function in digest.WEAK:
            self.notes.append(f"{source.checksum.function} finds damage, but not forgery: give {source.places[0]} a sha256")

    def _image(self, tag: DiskTag, method: str, overlay: Form) -> None:
        """A disk on an image that is on the node."""
        image = self._facts.images[tag.index]
        if image.chain and method != "copy":
            raise FormatError("the image is a differencing VHD, and QEMU would not read its parents",
                              "use copy_method='copy', which makes it flat, or qemu-img convert it")
        if method == "copy":
            self._copy(tag, image)
            return
        base = self._in_use(tag, image)
        if method == "shared":
            self._change(tag, base, image.format, shared=True)
            return
        kind, note = self._profile.overlay(overlay.format)
        if note:
            overlay = Form("", kind)
            self.notes.append(f"disk {tag.target}: {note}")
        if overlay.format == "vhd" and image.format not in ("raw", "vhd"):
            raise FormatError(f"an overlay in the format vhd takes an image that is raw or vhd, not {image.format}",
                              f"write format='{self._profile.overlays[0]}', or leave format= out")
        if overlay.tool == "qemu-img" and overlay.format.startswith("vhd"):
            overlay = Form("", overlay.format)
        overlay, program = self._tool(overlay)
        _check_size(overlay.format, image.size)
        path = os.path.join(self._spool, f"{tag.target}.{overlay.format}")
        self._make(tag, Overlay(path, overlay, program, base, image.format, image.size), image.size)
        self._change(tag, path, overlay.format, backing=(base, image.format))

    def _in_use(self, tag: DiskTag, image: Image) -> str:
        """The image under a name of this job's, if it is one of the store's."""
        return self.hold(image.path, tag.target) if image.stored else image.path

    def hold(self, path: str, name: str) -> str:
        """A file of the store under a name of this job's."""
        if not any(isinstance(step, Directory) and step.path == self._uses for step in self.steps):
            self.steps.append(Directory(self._uses, self._job.token, 0o711))
        link = os.path.join(self._uses, name)
        self.steps.append(Link(path, link))
        return link

    def _make(self, tag: DiskTag, step: Piece, size: int) -> None:
        self.steps.append(step)
        self.own[tag.index] = step
        self.sizes[tag.index] = size

    def _copy(self, tag: DiskTag, image: Image) -> None:
        form = "raw" if image.chain else image.format
        path = os.path.join(self._spool, f"{tag.target}.{form}")
        self._space += image.size if image.chain else image.file_size
        self._make(tag, Flatten(image.chain, path, image.size) if image.chain else Duplicate(image.path, path), image.size)
        self._change(tag, path, form)

    def _download(self, tag: DiskTag, source: ImageSource) -> None:
        self._warn(source)
        path = os.path.join(self._spool, f"{tag.target}.{source.format}")
        self._downloads.append((len(self.steps), source, path))
        self._change(tag, path, source.format)

    def _add_downloads(self) -> None:
        """In their places, for what copies and empty disks leave of the job's space."""
        if not self._downloads:
            return
        from .image.download import Download

        most = self._config.spool_job_limit - self._space
        if most <= 0:
            raise SiteError(f"the copies and empty disks of the job leave nothing of [spool] job_limit = "
                            f"{format_size(self._config.spool_job_limit)} for its downloads", "use copy_method='shared'",
                            code="VB402")
        for index, source, path in reversed(self._downloads):
            self.steps.insert(index, Download(source, path, most, self._config.spool_keep_free, self._facts.terms))

    def _blank(self, tag: DiskTag, source: BlankSource) -> None:
        form, program = self._tool(parse_form(source.form))
        kind, note = self._profile.blank(form.format)
        if note:
            form, program = Form("", kind), ""
            self.notes.append(f"disk {tag.target}: {note}")
        _check_size(form.format, source.size)
        path = os.path.join(self._spool, f"{tag.target}.{form.format}")
        if tag.index in self._facts.first:
            ready, making = self._facts.first[tag.index]
            right = FirstFill(making, self._job.token, ready, self._facts.terms.readers)
            self.steps.append(right)
            path = right.disk
        else:
            self._space += source.size
        maker = ""
        if source.filesystem:
            name = MAKERS[source.filesystem][0]
            maker = self._facts.programs.get(name, "")
            if not maker:
                raise FormatError(f"{name} is not on this node, and filesystem='{source.filesystem}' needs it",
                                  "install the package that has it, such as e2fsprogs, xfsprogs or dosfstools")
        self._make(tag, Blank(path, form, program, source.size, source.filesystem, maker, source.label,
                              self._config.spool_reserve), source.size)
        self._change(tag, path, form.format)

    def _tool(self, form: Form) -> tuple[Form, str]:
        """The form as it will be made, and the program that does it; '' for VmBatch itself."""
        if not form.tool or form.tool in self._facts.programs:
            return form, self._facts.programs.get(form.tool, "")
        self.notes.append(f"{form.tool} is not on this node; VmBatch writes {form.format} itself")
        return Form("", form.format), ""

    def _change(
        self, tag: DiskTag, path: str, form: str, *, backing: tuple[str, str] | None = None, shared: bool = False
    ) -> None:
        if form not in self._profile.drivers:
            raise FormatError(f"{self._profile.name} reads no images in the format {form}")
        defaults = {} if shared or tag.readonly else self._profile.throwaway
        driver, kind = self.driver(tag, form), self._profile.drivers[form]
        below = None if backing is None else (backing[0], self._profile.drivers[backing[1]])
        self.changes.append(DiskChange(tag.index, path, kind, below, shared, driver, defaults, self.device(tag, form)))
        self.made[tag.index] = (path, form, backing)

    def _check_space(self) -> None:
        config, needed = self._config, self._space
        if needed > config.spool_job_limit:
            raise SiteError(f"the copies and empty disks of the job take {format_size(needed)}, "
                            f"more than [spool] job_limit = {format_size(config.spool_job_limit)}", "use copy_method='cow'",
                            code="VB402")
        if needed + config.spool_keep_free > self._facts.spool_free:
            raise NodeError(f"the spool {config.spool_directory} has {self._facts.spool_free >> 20} MiB free; "
                            f"the job's disks take {needed >> 20} MiB, and {config.spool_keep_free >> 20} MiB must remain",
                            code="VB401")
