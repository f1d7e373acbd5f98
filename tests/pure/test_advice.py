"""What is said of templates whose guests could start sooner: each kind, with and without what it is about."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmbatch import hooked, template
from vmbatch.cli import main
from vmbatch.doctor.delays import judge_network
from vmbatch.template import schema
from vmbatch.template.advice import KINDS, Advice, advise

from .sample import settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples/domains").glob("*.xml"))
GIB = 1 << 30
LEAN = """<domain type='kvm'>
  <name>lean</name>
  <vbconfig><vbhypervisor>KVM</vbhypervisor></vbconfig>
  <memory unit='GiB'>2</memory>
  <os><type machine='q35'>hvm</type><boot dev='hd'/></os>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe'/>
      <vbdisksource source='/srv/images/base.raw' copy_method='cow'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <vbpreparecdrom source='context.iso'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
  </devices>
</domain>
"""
BOOT = "<boot dev='hd'/>"
KERNEL = "<kernel>/k</kernel><cmdline>{}</cmdline>"
USB = "<controller type='usb' model='none'/>"
MEDIUM = "<target dev='vdb' bus='virtio'/>"
SIZES = {0: 3 * GIB}


def advice(text: str) -> list[Advice]:
    return advise(template.parse(text.encode(), "/t.xml"), SIZES)


def changed(old: str, new: str) -> str:
    assert old in LEAN
    return LEAN.replace(old, new, 1)


def test_a_lean_template() -> None:
    assert advice(LEAN) == []


@pytest.mark.parametrize(("name", "old", "new"), [
    ("boot-menu", BOOT, "<boot dev='hd'/><bootmenu enable='yes'/>"),
    ("network-boot", BOOT, "<boot dev='network'/><boot dev='hd'/>"),
    ("uefi", "<os>", "<os firmware='efi'>"),
    ("uefi", BOOT, "<boot dev='hd'/><loader type='pflash' readonly='yes'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"),
    ("debug", BOOT, KERNEL.format("root=/dev/vda1 debug console=ttyS0")),
    ("usb", USB, ""),
    ("usb", USB, "<controller type='usb' model='qemu-xhci'/>"),
    ("medium", MEDIUM, "<target dev='sda' bus='scsi'/>"),
    ("medium", MEDIUM, "<target dev='hda' bus='ide'/>"),
    ("memory", "<os>", "<memoryBacking><allocation mode='immediate'/></memoryBacking><os>"),
    ("memory", "<os>", "<memoryBacking><locked/></memoryBacking><os>"),
    ("copy", "copy_method='cow'", "copy_method='copy'"),
])
def test_what_slows_a_start(name: str, old: str, new: str) -> None:
    (found,) = advice(changed(old, new))
    assert found.name == name
    assert found.seconds >= 0.2
    assert found.found
    assert found.remedy
    declined = changed(old, new).replace("</vbconfig>", f"<vbadvice without='{name}'/></vbconfig>")
    assert advice(declined) == []


@pytest.mark.parametrize(("old", "new"), [
    (BOOT, "<boot dev='hd'/><bootmenu enable='no'/>"),
    (BOOT, "<boot dev='network'/>"),
    (BOOT, "<boot dev='hd'/><boot dev='network'/>"),
    (BOOT, "<kernel>/k</kernel><boot dev='network'/><boot dev='hd'/>"),
    ("<os>", "<os firmware='bios'>"),
    (BOOT, "<boot dev='hd'/><loader type='rom'>/usr/share/seabios/bios.bin</loader>"),
    (BOOT, KERNEL.format("root=/dev/vda1 console=ttyS0 systemd.debug_shell nodebug")),
    ("cache='unsafe'", "cache='none' io='native'"),
    ("cache='unsafe'", "cache='directsync'"),
    (" cache='unsafe'", ""),
    ("<os>", "<memoryBacking><allocation mode='ondemand'/></memoryBacking><os>"),
    ("<target dev='vda' bus='virtio'/>", "<target dev='sda' bus='scsi'/>"),
    ("<devices>", "<devices><graphics type='vnc'/><sound model='ich9'/>"),
])
def test_what_does_not(old: str, new: str) -> None:
    assert advice(changed(old, new)) == []


def test_seconds_that_grow() -> None:
    """With the timeout, with the guest's memory, with the image."""
    menu = "<bootmenu enable='yes' timeout='{}'/>"
    assert [advice(changed(BOOT, menu.format(wait)))[0].seconds for wait in (0, 500, 8000)] == [0.0, 0.5, 8.0]
    at_once = changed("<os>", "<memoryBacking><locked/></memoryBacking><os>")
    small, large = (advice(at_once.replace(">2<", f">{size}<"))[0].seconds for size in (2, 8))
    assert large == pytest.approx(4 * small, abs=0.2)
    form = template.parse(changed("'cow'", "'copy'").encode(), "/t.xml")
    whole, third = advise(form, SIZES), advise(form, {0: GIB})
    assert whole[0].seconds == pytest.approx(3 * third[0].seconds, abs=0.2)
    assert "3072 MiB" in whole[0].found
    assert advise(form, {}) == []  # nobody knows how much


def test_lines_and_order() -> None:
    found = advice(changed(MEDIUM, "<target dev='sda' bus='scsi'/>").replace("<os>", "<os firmware='efi'>"))
    assert [(each.name, each.line) for each in found] == [("uefi", 5), ("medium", 15)]


def test_both_are_declined_and_one_remains() -> None:
    text = changed(MEDIUM, "<target dev='sda' bus='scsi'/>").replace("<os>", "<os firmware='efi'>").replace("'cow'", "'copy'")
    declined = text.replace("</vbconfig>", "<vbadvice without='copy\n uefi'/></vbconfig>")
    assert [each.name for each in advice(text)] == ["uefi", "copy", "medium"]
    assert [each.name for each in advice(declined)] == ["medium"]


def test_xen_has_other_devices() -> None:
    text = (ROOT / "examples/domains/xen-debian.xml").read_text()
    text = text.replace("bus='xen'/>\n      <readonly/>", "bus='ide'/><readonly/>")
    assert "bus='ide'" in text
    assert advise(template.parse(text.encode(), "/t.xml"), {}) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_none(path: Path) -> None:
    form = template.parse(path.read_bytes(), str(path))
    assert advise(form, {tag.index: GIB for tag in form.disks}) == []


def test_only_the_example_of_copies_declines_advice() -> None:
    declined = {path.stem: form.without_advice for path in EXAMPLES
                if (form := template.parse(path.read_bytes(), str(path))).without_advice}
    assert declined == {"copy": ("copy",)}


def test_the_schema_knows_the_kinds() -> None:
    values = {value.text for value in schema.tags()["vbadvice"].iter("{http://relaxng.org/ns/structure/1.0}value")}
    assert values == {kind.name for kind in KINDS}


def test_the_page_has_the_kinds() -> None:
    """With the seconds that are said."""
    page = (ROOT / "docs/performance.md").read_text()
    for kind in KINDS:
        assert f"| `{kind.name}` | " in page, kind.name


# as check and doctor say it


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A template without files of the node's, for a node with the defaults."""
    monkeypatch.setattr(hooked, "load_config", settings)
    found = tmp_path / "slow.xml"
    start, end = LEAN.index("    <disk"), LEAN.index("    <disk type='file' device='disk'>\n      <vbprep")
    text = LEAN[:start] + LEAN[end:]
    text = text.replace(MEDIUM, "<target dev='sda' bus='scsi'/>").replace(BOOT, "<bootmenu enable='yes' timeout='7000'/>")
    found.write_text(text)
    return str(found)


def said(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["check", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_check(path: str) -> None:
    menu, medium, emulated, last = said(path).splitlines()
    assert menu == f"{path}:5: advice boot-menu: the firmware waits for a key: about 7.0 s of a start; take <bootmenu> out"
    assert medium.startswith(f"{path}:10: advice medium: the context medium is on the bus scsi: about 0.")
    assert emulated == f"{path}: the seconds of medium were measured under emulation; with KVM they are fewer"
    assert last == f"{path}: right, for KVM with CDROM"
    assert said("--no-advice", path) == f"{path}: right, for KVM with CDROM\n"


def test_json(path: str) -> None:
    whole = json.loads(said("--json", path))
    assert {name: whole[name] for name in ("template", "hypervisor", "method", "disks")} == {
        "template": path, "hypervisor": "KVM", "method": "CDROM", "disks": []}
    assert [set(each) for each in whole["advice"]] == [{"name", "line", "found", "seconds", "remedy", "waits"}] * 2
    assert [(each["name"], each["line"], each["waits"]) for each in whole["advice"]] == [
        ("boot-menu", 5, True), ("medium", 10, False)]
    assert json.loads(said("--json", "--no-advice", path))["advice"] == []


PING = "<dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>"
NETWORK = """<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>default</name>
<ip address='192.168.122.1' netmask='255.255.255.0'>{}</ip>{}</network>"""
RANGE = "<dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>"


def test_a_network_whose_dhcp_looks_first() -> None:
    (found,) = judge_network("default", NETWORK.format(RANGE, ""))
    assert found.level == "ok"
    assert found.found == "the DHCP of libvirt's network default lets each guest wait 3 s for its address"
    assert "<dnsmasq:option value='no-ping'/>" in found.advice


@pytest.mark.parametrize("xml", ["", NETWORK.format("", ""), NETWORK.format(RANGE, PING)])
def test_a_network_that_is_quick(xml: str) -> None:
    assert list(judge_network("default", xml)) == []
