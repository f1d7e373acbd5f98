"""Which guests can go on from a saved one, from which, and how their domains are made of it."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from vmbatch import resume, resumeplan
from vmbatch.config import Config
from vmbatch.context.medium import Medium
from vmbatch.context.waiting import WaitingMedium
from vmbatch.disk.blank import Blank
from vmbatch.disk.duplicate import Duplicate
from vmbatch.disk.link import Link
from vmbatch.disk.overlay import Overlay
from vmbatch.disk.rebase import Rebase
from vmbatch.facts import Facts, Image
from vmbatch.grant import Grant
from vmbatch.host import libvirtd
from vmbatch.hypervisor.domain import Domain
from vmbatch.image import saved
from vmbatch.image.record import Stamp
from vmbatch.image.saved import Frozen, Record, Saved, Shape
from vmbatch.image.store import stamp
from vmbatch.plan import DomainFile, Plan, plan, preview
from vmbatch.registry import HYPERVISORS, resource
from vmbatch.template import Places, Template, obstacle, places, waiting_xml

from .sample import BASE, GIB, TOKEN, facts, form, job, settings

TEMPLATE = f"""<domain type='kvm'>
  <name>sample</name>
  <vbconfig><vbstart>RESUME</vbstart><vbhypervisor>KVM</vbhypervisor></vbconfig>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <clock offset='utc'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='{BASE}' copy_method='cow'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <vbpreparecdrom source='context.iso'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
    <interface type='network'><source network='default'/><boot order='2'/></interface>
    <interface type='network'><mac address='52:54:00:aa:bb:cc'/><source network='default'/></interface>
    <serial type='pty'/>
  </devices>
</domain>
"""
MEMORY = "<memory unit='MiB'>512</memory>"
MEDIUM = "<vbpreparecdrom source='context.iso'/>"
SCRATCH = """<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='scratch' create='always' size='64' format='raw'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <serial type='pty'/>"""
SAVED_XML = """<domain type='kvm'>
  <name>vmbatch-1.save-ffffffff</name>
  <uuid>ffffffff-ffff-4fff-bfff-ffffffffffff</uuid>
  <metadata>
    <vmbatch:job xmlns:vmbatch="urn:vmbatch:job:1" id="1.save" token="ffffffffffffffffffffffffffffffff" user="root"/>
  </metadata>
  <memory unit='KiB'>524288</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe' discard='unmap'/>
      <source file='/store/saved/key.making/guest/vda.qcow2'/>
      <backingStore type='file'><format type='raw'/>
        <source file='/srv/images/base.raw'><seclabel model='dac' relabel='no'/></source><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
    </disk>
    <serial type='pty'><log file='/store/saved/key.making/console.log' append='off'/><target port='0'/></serial>
    <console type='pty'><log file='/store/saved/key.making/console.log' append='off'/><target type='serial' port='0'/></console>
    <serial type='pty'><log file='/var/log/the-sites-own' append='off'/><target port='1'/></serial>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'/>
  <seclabel type='static' model='selinux'><label>theirs</label></seclabel>
</domain>
"""


def address(bus: int) -> str:
    return f'<address type="pci" domain="0x0000" bus="0x{bus:02x}" slot="0x00" function="0x0"/>'


PLACES = Places((address(1), address(2)), address(4))
SHAPE = Shape(template="/etc/vmbatch/domains/sample.xml", domain="d", kit="k", node="n", cores=2, memory=512 << 20, inputs=())
SAVED = Saved("/store/saved/key", Record(SHAPE, SAVED_XML, (Frozen(0, "vda.qcow2", "qcow2", 2 * GIB),), PLACES, 1.0,
                                         Stamp(1, 2, 3, 4)))


@pytest.mark.parametrize(("before", "after", "why"), [
    ("<name>", "<name>", ""),
    ("arch='x86_64'", "arch='aarch64'", "only guests with <type arch='x86_64'>"),
    ("<os>", "<os firmware='efi'>", "<nvram>"),
    ("hvm</type>", "hvm</type><loader type='pflash'>/f</loader>", "<nvram>"),
    ("hvm</type>", "hvm</type><loader>/bios</loader>", ""),
    ("offset='utc'", "offset='localtime'", "<clock> has another offset"),
    ("<clock offset='utc'/>", "", ""),
    ("<serial", "<hostdev mode='subsystem' type='pci'/><serial", "it has a <hostdev>"),
    ("<serial", "<vsock model='virtio'/><serial", "it has a <vsock>"),
    ("<serial", "<tpm model='tpm-crb'/><serial", "it has a <tpm>"),
    ("<interface type='network'><source", "<interface type='hostdev'><source", "<interface type='hostdev'>"),
    (MEDIUM, "<vbpreparecdrom source='context.iso' format='nocloud'/>", "more than VmBatch's own medium"),
    (f"<disk type='file' device='disk'>\n      {MEDIUM}", f"<disk type='file' device='cdrom'>\n      {MEDIUM}",
     "its medium is a drive that stays"),
    ("<target dev='vdb' bus='virtio'/>", "<target dev='vdb' bus='sata'/>", "its medium is a drive that stays"),
    ("<target dev='vdb' bus='virtio'/>", "<target dev='sda' bus='scsi'/>", ""),
    ("<vbhypervisor>", "<vbshares><vbshare type='virtiofs' source='/data' target='/data'/></vbshares><vbhypervisor>",
     "<vbshare> of the node's own"),
    ("<vbhypervisor>", "<vbshares><vbshare type='nfs4' source='s:/data' target='/data'/></vbshares><vbhypervisor>", ""),
    ("copy_method='cow'", "copy_method='copy'", ""),
    ("<serial type='pty'/>", SCRATCH, ""),
    ("<serial type='pty'/>", SCRATCH.replace("'always'", "'once'"), "create='once'"),
    (f"source='{BASE}' copy_method='cow'", "source='http://server/i.raw' copy_method='download'", "copy_method='download'"),
])
def test_what_can_be_saved(before: str, after: str, why: str) -> None:
    assert before in TEMPLATE
    said = obstacle(form(TEMPLATE.replace(before, after, 1)))
    assert (why in said) if why else said == ""


def test_a_line_that_tells_the_user_to_the_kernel() -> None:
    text = TEMPLATE.replace("hvm</type>", "hvm</type><kernel>/k</kernel><cmdline>quiet</cmdline>")
    assert obstacle(form(text)) == ""
    assert "<vbkernelline>" in obstacle(form(text.replace("<vbhypervisor>", "<vbkernelline>yes</vbkernelline><vbhypervisor>")))


@pytest.mark.parametrize("method", ["DISK", "ROOTSSH"])
def test_other_ways_of_a_context(method: str) -> None:
    assert f"by {method}" in obstacle(msgspec.structs.replace(form(TEMPLATE), method=method))


def test_another_hypervisor() -> None:
    assert obstacle(msgspec.structs.replace(form(TEMPLATE), type="xen")) == "only guests of QEMU and KVM can be saved"


def test_a_share_that_is_a_device() -> None:
    for kind in ("virtiofs", "9p"):
        config = settings(share_type=kind)
        assert f"[share] type = {kind}" in resume.why_not(form(TEMPLATE), config)
        assert resume.why_not(msgspec.structs.replace(form(TEMPLATE), messages="CHANNEL"), config) == ""
    assert resume.why_not(form(TEMPLATE), settings()) == ""


class Node:
    """What a node has; the files of its images, kernel and emulator are in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.versions = ("9.0.0", "QEMU", "7.2.0")
        self.processor = "<cpu><model>EPYC</model><counter name='tsc' frequency='1'/><feature name='avx'/></cpu>"
        for name in ("base.raw", "vmlinuz", "qemu"):
            (directory / name).write_bytes(b"as it was")

    @property
    def text(self) -> str:
        """The template."""
        return TEMPLATE.replace(BASE, f"{self.directory}/base.raw").replace(
            "hvm</type>", f"hvm</type><kernel>{self.directory}/vmlinuz</kernel>")

    def shape(self, granted: Grant | None = None, text: str = "", **more: object) -> Shape:
        text = text or self.text
        return resume.shape(msgspec.structs.replace(facts(text=text), **more), form(text), granted or Grant(), settings())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path)
    monkeypatch.setattr(libvirtd, "versions", lambda _uri: made.versions)
    monkeypatch.setattr(libvirtd, "capabilities", lambda _uri: (
        f"<capabilities><host>{made.processor}</host><guest><emulator>{tmp_path}/qemu</emulator></guest></capabilities>"))
    return made


def rewrite(name: str) -> Callable[[Node], object]:
    return lambda node: (node.directory / name).write_bytes(b"is another one now")


def newer(node: Node) -> None:
    node.versions = ("9.0.1", "QEMU", "7.2.0")


def weaker(node: Node) -> None:
    node.processor = node.processor.replace("<feature name='avx'/>", "")


@pytest.mark.parametrize("change", [rewrite("base.raw"), rewrite("vmlinuz"), rewrite("qemu"), newer, weaker])
def test_what_shapes_a_guest_on_the_node(node: Node, change: Callable[[Node], object]) -> None:
    before = node.shape()
    assert node.shape().key == before.key
    change(node)
    assert node.shape().key != before.key


def test_what_shapes_a_guest_by_its_template(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.shape()
    commented = node.text.replace("<os>", "<!-- why -->\n<os>").replace("unit='MiB'", 'unit="MiB"')
    assert node.shape(text=commented.replace("<!-- why -->\n", "<!-- why -->")).key == before.key
    others = [
        node.shape(Grant(cores=4)), node.shape(Grant(memory=GIB)), node.shape(text=node.text.replace("q35", "pc")),
        node.shape(credentials={"a": b"b"}), node.shape(credentials={"a": b"c"})]
    assert len({each.key for each in [before, *others]}) == 6
    assert (before.cores, before.memory) == (2, 512 << 20)
    monkeypatch.setattr(resume, "same", lambda: iter(()))
    assert node.shape().key != before.key, "the kit"


def test_the_processors_clock_is_measured_anew_at_each_boot(node: Node) -> None:
    before = node.shape()
    node.processor = node.processor.replace("frequency='1'", "frequency='2'")
    assert node.shape().key == before.key


def seek(node: Node, config: Config, text: str = "", **more: object) -> tuple[Facts, list[saved.Held]]:
    held: list[saved.Held] = []
    text = text or node.text
    found = resume.seek(msgspec.structs.replace(facts(text=text), **more), form(text), Grant(), config, held.append)
    return found, held


def test_why_a_guest_is_booted(node: Node, tmp_path: Path) -> None:
    config = settings(images_directory=str(tmp_path / "store"))
    found, held = seek(node, config)
    assert found.saved is None
    assert found.booted == ("the guest is booted: there is no saved one that is just so; vmbatch save "
                            "/etc/vmbatch/domains/sample.xml makes one of the template's own size")
    assert not held
    found, _ = seek(node, config, node.text.replace("offset='utc'", "offset='localtime'"))
    assert found.booted.startswith("the guest is booted: its <clock>")
    wished = facts(text=node.text)
    source = form(node.text).disks[0].source
    assert source is not None
    found, _ = seek(node, config, wishes={0: source}, images=wished.images)
    assert found.booted == "the guest is booted: the job has an image of its own"


def test_a_template_that_boots_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirtd, "versions", None)
    known = facts()
    held: list[saved.Held] = []
    assert resume.seek(known, form(), Grant(), settings(), held.append) is known


def test_the_saved_one_that_is_just_so(node: Node, tmp_path: Path) -> None:
    config = settings(images_directory=str(tmp_path / "store"))
    shape = node.shape()
    made = tmp_path / "store/saved/made"
    made.mkdir(parents=True)
    (made / "memory").write_bytes(b"state")
    status = os.stat(made / "memory")
    record = msgspec.structs.replace(SAVED.record, shape=shape, state=stamp(status))
    saved.publish(str(made), saved.place(config.images_directory, shape.key), record, None)
    found, held = seek(node, config)
    assert found.saved is not None
    assert found.saved.record.shape == shape
    assert [each.saved for each in held] == [found.saved]
    held[0].close()


def resumed(text: str = TEMPLATE, guest: Saved = SAVED) -> Plan:
    return plan(job(), form(text), settings(), facts(text=text, saved=guest))


def steps(chosen: Plan, kind: type) -> list[object]:
    return [step for phase in chosen.phases for step in phase.steps if type(step) is kind]


SPOOL = f"/var/lib/vmbatch/spool/42.vm.{TOKEN}"
USES = f"/var/lib/vmbatch/store/uses/42.vm.{TOKEN}"


def test_the_disks_of_a_resumed_guest() -> None:
    """An overlay on the saved guest's, which has a name of the job's; that for a boot is made only if need be."""
    chosen = resumed()
    assert steps(chosen, Link) == [Link("/store/saved/key/vda.qcow2", f"{USES}/vda.saved")]
    overlay, = steps(chosen, Overlay)
    assert isinstance(overlay, Overlay)
    assert (overlay.path, overlay.backing, overlay.backing_format, overlay.size) == (
        f"{SPOOL}/vda.resumed.qcow2", f"{USES}/vda.saved", "qcow2", 2 * GIB)
    cold, = chosen.instead
    assert isinstance(cold, Overlay)
    assert (cold.path, cold.backing) == (f"{SPOOL}/vda.qcow2", BASE)


@pytest.mark.parametrize(("text", "kind"), [
    (TEMPLATE.replace("'cow'", "'copy'"), Duplicate), (TEMPLATE.replace("<serial type='pty'/>", SCRATCH), Blank)])
def test_copies_and_empty_disks_are_overlays_too(text: str, kind: type) -> None:
    name = "vda" if kind is Duplicate else "vdc"
    frozen: tuple[Frozen, ...] = (Frozen(0, "vda.raw", "raw", GIB),)
    if kind is Blank:
        frozen = (Frozen(0, "vda.qcow2", "qcow2", GIB), Frozen(2, "vdc.raw", "raw", 64 << 20))
    second = SAVED_XML[SAVED_XML.index("<disk"):SAVED_XML.index("</disk>") + 7].replace("'vda'", "'vdc'")
    record = msgspec.structs.replace(SAVED.record, disks=frozen, domain=SAVED_XML.replace("<serial", f"{second}<serial", 1))
    chosen = resumed(text, msgspec.structs.replace(SAVED, record=record))
    assert steps(chosen, kind) == []
    assert type(chosen.instead[-1]) is kind
    root = etree.fromstring(xml_of(chosen, "resumed.xml"))
    assert root.xpath(f"devices/disk[target/@dev='{name}']/source/@file") == [f"{SPOOL}/{name}.resumed.qcow2"]
    assert root.xpath(f"devices/disk[target/@dev='{name}']/backingStore/source/@file") == [f"{USES}/{name}.saved"]


def xml_of(chosen: Plan, name: str) -> bytes:
    found, = [step for step in steps(chosen, DomainFile) if isinstance(step, DomainFile) and step.path == f"{SPOOL}/{name}"]
    return found.xml


def test_the_domain_of_a_resumed_guest() -> None:
    """Its own in all that is its own, and laid out as the saved one."""
    root = etree.fromstring(xml_of(resumed(), "resumed.xml"))
    assert root.findtext("name") == f"vmbatch-42.vm-{TOKEN[:8]}"
    assert root.findtext("uuid") == "01234567-89ab-4def-8123-456789abcdef"
    assert [dict(owner.attrib) for owner in root.iter("{urn:vmbatch:job:1}job")] == [
        {"id": "42.vm", "token": TOKEN, "user": "alice"}]
    assert b"save-ffffffff" not in etree.tostring(root)
    disk, = root.findall("devices/disk")
    assert disk.find("driver").attrib == {"name": "qemu", "type": "qcow2", "cache": "unsafe", "discard": "unmap"}  # type: ignore[union-attr]
    assert [source.get("file") for source in disk.iter("source")] == [f"{SPOOL}/vda.resumed.qcow2", f"{USES}/vda.saved", BASE]
    assert [form.get("type") for form in disk.iter("format")] == ["qcow2", "raw"]
    assert disk.find("backingStore/backingStore/backingStore") is not None, "the end of the chain is said: nothing is probed"
    assert disk.find("address").get("bus") == "0x03"  # type: ignore[union-attr]
    assert [log.get("file") for log in root.iter("log")] == [f"{SPOOL}/console.log"] * 2 + ["/var/log/the-sites-own"]
    assert [label.get("type") for label in root.findall("seclabel")] == ["static"]
    assert b"key.making" not in etree.tostring(root)


def test_what_a_resumed_guest_gets_before_it_goes_on() -> None:
    chosen = resumed()
    devices = [etree.fromstring(xml_of(chosen, f"device-{number}.xml")) for number in range(3)]
    assert [device.tag for device in devices] == ["interface", "interface", "disk"]
    assert [device.find("address").get("bus") for device in devices] == ["0x01", "0x02", "0x04"]  # type: ignore[union-attr]
    assert [device.find("mac").get("address") for device in devices[:2]] == list(chosen.macs)  # type: ignore[union-attr]
    assert devices[2].find("source").get("file") == f"{SPOOL}/context.iso"  # type: ignore[union-attr]
    assert devices[0].find("boot") is None
    assert chosen.domain.restore is not None
    assert chosen.domain.restore.memory == "/store/saved/key/memory"
    assert (chosen.domain.restore.xml, *chosen.domain.restore.devices) == tuple(
        f"{SPOOL}/{name}" for name in ("resumed.xml", "device-0.xml", "device-1.xml", "device-2.xml"))


def test_its_medium_has_a_seed_and_that_of_a_booted_one_has_none() -> None:
    assert [medium.content.seed for medium in steps(resumed(), Medium) if isinstance(medium, Medium)] == [True]
    booted = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE))
    assert [medium.content.seed for medium in steps(booted, Medium) if isinstance(medium, Medium)] == [False]
    assert (booted.domain.restore, booted.instead) == (None, ())


def test_all_else_is_as_of_a_booted_guest() -> None:
    """So is its record's owner, and all that is released."""
    booted, chosen = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE)), resumed()
    assert chosen.xml == booted.xml
    assert msgspec.structs.replace(chosen.domain, restore=None) == booted.domain
    assert [phase.name for phase in chosen.phases] == [phase.name for phase in booted.phases]
    for name in ("macs", "addresses", "inbox", "console", "alias", "handover", "reservations", "waiting"):
        assert getattr(chosen, name) == getattr(booted, name), name


def test_the_record_of_its_domain() -> None:
    domain = resumed().domain
    again = resource(msgspec.json.encode(domain))
    assert isinstance(again, Domain)
    assert again == domain
    old = b'{"kind":"domain","uri":"u","name":"n","uuid":"i","token":"t","xml":"/x","grace":0.0}'
    assert resource(old) == Domain("u", "n", "i", "t", "/x")


def test_what_is_said_of_it() -> None:
    assert any("from the saved guest /store/saved/key/memory" in line for line in preview(resumed()))
    chosen = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE, booted="the guest is booted: why"))
    assert "the guest is booted: why" in chosen.notes


def saving(text: str = TEMPLATE, known: Facts | None = None) -> resumeplan.Saving:
    return resumeplan.saving(job(id="1.save"), form(text), HYPERVISORS["KVM"], settings(), known or facts(text=text), SHAPE)


MAKING = f"/var/lib/vmbatch/store/saved/{SHAPE.key}.making"


def test_how_a_guest_is_saved() -> None:
    chosen = saving()
    assert chosen.directory.path == MAKING
    assert (chosen.made, chosen.ready) == (f"{MAKING}/guest", MAKING.removesuffix(".making"))
    assert chosen.disks == (Frozen(0, "vda.qcow2", "qcow2", 2 * GIB),)
    assert [type(step) for step in chosen.steps] == [Overlay, WaitingMedium]
    root = etree.fromstring(chosen.layout)
    assert len(root.findall("devices/interface")) == 2
    assert root.find("devices/interface/filterref") is None
    assert [source.get("file") for source in root.findall("devices/disk/source")] == [
        f"{MAKING}/guest/vda.qcow2", f"{MAKING}/waiting.iso"]
    assert not [element.tag for element in root.iter() if str(element.tag).startswith("vb")]


def test_what_is_kept_of_a_job_can_be_read_by_itself() -> None:
    """An image of the store has a name of each start's own; below a saved disk it is found beside that."""
    images = {0: Image("/store/content/0", "raw", 2 * GIB, 2 * GIB, stored=True, digest="sha256:0")}
    chosen = saving(known=msgspec.structs.replace(facts(text=TEMPLATE), images=images))
    assert chosen.after == (Rebase(f"{MAKING}/guest/vda.qcow2", "vda", "raw"),)
    of_job = plan(job(), form(TEMPLATE), settings(), msgspec.structs.replace(facts(text=TEMPLATE, saved=SAVED), images=images))
    assert [link for link in steps(of_job, Link) if isinstance(link, Link) and link.path == f"{USES}/vda"] == [
        Link("/store/content/0", f"{USES}/vda")]
    assert saving().after == (), "an image of the node has but one name"


def test_nothing_of_a_user_is_in_a_guest_that_is_saved() -> None:
    chosen = saving()
    medium = chosen.steps[-1]
    assert isinstance(medium, WaitingMedium)
    assert b"alice" not in msgspec.json.encode(medium)


def test_shared_disks_are_no_disks_of_a_saved_guest() -> None:
    text = TEMPLATE.replace("<vbdisksource source='/srv/images/base.raw' copy_method='cow'/>",
                            "<vbdisksource source='/srv/images/base.raw'/><readonly/>")
    chosen = saving(text)
    assert chosen.disks == ()
    assert [type(step) for step in chosen.steps] == [WaitingMedium]


LAYOUT = SAVED_XML.replace("<serial type='pty'><log", """<disk type='file' device='disk'>
      <source file='/store/saved/key.making/waiting.iso'/><target dev='vdb' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'><mac address='52:54:00:ff:ff:00'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>
    <interface type='network'><mac address='52:54:00:ff:ff:01'/>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></interface>
    <serial type='pty'><log""", 1)


def test_the_places_of_what_is_added_later_are_kept_free() -> None:
    template: Template = form(TEMPLATE)
    assert places(LAYOUT, template) == PLACES
    root = etree.fromstring(waiting_xml(LAYOUT))
    assert root.find("devices/interface") is None
    assert [target.get("dev") for target in root.findall("devices/disk/target")] == ["vda", "vdb"]
    assert [each.get("bus") for each in root.findall("devices/disk/address")] == ["0x03", "0x04"]
