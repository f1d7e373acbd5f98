"""The disks of a template: where each comes from, and how a job gets its own."""

import os
import re

import msgspec
from lxml import etree

from .. import digest
from . import schema

MIB = 1 << 20
_FORMATS = {"raw": "raw", "aio": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vhd", "vpc": "vhd"}
"""Spellings of a format in templates: libvirt's, and those of Xen's blktap."""
_LABEL_LIMITS = {"ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "vfat": 11, "swap": 15}
"""File systems that can be made, and how long their labels may be."""
_URL = re.compile(r"https?://[^\s/]+/\S*|file:///\S+")


class Checksum(msgspec.Struct, frozen=True):
    """A `vbcheckhash`: `function` is a digest's name or the path of a program, `value` has lower-case digits."""

    function: str
    value: str


class ImageSource(msgspec.Struct, frozen=True):
    """A `vbdisksource` with an image: one local path, or the URLs of one object on several servers.

    `method`: `cow`, `copy`, `shared` (the image itself, read-only) or `download` (a private one). `overlay` names tool and
    format of an overlay as `format` does for an empty disk.
    """

    places: tuple[str, ...]
    method: str
    format: str
    compression: str
    checksum: Checksum | None
    overlay: str

    @property
    def remote(self) -> bool:
        """Whether it must be downloaded."""
        return "://" in self.places[0]


class BlankSource(msgspec.Struct, frozen=True):
    """A `vbdisksource` with `create`: an empty disk of `size` bytes; `form` names tool and format, such as `vhd-util-vhd`.

    `method`: how jobs after the first get their own where it is made `once`.
    """

    name: str
    once: bool
    method: str
    size: int
    form: str
    filesystem: str
    label: str


class UserImage(msgspec.Struct, frozen=True):
    """A `vbuserimage`: the submitter may name another image as `name`; `format` is for names that tell none."""

    name: str
    format: str


class MediumTag(msgspec.Struct, frozen=True):
    """A `vbpreparecdrom`: the medium's file name, for whom it is, its label ('': the form's), the site's user-data or ''."""

    name: str
    form: str
    label: str
    userdata: str


class DiskTag(msgspec.Struct, frozen=True):
    """A disk of the template: `index` counts the disks; `medium` is there if it is a context medium.

    `driver` and `type` are what <driver> states, '' where it does not.
    """

    index: int
    line: int
    target: str
    readonly: bool
    source: ImageSource | BlankSource | None
    user: UserImage | None
    medium: MediumTag | None
    driver: str = ""
    type: str = ""


class _Reader:
    """One <disk>; its mistakes go to `found`."""

    def __init__(self, disk: etree._Element, found: list[schema.Problem]) -> None:
        self.disk = disk
        self.found = found
        self.readonly = disk.find("readonly") is not None

    def wrong(self, element: etree._Element, text: str) -> None:
        self.found.append((element.sourceline or 0, text))

    def format(self, stated: str | None, element: etree._Element) -> str:
        """The image's format, which is never guessed."""
        driver = self.disk.find("driver")
        form = str(stated or ("" if driver is None else driver.get("type", "")))
        if form not in _FORMATS:
            self.wrong(element if driver is None else driver,
                       f"the image's format is {form or 'not stated'}: write <driver name='qemu' type='raw'/>, or type "
                       "'qcow2', 'qcow' or 'vpc'; it is never guessed")
        return _FORMATS.get(form, "raw")

    def image(self, tag: etree._Element) -> ImageSource:
        """A `vbdisksource` without `create`."""
        text = tag.get("source", "")
        places = tuple(text.split()) if "://" in text else (text,)
        if "://" in text:
            for place in places:
                if not _URL.fullmatch(place):
                    self.wrong(tag, f"<vbdisksource> source='{place}': expected http://, https:// or file:///")
            if len(places) > 1 and any(place.startswith("file:") for place in places):
                self.wrong(tag, "<vbdisksource>: a list of sources is for http:// and https:// alone")
            if places[0].startswith("file://"):
                places = (places[0].removeprefix("file://"),)
        if "://" not in places[0] and not re.fullmatch(r"(/(?!\.\.?(/|$))[^/]+)+", places[0]):
            self.wrong(tag, f"<vbdisksource> source='{text}': expected an absolute path without '..', or a URL")
        method = tag.get("copy_method") or "shared"
        if method == "shared" and not self.readonly:
            method = "cow"
        if "://" not in places[0] and method == "download":
            method = "copy"
        compression = tag.get("compression") or (_suffix(places[0]) if "://" in places[0] else "")
        if compression == "none":
            compression = ""
        if compression and "://" not in places[0]:
            self.wrong(tag, f"<vbdisksource>: {places[0]} is local, and local images are not unpacked; unpack it once")
        if len({_suffix(place) for place in places}) > 1 and not tag.get("compression"):
            self.wrong(tag, "<vbdisksource>: the sources are packed in different ways; say which with compression='...'")
        for name in ("size", "filesystem", "label"):
            if tag.get(name):
                self.wrong(tag, f"<vbdisksource> {name}= goes with create='always' or create='once'")
        if tag.get("format") and method != "cow":
            self.wrong(tag, "<vbdisksource> format= goes with copy_method='cow', or with create")
        return ImageSource(places, method, self.format(tag.get("source_format"), tag), compression,
                           self.checksum(), tag.get("format") or "qcow2")

    def blank(self, tag: etree._Element) -> BlankSource:
        """A `vbdisksource` with `create`."""
        size = tag.get("size", "")
        if not re.fullmatch(r"[0-9]{1,9}", size):
            self.wrong(tag, "<vbdisksource> create= needs the size of the disk, such as size='20480' for 20 GiB")
            size = "1"
        filesystem, label = tag.get("filesystem", ""), tag.get("label", "")
        if label and not filesystem:
            self.wrong(tag, "<vbdisksource> label= goes with filesystem=")
        elif len(label) > _LABEL_LIMITS.get(filesystem, 99):
            self.wrong(tag, f"<vbdisksource> label='{label}': a label of {filesystem} has at most "
                            f"{_LABEL_LIMITS.get(filesystem)} characters")
        for name in ("source_format", "compression"):
            if tag.get(name):
                self.wrong(tag, f"<vbdisksource> {name}= is for images that exist; take it out, or create=")
        if self.disk.find("vbcheckhash") is not None:
            self.wrong(tag, "<vbcheckhash> is for images that exist; a disk with create= has no digest")
        method = tag.get("copy_method") or "cow"
        if tag.get("copy_method") and tag.get("create") == "always":
            self.wrong(tag, "<vbdisksource> copy_method= goes with images, and with create='once'; take it out")
        elif method not in ("cow", "copy"):
            self.wrong(tag, f"<vbdisksource> copy_method='{method}' does not go with create; use 'cow' or 'copy'")
        if self.readonly:
            self.wrong(self.disk, "an empty disk that is <readonly/> is of no use; take one of both out")
        form = tag.get("format") or self.format(None, tag)
        return BlankSource(tag.get("source", ""), tag.get("create") == "once", method, int(size) * MIB, form, filesystem, label)

    def checksum(self) -> Checksum | None:
        """The disk's `vbcheckhash`."""
        tag = self.disk.find("vbcheckhash")
        if tag is None:
            return None
        function, value = tag.get("hashfunction", ""), tag.get("hashvalue", "").lower()
        algorithm = digest.algorithm(function)
        if algorithm is None and not re.fullmatch(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+", function):
            self.wrong(tag, f"<vbcheckhash> hashfunction='{function}': expected {', '.join(digest.ALGORITHMS)}, "
                            "or the path of a program")
        elif algorithm is not None and len(value) != digest.digits(algorithm):
            self.wrong(tag, f"<vbcheckhash> hashvalue has {len(value)} digits; {algorithm} has {digest.digits(algorithm)}")
        return Checksum(algorithm or function, value)

    def user(self, source: ImageSource | BlankSource | None) -> UserImage | None:
        """The disk's `vbuserimage`."""
        tag = self.disk.find("vbuserimage")
        if tag is None:
            return None
        if not isinstance(source, ImageSource):
            self.wrong(tag, "<vbuserimage> overrides the image of a <vbdisksource>, and this disk has none")
            return None
        return UserImage(tag.get("name") or "vbuserimage", str(tag.get("format") or source.format))


def _suffix(place: str) -> str:
    match = re.search(r"\.(gz|bz2|xz|zst)$", place.partition("?")[0])
    return match[1] if match else ""


def read_disk(index: int, disk: etree._Element, template: str, found: list[schema.Problem]) -> DiskTag:
    """What a disk is to us; its mistakes go to `found`."""
    reader = _Reader(disk, found)
    target = disk.find("target")
    name = "" if target is None else target.get("dev", "")
    tag = disk.find("vbdisksource")
    medium = disk.find("vbpreparecdrom")
    if target is None:
        reader.wrong(disk, "<disk> has no <target dev='...'/>")
    elif not re.fullmatch(r"[A-Za-z0-9]{1,32}", name):
        reader.wrong(target, f"<target dev='{name}'>: expected a device such as 'vda'")
    if tag is not None and medium is not None:
        reader.wrong(medium, "<vbpreparecdrom> and <vbdisksource> in the same <disk>; give the medium a disk of its own")
    if (tag is not None or medium is not None) and disk.get("type") != "file":
        reader.wrong(disk, f"<disk type='{disk.get('type')}'>: a disk that VmBatch makes needs type='file'")
    if medium is not None and not reader.readonly:
        reader.wrong(disk, "the disk with <vbpreparecdrom> needs a <readonly/>")
    checksum = disk.find("vbcheckhash")
    if checksum is not None and tag is None:
        reader.wrong(checksum, "<vbcheckhash> checks the image of a <vbdisksource>, and this disk has none")
    is_disk = disk.get("device", "disk") in ("disk", "lun") and disk.find("source") is not None
    if tag is None and medium is None and is_disk and not reader.readonly:
        reader.wrong(disk, f"the disk {name} would be written by every job; "
                           "give it a <vbdisksource source='/path' copy_method='cow'/> or a <readonly/>")
    source: ImageSource | BlankSource | None = None
    if tag is not None:
        source = reader.blank(tag) if tag.get("create") else reader.image(tag)
    driver = disk.find("driver")
    name_stated, type_stated = ("", "") if driver is None else (driver.get("name", ""), driver.get("type", ""))
    return DiskTag(index, disk.sourceline or 0, name, reader.readonly, source, reader.user(source),
                   None if medium is None else _medium(medium, template, found),
                   name_stated, type_stated)


def known_format(stated: str) -> str:
    """VmBatch's name of the format that a template's <driver> states; raw where it states none of those."""
    return _FORMATS.get(stated, "raw")


def beside(template: str, path: str) -> str:
    """A path in a template: absolute, or a file beside it."""
    return os.path.normpath(os.path.join(os.path.dirname(template), path))


def _medium(tag: etree._Element, template: str, found: list[schema.Problem]) -> MediumTag:
    form, label = str(tag.get("format") or "vmbatch"), str(tag.get("label") or "")
    if label and form in ("nocloud", "configdrive", "opennebula"):
        found.append((tag.sourceline or 0, f"<vbpreparecdrom> label=: guests know a medium of the format '{form}' by its "
                                           "own label; take it out"))
    if tag.get("userdata") and form == "vmbatch":
        found.append((tag.sourceline or 0, "<vbpreparecdrom> userdata= goes with format='nocloud', 'configdrive', 'opennebula' "
                                           "or 'cernvm'"))
    userdata = str(tag.get("userdata") or "")
    return MediumTag(str(tag.get("source") or ""), form, label, beside(template, userdata) if userdata else "")
