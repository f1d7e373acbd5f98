"""From a template to the domain of one job: our tags out, what must change changed, all else as the admin wrote it."""

import copy

import msgspec
from lxml import etree

from .credentials import add_oem_strings
from .devices import NodeDirectory, add_channel, add_console, add_directory, have_xen_console
from .read import Template
from .resources import set_cores, set_memory

OWNER = "urn:vmbatch:job:1"
_LIFECYCLE = ("on_poweroff", "on_reboot", "on_crash")


class DiskChange(msgspec.Struct, frozen=True):
    """The file behind a disk for this job; `format` is libvirt's, `backing` is (path, format) of the image below an overlay, and
    `deeper` that of the image below that.

    `shared`: the file is not this job's own. `driver` and `defaults`: the name of <driver>, and what else it gets where the
    template is silent. `device`: another one than the template's, or ''.
    """

    index: int
    path: str
    format: str
    backing: tuple[str, str] | None
    shared: bool = False
    driver: str = ""
    defaults: dict[str, str] = {}
    device: str = ""
    deeper: tuple[str, str] | None = None


class DriverChange(msgspec.Struct, frozen=True):
    """Another driver for a disk that is otherwise as the template has it."""

    index: int
    driver: str
    type: str
    device: str = ""


class InterfaceChange(msgspec.Struct, frozen=True):
    """Of an interface: its MAC, its name on the node, '' for one of libvirt's, and whether its bridge keeps it apart."""

    mac: str
    name: str = ""
    isolated: bool = False


class DomainChange(msgspec.Struct, frozen=True, kw_only=True):
    """All that is this job's own in its domain.

    `console` is the path of the log, '' where the hypervisor cannot write one; `shell_console` the guest's name of a console for
    the job, `hvc0` or `ttyS1`, or ''.
    `cores` and `memory` (bytes) replace the template's own; None for these.
    """

    name: str
    uuid: str
    job: str
    token: str
    user: str
    console: str
    shell_console: str
    kernel_words: str
    oem_strings: tuple[str, ...]
    channel: bool
    directories: tuple[NodeDirectory, ...]
    interfaces: tuple[InterfaceChange, ...]
    disks: tuple[DiskChange, ...]
    drivers: tuple[DriverChange, ...] = ()
    cores: int | None = None
    memory: int | None = None


def domain_xml(template: Template, change: DomainChange) -> bytes:
    """The exact XML for libvirt."""
    root = copy.deepcopy(template.root)
    identify(root, change)
    disks = root.findall("devices/disk")
    for disk in change.disks:
        replace_image(disks[disk.index], disk)
    for other in change.drivers:
        driver = disks[other.index].find("driver")
        if driver is not None:
            driver.set("name", other.driver)
            driver.set("type", other.type)
            if other.device:
                disks[other.index].set("device", other.device)
    for element in list(root.iter()):
        if isinstance(element.tag, str) and element.tag.startswith("vb"):
            _take_out(element)
    if change.cores is not None:
        set_cores(root, change.cores, template.resources.core_step)
    if change.memory is not None:
        set_memory(root, change.memory)
    for name in _LIFECYCLE:
        _set(root, name).text = "destroy"
    line = root.find("os/cmdline")
    if change.kernel_words and line is not None:
        line.text = f"{(line.text or '').strip()} {change.kernel_words}"
    add_oem_strings(root, change.oem_strings)
    devices = root.find("devices")
    if devices is not None:
        if root.get("type") == "xen":
            have_xen_console(devices)
        else:
            _log_console(devices, change.console)
            if change.shell_console:
                add_console(devices, change.shell_console)
        if change.channel:
            add_channel(devices)
        for shown in change.directories:
            add_directory(root, devices, shown)
        _set_interfaces(devices, change.interfaces)
    return etree.tostring(root, encoding="utf-8")


def identify(root: etree._Element, change: DomainChange) -> None:
    """Gives a domain its name, uuid and owner."""
    for tag, text in (("uuid", change.uuid), ("name", change.name)):
        element = root.find(tag)
        if element is None:
            element = etree.Element(tag)
            element.tail = "\n  "
            root.insert(0, element)
        element.text = text
    metadata = _set(root, "metadata")
    for copied in metadata.findall(f"{{{OWNER}}}job"):  # from a running guest's XML
        _take_out(copied)
    owner = etree.SubElement(metadata, f"{{{OWNER}}}job", nsmap={"vmbatch": OWNER})
    for key, value in (("id", change.job), ("token", change.token), ("user", change.user)):
        owner.set(key, value)


def _set(root: etree._Element, tag: str) -> etree._Element:
    element = root.find(tag)
    if element is None:
        element = etree.SubElement(root, tag)
        element.tail = "\n"
    return element


def _take_out(element: etree._Element) -> None:
    """Removes an element; the white space around it goes, other text stays."""
    parent = element.getparent()
    if parent is None:
        return
    before = element.getprevious()
    if element.tail and (element.tail.strip() or element.getnext() is None):
        if before is None:
            parent.text = element.tail
        else:
            before.tail = element.tail
    parent.remove(element)


def replace_image(disk: etree._Element, change: DiskChange) -> None:
    """Puts a job's file behind a disk."""
    disk.set("type", "file")
    if change.device:
        disk.set("device", change.device)
    driver = disk.find("driver")
    if driver is None:
        driver = etree.Element("driver")
        disk.insert(0, driver)
    if change.driver:
        driver.set("name", change.driver)
    driver.set("type", change.format)
    for name, value in change.defaults.items():
        if name not in driver.attrib:
            driver.set(name, value)
    source = disk.find("source")
    if source is None:
        source = etree.Element("source")
        _add_after(driver, source)
    for name in list(source.attrib):
        if name in ("file", "dev", "volume", "pool"):
            del source.attrib[name]
    source.set("file", change.path)
    if change.shared:
        _leave_owner(source)
    for old in disk.findall("backingStore"):
        disk.remove(old)
    chain = etree.Element("backingStore")
    _add_after(source, chain)
    for below in filter(None, (change.backing, change.deeper)):
        path, form = below
        chain.set("type", "file")
        etree.SubElement(chain, "format", {"type": form})
        _leave_owner(etree.SubElement(chain, "source", {"file": path}))
        chain = etree.SubElement(chain, "backingStore")


def _leave_owner(source: etree._Element) -> None:
    """Keeps libvirt from giving an image that jobs share to QEMU's account (src/security/security_dac.c)."""
    for old in source.findall("seclabel"):
        source.remove(old)
    etree.SubElement(source, "seclabel", {"model": "dac", "relabel": "no"})


def _add_after(element: etree._Element, new: etree._Element) -> None:
    """Puts a new element behind another one, on a line of its own if that has one."""
    space = element.tail
    element.addnext(new)
    element.tail = new.tail = space


def _log_console(devices: etree._Element, path: str) -> None:
    """Has the first console written to a file; a guest without any gets a serial port."""
    console = devices.find("serial") if devices.find("serial") is not None else devices.find("console")
    if console is None:
        console = etree.SubElement(devices, "serial", {"type": "pty"})
        console.tail = "\n"
    log = console.find("log")
    if log is None:
        log = etree.SubElement(console, "log")
    log.set("file", path)
    log.set("append", "off")


def _set_interfaces(devices: etree._Element, changes: tuple[InterfaceChange, ...]) -> None:
    for interface, change in zip(devices.findall("interface"), changes, strict=True):
        element = interface.find("mac")
        if element is None:
            element = etree.Element("mac")
            interface.insert(0, element)
        element.set("address", change.mac)
        if change.name:
            target = interface.find("target")
            (etree.SubElement(interface, "target") if target is None else target).set("dev", change.name)
        if change.isolated:
            port = interface.find("port")
            (etree.SubElement(interface, "port") if port is None else port).set("isolated", "yes")
