"""Devices that a guest gets beside the template's own: consoles, directories of the node, a channel for messages."""

import msgspec
from lxml import etree

CHANNEL = "org.vmbatch.0"
"""The name of the virtio-serial port in the guest: /dev/virtio-ports/NAME, /sys/class/virtio-ports/*/name."""


class NodeDirectory(msgspec.Struct, frozen=True):
    """A directory of the node that a guest mounts by `tag`; `kind` is virtiofs or 9p."""

    kind: str
    path: str
    tag: str
    readonly: bool


def add_console(devices: etree._Element, device: str) -> None:
    """A console of the job's own, `hvc0` or `ttyS1`, beside the one that is logged; libvirt gives it a pty."""
    if device.startswith("hvc"):
        console = etree.SubElement(devices, "console", {"type": "pty"})
        etree.SubElement(console, "target", {"type": "virtio", "port": device.removeprefix("hvc")})
    else:
        for number, serial in enumerate(devices.findall("serial")):  # libvirt would number them behind ours
            target = serial.find("target")
            target = etree.SubElement(serial, "target") if target is None else target
            if target.get("port") is None:
                target.set("port", str(number))
        console = etree.SubElement(devices, "serial", {"type": "pty"})
        etree.SubElement(console, "target", {"port": device.removeprefix("ttyS")})
    console.tail = "\n"


def have_xen_console(devices: etree._Element) -> None:
    """Xen's own console, hvc0 in the guest, with a pty: it is the only one, and libxl (libvirt 9) writes no log of it."""
    console = devices.find("console")
    if console is None:
        console = etree.SubElement(devices, "console")
        etree.SubElement(console, "target", {"type": "xen", "port": "0"})
        console.tail = "\n"
    console.set("type", "pty")


def console_path(xml: str, device: str) -> str | None:
    """The pty behind a console of a running domain, out of its XML."""
    hvc = "console[target[@type='virtio' or @type='xen']]"
    kind = hvc if device.startswith("hvc") else f"serial[target[@port='{device[4:]}']]"
    return _first(xml, f"devices/{kind}[@type='pty']/source/@path")


def add_channel(devices: etree._Element) -> None:
    """The port for messages; libvirt chooses its socket, and removes that with the domain."""
    channel = etree.SubElement(devices, "channel", {"type": "unix"})
    etree.SubElement(channel, "source", {"mode": "bind"})
    etree.SubElement(channel, "target", {"type": "virtio", "name": CHANNEL})
    channel.tail = "\n"


def channel_path(xml: str) -> str | None:
    """The socket of a running domain's port for messages, out of its XML."""
    return _first(xml, f"devices/channel[target[@name='{CHANNEL}']]/source/@path")


def add_directory(root: etree._Element, devices: etree._Element, shown: NodeDirectory) -> None:
    """A directory of the node, for the guest to mount.

    virtiofsd is root on the node, and so is the guest's root in the directory: libvirt 9 can map no ids. 9p is done by QEMU with
    the rights of its own account, to which all belongs that the guest makes (`squash`).
    """
    element = etree.SubElement(devices, "filesystem", {"type": "mount",
                                                       "accessmode": "passthrough" if shown.kind == "virtiofs" else "squash"})
    if shown.kind == "virtiofs":
        etree.SubElement(element, "driver", {"type": "virtiofs"})
        _share_memory(root)
    etree.SubElement(element, "source", {"dir": shown.path})
    etree.SubElement(element, "target", {"dir": shown.tag})
    if shown.readonly:
        etree.SubElement(element, "readonly")
    element.tail = "\n"


def _share_memory(root: etree._Element) -> None:
    """virtiofsd works in the guest's memory."""
    backing = root.find("memoryBacking")
    if backing is None:
        backing = etree.SubElement(root, "memoryBacking")
        backing.tail = "\n"
    if backing.find("hugepages") is None and backing.find("source") is None:
        etree.SubElement(backing, "source", {"type": "memfd"})
    access = backing.find("access")
    (etree.SubElement(backing, "access") if access is None else access).set("mode", "shared")


def _first(xml: str, path: str) -> str | None:
    found = etree.fromstring(xml.encode()).xpath(path)
    return str(found[0]) if isinstance(found, list) and found else None
