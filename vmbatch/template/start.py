"""How guests of a template start: by a boot, from a saved one, or taken from those that wait; and the domains of saved ones."""

import copy

import msgspec
from lxml import etree

from .read import Template
from .write import DiskChange, DomainChange, identify, replace_image

_UNSAVED = ("hostdev", "filesystem", "vsock", "tpm", "shmem", "memory", "redirdev", "smartcard")
"""Devices whose state libvirt or QEMU does not save, or that no two guests may have the same."""
_BUSES = ("virtio", "scsi")
"""On which a running guest gets and loses disks."""


class Places(msgspec.Struct, frozen=True):
    """Where on its buses a booted guest has what a saved one lacks: <address> of each interface, and of the medium."""

    interfaces: tuple[str, ...]
    medium: str


def digest_text(template: Template) -> str:
    """What of a template shapes its guests: all but comments and how it is written."""
    return etree.tostring(template.root, method="c14n", with_comments=False).decode()


def files(template: Template) -> tuple[str, ...]:
    """The files of the node that its guests have, beside the disks that VmBatch makes."""
    found = [template.root.findtext(f"os/{name}") or "" for name in ("kernel", "initrd", "loader")]
    found += [source.get("file", "") for disk in template.root.findall("devices/disk") if disk.find("vbdisksource") is None
              for source in disk.findall("source")]
    return tuple(text.strip() for text in found if text.strip())


def obstacle(template: Template) -> str:
    """Why no guest of a template can be saved and made many of, in words; '' if one can."""
    root = template.root
    if template.type not in ("qemu", "kvm"):
        return "only guests of QEMU and KVM can be saved"
    kind = root.find("os/type")
    if kind is None or kind.get("arch") != "x86_64":
        return "only guests with <type arch='x86_64'> can be saved"
    if any(root.find(path) is not None for path in ("os[@firmware]", "os/nvram", "os/loader[@type='pflash']")):
        return "its firmware has variables of its own, <nvram>; guests that BIOS or <kernel> boots can be saved"
    clock = root.find("clock")
    if clock is not None and clock.get("offset") != "utc":
        return "its <clock> has another offset than 'utc', by which a guest sets its own"
    for name in _UNSAVED:
        if root.find(f"devices/{name}") is not None:
            return f"it has a <{name}>, which cannot be saved"
    strange = root.find("devices/interface[@type='hostdev']")
    if strange is not None:
        return "it has an <interface type='hostdev'>, which cannot be saved"
    return _context_obstacle(template) or _disk_obstacle(template)


def _context_obstacle(template: Template) -> str:
    if template.method != "CDROM":
        return f"its guests get their context by {template.method}, and one that is there already takes it from a medium alone"
    media = [tag for tag in template.disks if tag.medium is not None]
    if len(media) != 1 or media[0].medium is None or media[0].medium.form != "vmbatch":
        return "its guests get more than VmBatch's own medium, of which others do not wait for a second one"
    disk = template.root.findall("devices/disk")[media[0].index]
    target = disk.find("target")
    if disk.get("device", "disk") != "disk" or target is None or target.get("bus") not in _BUSES:
        return "its medium is a drive that stays; write <disk type='file' device='disk'> with <target bus='virtio'/>"
    if template.kernel_line:
        return "<vbkernelline> tells the user to the kernel as it boots"
    if any(share.of_node for share in template.shares):
        return "it has a <vbshare> of the node's own, which cannot be saved"
    return ""


def _disk_obstacle(template: Template) -> str:
    for tag in template.disks:
        if getattr(tag.source, "once", False):
            return f"disk {tag.target} is made by the first job, with create='once'"
        if getattr(tag.source, "method", "") == "download":
            return f"disk {tag.target} is downloaded for each job, with copy_method='download'"
    return ""


def pool_obstacle(template: Template) -> str:
    """Why no guest of a template can wait before it is anybody's, in words; '' if one can."""
    if template.type not in ("qemu", "kvm", "test"):
        return "only guests of QEMU and KVM have the port by which one that waits hears of its job"
    if template.method != "CDROM":
        return f"its guests get their context by {template.method}, and one that is to wait gets it from a medium alone"
    if any(tag.medium is not None and tag.medium.form != "vmbatch" for tag in template.disks):
        return "its guests get more than VmBatch's own medium, which tells who the user is as they boot"
    if template.kernel_line:
        return "<vbkernelline> tells the user to the kernel as it boots"
    if template.root.find("devices/interface[@type='user']") is not None:
        return "it has QEMU's own user network, through which nobody but its job has a way to it"
    if template.console_shell:
        return "its jobs come by <vbshell>CONSOLE</vbshell>, and a guest that waits is logged in to by ssh"
    return next((f"disk {tag.target} is made by the first job, with create='once'" for tag in template.disks
                 if getattr(tag.source, "once", False)), "")


def places(layout: str, template: Template) -> Places:
    """Of a domain with all devices, as libvirt has laid it out."""
    devices = _devices(etree.fromstring(layout.encode()))
    found = [_address(element) for element in (*devices.findall("interface"), _medium(devices, template))]
    return Places(tuple(found[:-1]), found[-1])


def waiting_xml(layout: str) -> str:
    """The domain of a guest that is to be saved: as libvirt has laid it out, without its interfaces."""
    root = etree.fromstring(layout.encode())
    devices = _devices(root)
    for interface in devices.findall("interface"):
        devices.remove(interface)
    _forget_labels(root)
    return etree.tostring(root, encoding="unicode")


def medium_xml(layout: str, template: Template) -> str:
    """The medium of a domain, to be taken away from it."""
    return etree.tostring(_medium(_devices(etree.fromstring(layout.encode())), template), encoding="unicode")


def resumed_xml(saved: str, template: Template, change: DomainChange, disks: tuple[DiskChange, ...]) -> bytes:
    """A job's domain in place of the one that libvirt has saved, with these disks: as `domain_xml`, but laid out as that."""
    root = etree.fromstring(saved.encode())
    identify(root, change)
    devices = _devices(root)
    logged = devices.find("*/log")
    before = None if logged is None else logged.get("file")
    there = {target.get("dev"): disk for disk in devices.findall("disk") if (target := disk.find("target")) is not None}
    for disk in disks:
        replace_image(there[template.disks[disk.index].target], disk)
    for log in devices.iter("log"):  # a serial port is a console, too, and stands there twice
        if log.get("file") == before:
            log.set("file", change.console)
    _forget_labels(root)
    return etree.tostring(root, encoding="utf-8")


def added_xml(domain: bytes, template: Template, at: Places) -> tuple[bytes, ...]:
    """What of a job's domain a resumed guest lacks: its interfaces and its medium, each where a booted one has it."""
    devices = _devices(etree.fromstring(domain))
    found = []
    wanted = zip((*devices.findall("interface"), _medium(devices, template)), (*at.interfaces, at.medium), strict=True)
    for element, address in wanted:
        for old in (*element.findall("address"), *element.findall("boot")):  # nobody boots from it any more
            element.remove(old)
        element.append(etree.fromstring(address))
        found.append(etree.tostring(element, encoding="utf-8", with_tail=False))
    return tuple(found)


def _devices(root: etree._Element) -> etree._Element:
    devices = root.find("devices")
    return etree.SubElement(root, "devices") if devices is None else devices


def _medium(devices: etree._Element, template: Template) -> etree._Element:
    name = next(tag.target for tag in template.disks if tag.medium is not None)
    return copy.deepcopy(next(disk for disk in devices.findall("disk")
                              if (target := disk.find("target")) is not None and target.get("dev") == name))


def _address(element: etree._Element) -> str:
    address = element.find("address")
    return "" if address is None else etree.tostring(address, encoding="unicode", with_tail=False)


def _forget_labels(root: etree._Element) -> None:
    """libvirt makes the security labels of each domain itself."""
    for label in root.findall("seclabel[@type='dynamic']"):
        root.remove(label)
