"""From a template's text to what VmBatch must know of it. Nothing is fetched, expanded or changed."""

import os

import msgspec
from lxml import etree

from ..errors import InputError
from . import schema
from .disk import BlankSource, DiskTag, read_disk


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
    disks = [read_disk(index, disk, found) for index, disk in enumerate(root.findall("devices/disk"))]
    media = [tag for tag in disks if tag.medium is not None]
    wishes: set[str] = set()
    for tag in disks:
        if tag.user is not None and tag.user.name in wishes:
            found.append((tag.line, f"a second <vbuserimage> with the name '{tag.user.name}'; give it another name='...'"))
        wishes.update([tag.user.name] if tag.user else [])
    once: set[str] = set()
    for tag in disks:
        if isinstance(tag.source, BlankSource) and tag.source.once:
            if tag.source.name in once:
                found.append((tag.line, f"a second disk with create='once' and source='{tag.source.name}'; give it another name"))
            once.add(tag.source.name)
    if not media:
        devices = root.find("devices")
        line = (root if devices is None else devices).sourceline or 0
        found.append((line, "no <disk> has a <vbpreparecdrom source='context.iso'/>: the guest would get no context"))
    found.extend((tag.line, "a second <disk> with <vbpreparecdrom>; a guest has one context medium") for tag in media[1:])
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
    found.extend((element.sourceline or 0, f"<{element.tag!s}> is not in this version of VmBatch; take it out")
                 for element in root.iter("vbdisks"))
    return found


def _archive(tag: etree._Element, template: str) -> TarFile:
    on_medium = tag.get("option") == "cdrom"
    return TarFile(
        archive=os.path.normpath(os.path.join(os.path.dirname(template), tag.get("tarfile", ""))),
        directory=tag.get("path", "." if on_medium else "/"),
        strip=int(tag.get("strip", "0")),
        on_medium=on_medium,
    )
