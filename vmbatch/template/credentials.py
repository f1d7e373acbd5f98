"""A domain whose firmware carries strings for the guest: <sysinfo>, and <smbios mode='sysinfo'/> in <os>."""

from collections.abc import Iterable

from lxml import etree

from . import schema


def check_firmware(root: etree._Element, found: list[schema.Problem]) -> None:
    """Whether strings can be added to a template's firmware."""
    smbios = root.find("os/smbios")
    if smbios is not None and smbios.get("mode") == "host":
        found.append((smbios.sourceline or 0, "<smbios mode='host'/> shows the node's own firmware, to which systemd credentials "
                                              "cannot be added; write mode='sysinfo', or take it out"))


def add_oem_strings(root: etree._Element, strings: Iterable[str]) -> None:
    """Adds the strings to what the template has; it must have passed `check_firmware`."""
    texts = tuple(strings)
    system = root.find("os")
    if not texts or system is None:
        return
    smbios = system.find("smbios")
    (etree.SubElement(system, "smbios") if smbios is None else smbios).set("mode", "sysinfo")
    info = root.find("sysinfo[@type='smbios']")
    if info is None:
        info = etree.Element("sysinfo", {"type": "smbios"})
        system.addnext(info)
        info.tail, system.tail = system.tail, "\n  "
    oem = info.find("oemStrings")
    if oem is None:
        oem = etree.SubElement(info, "oemStrings")
    for text in texts:
        etree.SubElement(oem, "entry").text = text
