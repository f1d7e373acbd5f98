"""Disks of published templates under Xen's profiles: what libvirt is told, what the log says, what is refused."""

import re
from pathlib import Path

import pytest
from lxml import etree

from vmbatch.errors import SiteError
from vmbatch.plan import Plan, plan
from vmbatch.template import parse

from .published import DISKS
from .sample import facts, job, settings

DOCUMENT = Path(__file__).parents[2] / "docs/xen.md"
MEDIUM = ("<disk type='file'><driver name='qemu' type='raw'/><vbpreparecdrom source='other.iso'/><target dev='xvdz'/><readonly/>"
          "</disk>")
XEN = settings(libvirt_uri="xen:///system")
PROFILES = ("XEN3", "XEN4", "XEN")
GONE = "is not in today's libxl"


def made(name: str, hypervisor: str) -> Plan:
    """A job's plan with one published disk, and a medium where it is none."""
    text, image = DISKS[name]
    named = f"<vbconfig><vbhypervisor>{hypervisor}</vbhypervisor></vbconfig>"
    devices = f"<disk type='file' device='disk'>{text}</disk>{MEDIUM if 'vbpreparecdrom' not in text else ''}"
    boot = "<os><type>linux</type><kernel>/boot/vmlinuz</kernel></os>"
    whole = f"<domain type='xen'>{named}{boot}<devices>{devices}</devices></domain>"
    template = parse(whole.encode(), "/etc/vmbatch/domains/sample.xml")
    known = facts(text=f"<domain type='test'><devices>{MEDIUM}</devices></domain>", images={} if image is None else {0: image})
    return plan(job(), template, XEN, known)


def outcome(name: str, hypervisor: str) -> str:
    """What becomes of it, as the table in docs/xen.md says it."""
    try:
        chosen = made(name, hypervisor)
    except SiteError as error:
        return f"refused: {error.what.partition('disk ')[2].partition(': ')[2]}"
    disk = etree.fromstring(chosen.xml).find("devices/disk")
    assert disk is not None
    driver = disk.find("driver")
    assert driver is not None
    opened = f"{driver.get('name')}/{driver.get('type')}" + (" as a CD" if disk.get("device") == "cdrom" else "")
    return f"{opened}{'; said' if any(note.startswith('disk ') for note in chosen.notes) else ''}"


@pytest.mark.parametrize("hypervisor", PROFILES)
@pytest.mark.parametrize("name", DISKS)
def test_the_table(name: str, hypervisor: str) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.read_text().splitlines()
            if line.startswith(f"| {name} |")]
    assert len(rows) == 1, f"docs/xen.md has one row for: {name}"
    assert rows[0][2 + PROFILES.index(hypervisor)] == outcome(name, hypervisor)


def test_the_table_has_nothing_else() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| `", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(DISKS)


@pytest.mark.parametrize(("name", "hypervisor", "notes"), [
    ("boot disk, downloaded", "XEN4", [f"disk xvdb: driver qemu with type raw opens it: tap2 {GONE}"]),
    ("cache, new for each job", "XEN4", [
        "vhd-util is not on this node; VmBatch writes vhd itself",
        f"disk xvdaa: driver qemu with type vhd opens it: tap2 {GONE}"]),
    ("cache, made once", "XEN4", [f"disk xvdaa: driver qemu with type qcow2 opens it: tap2 {GONE}"]),
    ("medium", "XEN4", [f"disk xvdc: driver qemu with type raw opens it: tap2 {GONE}"]),
    ("copy-on-write as VHD", "XEN4", [
        "disk xvda: the overlay is qcow2, as driver qemu would not read the image below one in the format vhd",
        f"disk xvda: driver qemu with type qcow2 opens it: tap2 {GONE}"]),
    ("copy-on-write as Xen's qcow", "XEN3", [
        "disk xvda: the overlay is qcow2, as driver qemu would not read the image below one in the format qcow",
        f"disk xvda: driver qemu with type qcow2 opens it: tap {GONE}"]),
    ("a raw file by loop", "XEN3", []),
])
def test_what_the_log_says(name: str, hypervisor: str, notes: list[str]) -> None:
    assert list(made(name, hypervisor).notes) == notes


@pytest.mark.parametrize(("name", "hypervisor", "lines"), [
    ("boot disk, downloaded", "XEN", [
        "disk xvdb: XEN has no disk driver tap2 "
        "(write one of qemu, phy, file, such as <driver name='qemu' type='raw'/>)"]),
    ("boot disk, downloaded", "XEN3", ["disk xvdb: XEN3 has no disk driver tap2 (write one of qemu, phy, file, tap)"]),
    ("a VHD, copied", "XEN3", ["disk xvda: XEN3 has no disk driver tap2 (write one of qemu, phy, file, tap)"]),
    ("a qcow, copied", "XEN4", [
        "disk xvda: XEN4's disk driver tap does not open images in the format qcow (it opens raw, vhd, vhd-fixed)"]),
    ("a qcow, copied", "XEN3", [
        "disk xvda: no disk driver of today's libxl opens images in the format qcow "
        "(make another one of it, once: qemu-img convert -O qcow2)"]),
])
def test_what_is_refused(name: str, hypervisor: str, lines: list[str]) -> None:
    with pytest.raises(SiteError) as caught:
        made(name, hypervisor)
    assert [line.split("sample.xml:1: ")[-1] for line in caught.value.lines()] == lines


def test_a_disk_of_the_admins_own_is_translated_too() -> None:
    own = ("<disk type='file' device='disk'><driver name='tap2' type='aio'/><source file='/srv/data.raw'/><target dev='xvde'/>"
           "<readonly/></disk>")
    text = f"""<domain type='xen'><vbconfig><vbhypervisor>XEN4</vbhypervisor></vbconfig>
        <os><type>linux</type><kernel>/boot/vmlinuz</kernel></os><devices>{own}{MEDIUM}</devices></domain>"""
    chosen = plan(job(), parse(text.encode(), "t.xml"), XEN, facts(text=text))
    assert chosen.notes == (f"disk xvde: driver qemu with type raw opens it: tap2 {GONE}",)
    disk = etree.fromstring(chosen.xml).find("devices/disk[@device='cdrom']/source[@file='/srv/data.raw']/..")
    assert disk is not None
    assert etree.tostring(disk).decode().startswith('<disk type="file" device="cdrom"><driver name="qemu" type="raw"/>')


def test_a_device_stays_the_kernels() -> None:
    own = ("<disk type='block' device='disk'><driver name='phy'/><source dev='/dev/vg/data'/><target dev='xvde'/>"
           "<readonly/></disk>")
    text = f"""<domain type='xen'><os><type>linux</type><kernel>/boot/vmlinuz</kernel></os>
        <devices>{own}{MEDIUM}</devices></domain>"""
    chosen = plan(job(), parse(text.encode(), "t.xml"), XEN, facts(text=text))
    assert chosen.notes == ()
    assert own.replace("'", '"') in chosen.xml.decode()
