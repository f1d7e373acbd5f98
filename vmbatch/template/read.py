"""From a template's text to what VmBatch must know of it. Nothing is fetched, expanded or changed."""

import os
import re

import msgspec
from lxml import etree

from ..errors import InputError
from . import schema


class ImageSource(msgspec.Struct, frozen=True):
    """A `vbdisksource`: a local image and how a job gets its own."""

    path: str
    method: str
    format: str


class DiskTag(msgspec.Struct, frozen=True):
    """A disk of the template: `index` counts the disks; `medium` is the file name of the context medium, if it is that."""

    index: int
    line: int
    target: str
    readonly: bool
    source: ImageSource | None
    medium: str | None


class TarFile(msgspec.Struct, frozen=True):
    """A `vbtarfile`: archive, directory to unpack into, leading directories to drop, whether onto the medium."""

    archive: str
    directory: str
    strip: int
    on_medium: bool


class Template(msgspec.Struct, frozen=True):
    """A checked template; `root` is the parsed document, not to be changed."""

    path: str
    root: etree._Element
    type: str
    method: str
    hypervisor: str
    disks: tuple[DiskTag, ...]
    archives: tuple[TarFile, ...]
    job_directory: str | None


_LATER = {
    "DISK": "vbpreparemethod DISK is not in this version of VmBatch; use CDROM",
    "ROOTSSH": "vbpreparemethod ROOTSSH is not in this version of VmBatch; use CDROM",
    "XEN": "vbhypervisor XEN is not in this version of VmBatch; use QEMU or KVM",
    "XEN3": "vbhypervisor XEN3 is not in this version of VmBatch; use QEMU or KVM",
    "XEN4": "vbhypervisor XEN4 is not in this version of VmBatch; use QEMU or KVM",
}


def parse(text: bytes, path: str) -> Template:
    """The template in `text`; InputError names every mistake with its line."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise InputError(path, [(error.lineno or 0, f"is not XML: {(error.msg or '').rsplit(', line', 1)[0]}")]) from None
    if root.getroottree().docinfo.doctype:
        raise InputError(path, [(1, "has a DOCTYPE; a template may have neither DTD nor entities")])
    if root.tag != "domain":
        raise InputError(path, [(root.sourceline or 0, f"is a <{root.tag!s}>, not a libvirt <domain>")])
    found = schema.problems(root) + _libvirt_problems(root)
    found.extend(_later(root))
    disks: list[DiskTag] = []
    for index, disk in enumerate(root.findall("devices/disk")):
        try:
            disks.append(_disk(index, disk))
        except _Mistake as mistake:
            found.append(mistake.problem)
    if not any(tag.medium for tag in disks) and not any("vbpreparecdrom" in text for _, text in found):
        line = (root.find("devices") if root.find("devices") is not None else root).sourceline or 0  # type: ignore[union-attr]
        found.append((line, "no <disk> has a <vbpreparecdrom source='context.iso'/>: the guest would get no context"))
    if found:
        raise InputError(path, found)
    return Template(
        path=path,
        root=root,
        type=root.get("type", ""),
        method=_text(root, "vbconfig/vbpreparemethod") or "CDROM",
        hypervisor=_text(root, "vbconfig/vbhypervisor") or root.get("type", "").upper(),
        disks=tuple(disks),
        archives=tuple(_archive(tag, path) for tag in root.findall("vbconfig/vbtarfiles/vbtarfile")),
        job_directory=_text(root, "vbconfig/vbjobpath") or None,
    )


class _Mistake(Exception):
    def __init__(self, element: etree._Element, text: str) -> None:
        super().__init__(text)
        self.problem = (element.sourceline or 0, text)


def _text(root: etree._Element, path: str) -> str:
    return (root.findtext(path) or "").strip()


def _libvirt_problems(root: etree._Element) -> list[schema.Problem]:
    found: list[schema.Problem] = []
    if not root.get("type"):
        found.append((root.sourceline or 0, "<domain> needs the attribute type, such as type='kvm'"))
    if root.get("type", "qemu") not in ("qemu", "kvm", "test"):
        found.append((root.sourceline or 0, f"<domain type='{root.get('type')}'> is not in this version of VmBatch; "
                                            "use type='kvm' or type='qemu'"))
    wanted = {"QEMU": "qemu", "KVM": "kvm", "TEST": "test"}.get(_text(root, "vbconfig/vbhypervisor"))
    if wanted and root.get("type") and root.get("type") != wanted:
        tag = root.find("vbconfig/vbhypervisor")
        line = 0 if tag is None else tag.sourceline or 0
        found.append((line, f"<vbhypervisor>{wanted.upper()}</vbhypervisor> in a <domain type='{root.get('type')}'>; "
                            f"it must be type='{wanted}'"))
    targets: set[str] = set()
    for target in root.findall("devices/disk/target"):
        name = target.get("dev", "")
        if name in targets:
            found.append((target.sourceline or 0, f"a second disk with the target dev='{name}'"))
        targets.add(name)
    found.extend((medium.sourceline or 0, "a second disk with <vbpreparecdrom>; there is one context medium")
                 for medium in [disk.find("vbpreparecdrom") for disk in root.findall("devices/disk[vbpreparecdrom]")[1:]]
                 if medium is not None)
    found.extend((tag.sourceline or 0, f"<vbtarfile> path='{tag.get('path')}' leads out of the medium")
                 for tag in root.iter("vbtarfile")
                 if tag.get("option") == "cdrom" and ".." in tag.get("path", "").split("/"))
    return found


def _later(root: etree._Element) -> list[schema.Problem]:
    """What a later version brings is refused, not ignored."""
    found: list[schema.Problem] = []
    for element in root.iter("vbpreparemethod", "vbhypervisor"):
        text = (element.text or "").strip()
        if text in _LATER:
            found.append((element.sourceline or 0, _LATER[text]))
    for element in root.iter("vbcheckhash", "vbuserimage", "vbdisks"):
        found.append((element.sourceline or 0, f"<{element.tag!s}> is not in this version of VmBatch; take it out"))
    for element in root.iter("vbdisksource"):
        line = element.sourceline or 0
        found.extend((line, f"<vbdisksource> {name}= is not in this version of VmBatch; take it out")
                     for name in ("create", "size", "format") if name in element.attrib)
        if element.get("copy_method") == "download" or "://" in element.get("source", ""):
            found.append((line, "<vbdisksource>: downloading is not in this version of VmBatch; name a local image"))
    return found


def _disk(index: int, disk: etree._Element) -> DiskTag:
    line = disk.sourceline or 0
    target = disk.find("target")
    if target is None or not target.get("dev"):
        raise _Mistake(disk, "<disk> has no <target dev='...'/>")
    if not re.fullmatch(r"[A-Za-z0-9]{1,32}", target.get("dev", "")):
        raise _Mistake(target, f"<target dev='{target.get('dev')}'>: expected a device such as 'vda'")
    readonly = disk.find("readonly") is not None
    source = disk.find("vbdisksource")
    medium = disk.find("vbpreparecdrom")
    if source is not None and medium is not None:
        raise _Mistake(medium, "<vbpreparecdrom> and <vbdisksource> in the same <disk>; give the medium a disk of its own")
    if medium is not None:
        if disk.get("type") != "file":
            raise _Mistake(disk, f"<disk type='{disk.get('type')}'>: the context medium needs type='file'")
        if not readonly:
            raise _Mistake(disk, "the disk with <vbpreparecdrom> needs a <readonly/>")
        return DiskTag(index, line, target.get("dev", ""), readonly, None, medium.get("source", ""))
    if source is not None:
        return DiskTag(index, line, target.get("dev", ""), readonly, _image(disk, source, readonly), None)
    if not readonly and disk.get("device", "disk") in ("disk", "lun") and disk.find("source") is not None:
        raise _Mistake(disk, f"the disk {target.get('dev')} would be written by every job; "
                             "give it a <vbdisksource source='/path' copy_method='cow'/> or a <readonly/>")
    return DiskTag(index, line, target.get("dev", ""), readonly, None, None)


def _image(disk: etree._Element, source: etree._Element, readonly: bool) -> ImageSource:
    path = source.get("source", "")
    driver = disk.find("driver")
    if disk.get("type") != "file":
        raise _Mistake(disk, f"<disk type='{disk.get('type')}'> with <vbdisksource>: it needs type='file'")
    if "://" not in path and (not path.startswith("/") or os.path.normpath(path) != path):
        raise _Mistake(source, f"<vbdisksource> source='{path}': expected an absolute path without '..'")
    form = source.get("source_format") or ("" if driver is None else driver.get("type", ""))
    if form not in ("raw", "qcow2"):
        raise _Mistake(source, "the image's format is not known: write <driver name='qemu' type='raw'/> or type='qcow2'; "
                               "it is never guessed")
    method = source.get("copy_method") or "shared"
    if method == "shared" and not readonly:
        method = "cow"
    return ImageSource(path, method, form)


def _archive(tag: etree._Element, template: str) -> TarFile:
    on_medium = tag.get("option") == "cdrom"
    return TarFile(
        archive=os.path.normpath(os.path.join(os.path.dirname(template), tag.get("tarfile", ""))),
        directory=tag.get("path", "." if on_medium else "/"),
        strip=int(tag.get("strip", "0")),
        on_medium=on_medium,
    )
