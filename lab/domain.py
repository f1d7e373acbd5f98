"""Domain XML for the lab's own proof that its guests boot; jobs use the templates in `etc/domains`."""

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

QUICK = "console=ttyS0 quiet mitigations=off cryptomgr.notests=1 nokaslr no_timer_check"
"""Kernel options that save a third of the boot under emulation."""


class Parts(NamedTuple):
    """A guest's files: the directory of its images, its own disk (qcow2) or none, its medium or none, where its console goes."""

    images: Path
    disk: Path | None
    medium: Path | None
    console: Path
    append: str


def domain(name: str, memory_mib: int, parts: Parts) -> str:
    """A guest that boots from its disk (with `initrd.cpio`) or without one (from `guest.cpio`)."""
    root = Element("domain", type="qemu")
    for tag, text in (("name", name), ("vcpu", "1")):
        SubElement(root, tag).text = text
    SubElement(root, "memory", unit="MiB").text = str(memory_mib)
    system = SubElement(root, "os")
    SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    SubElement(system, "kernel").text = str(parts.images / "vmlinux")
    SubElement(system, "initrd").text = str(parts.images / ("initrd.cpio" if parts.disk else "guest.cpio"))
    root_disk = "root=/dev/vda1 rw" if parts.disk else ""
    SubElement(system, "cmdline").text = " ".join(f"{QUICK} {root_disk} {parts.append}".split())
    SubElement(SubElement(root, "features"), "acpi")
    cpu = SubElement(root, "cpu", mode="custom", match="exact", check="none")
    SubElement(cpu, "model", fallback="allow").text = "qemu64"
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        SubElement(root, event).text = "destroy"
    _devices(SubElement(root, "devices"), parts)
    return ElementTree.tostring(root, encoding="unicode")


def _devices(devices: Element, parts: Parts) -> None:
    SubElement(devices, "controller", type="usb", model="none")
    if parts.disk:
        _disk(devices, "disk", parts.disk, "qcow2", "vda", "virtio")
    if parts.medium:
        SubElement(_disk(devices, "disk", parts.medium, "raw", "vdz", "virtio"), "readonly")  # a CD on SCSI boots 0.3 s later
    interface = SubElement(devices, "interface", type="network")
    SubElement(interface, "source", network="lab")
    SubElement(interface, "model", type="virtio")
    SubElement(interface, "rom", enabled="no")
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=str(parts.console))
    SubElement(devices, "memballoon", model="none")
    rng = SubElement(devices, "rng", model="virtio")
    SubElement(rng, "backend", model="random").text = "/dev/urandom"


def _disk(devices: Element, device: str, path: Path, form: str, target: str, bus: str) -> Element:
    disk = SubElement(devices, "disk", type="file", device=device)
    SubElement(disk, "driver", name="qemu", type=form)
    SubElement(disk, "source", file=str(path))
    SubElement(disk, "target", dev=target, bus=bus)
    return disk
