"""From a template's method to what is made for a job's context, and what its domain says of it."""

from typing import TypeVar

import pytest
from lxml import etree

from vmbatch.config import Config
from vmbatch.context.content import Content
from vmbatch.context.keys import HandoverKeys
from vmbatch.context.medium import Medium
from vmbatch.errors import SiteError
from vmbatch.exchange.address import Address
from vmbatch.exchange.export import Export
from vmbatch.exchange.place import GuestPlace
from vmbatch.exchange.volume import Volume
from vmbatch.facts import Facts
from vmbatch.guestdisk.inject import Injection, Target
from vmbatch.host.rootssh import RootAccess
from vmbatch.plan import Plan, plan, preview
from vmbatch.spool.directory import Directory
from vmbatch.template import ImageSource

from .sample import BASE, TEMPLATE, TOKEN, facts, form, job, settings

T = TypeVar("T")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8N4aMbqXgAFbv9G8mA7A6nOtVvO0aJ7mU4p0yq4m3u"
SPOOL = f"/var/lib/vmbatch/spool/42.vm.{TOKEN}"
SHARE = f"/srv/vmbatch/share/42.vm.{TOKEN}"
_AT = TEMPLATE.index("    <disk type='file' device='cdrom'>")
MEDIUM = TEMPLATE[_AT : TEMPLATE.index("    <interface")]
STATIC = TEMPLATE.replace("<interface type='network'>",
                          "<interface type='network'><vbnetwork method='static' first='10.1.0.20' count='9' prefix='24'/>", 1)
CHOSEN = (("10.1.0.23",), ())


def method(name: str, config: str = "", devices: str = "") -> str:
    return (TEMPLATE.replace(MEDIUM, "").replace("<vbconfig>", f"<vbconfig><vbpreparemethod>{name}</vbpreparemethod>{config}")
            .replace("<devices>", f"<os><cmdline>quiet</cmdline></os><devices>{devices}"))


def planned(text: str, known: Facts | None = None, config: Config | None = None) -> Plan:
    return plan(job(), form(text), config or settings(), known or facts(text=text))


def steps(chosen: Plan, kind: type[T]) -> list[T]:
    return [step for phase in chosen.phases for step in phase.steps if isinstance(step, kind)]


def content(chosen: Plan) -> Content:
    [medium] = steps(chosen, Medium)
    return medium.content


def xpath(chosen: Plan, path: str) -> object:
    return etree.fromstring(chosen.xml).xpath(path)


def test_on_a_medium() -> None:
    chosen = planned(TEMPLATE)
    [medium] = steps(chosen, Medium)
    assert (medium.path, medium.label, medium.content.host_key, medium.content.more) == (
        f"{SPOOL}/context.iso", "VMBATCH", True, ())
    assert chosen.delivery is None


def test_media_of_several_forms() -> None:
    more = (MEDIUM.replace("context.iso'", "cloud.iso' format='nocloud'").replace("'sda'", "'sdb'")
            + MEDIUM.replace("context.iso'", "own.iso' label='SITE'").replace("'sda'", "'sdc'"))
    chosen = planned(TEMPLATE.replace(MEDIUM, MEDIUM + more))
    assert [(medium.path, medium.label, [entry.name for entry in medium.content.more]) for medium in steps(chosen, Medium)] == [
        (f"{SPOOL}/context.iso", "VMBATCH", []),
        (f"{SPOOL}/cloud.iso", "cidata", ["user-data", "meta-data", "network-config"]),
        (f"{SPOOL}/own.iso", "SITE", []),
    ]
    assert xpath(chosen, "devices/disk[target/@dev='sdb']/source/@file") == [f"{SPOOL}/cloud.iso"]


LAYOUT = """<vbdisks><vbdisk name='rootdisk' dev='vda' partition='vda2' volume='vg/root' init='sysv' trusted='yes'/>
<vbdisk name='jobdisk' dev='vda' partition='vda3'/></vbdisks>"""


def test_in_the_disk() -> None:
    chosen = planned(method("DISK", devices=LAYOUT))
    [piece] = steps(chosen, Injection)
    overlay = f"{SPOOL}/vda.qcow2", "qcow2", (BASE, "raw")
    line = next(number for number, text in enumerate(method("DISK", devices=LAYOUT).split("\n"), 1) if "rootdisk" in text)
    where = "/etc/vmbatch/domains/sample.xml:{}: {}"
    assert piece.root == Target(*overlay, 2, "vg/root", True, where.format(line, "rootdisk vda2 vg/root"))
    assert piece.jobs == Target(*overlay, 3, "", False, where.format(line + 1, "jobdisk vda3"))
    assert (piece.device, piece.init, piece.scratch, piece.account, piece.emulated) == (
        "/dev/vda3", "sysv", SPOOL, "nobody", False)
    assert steps(chosen, Medium) == []
    order = [type(step).__name__ for phase in chosen.phases for step in phase.steps]
    assert order.index("Overlay") < order.index("Keys") < order.index("Injection") < order.index("Domain")


def test_a_users_image_is_never_trusted() -> None:
    text = method("DISK", devices=LAYOUT).replace("copy_method='cow'/>", "copy_method='cow'/><vbuserimage/>")
    wish = ImageSource(("/home/alice/own.raw",), "cow", "raw", "", None, "qcow2")
    [piece] = steps(planned(text, facts(text=text, wishes={0: wish})), Injection)
    assert piece.root.trusted is False


ROOTSSH = f"<vbrootssh key='/etc/vmbatch/root_key' hostkey='{KEY}'/>"


def test_by_roots_ssh() -> None:
    chosen = planned(method("ROOTSSH", ROOTSSH))
    assert chosen.delivery is not None
    assert chosen.delivery.access == RootAccess(key="/etc/vmbatch/root_key", host_keys=(KEY,), first_use=False)
    assert (chosen.delivery.address, chosen.delivery.content.host_key) == ("", False)
    [keys] = steps(chosen, HandoverKeys)
    assert keys.host_key is False
    assert xpath(chosen, "string(os/cmdline)") == "quiet vbcontext=ssh"
    said = "boot: send the context by root's ssh to the address that libvirt knows (0 archives, 0 site scripts)"
    assert said in preview(chosen)


def test_what_the_kernel_line_has() -> None:
    text = method("ROOTSSH", f"{ROOTSSH}<vbkernelline>yes</vbkernelline>").replace(
        "<interface type='network'>", "<interface type='network'><mac address='52:54:00:00:00:01'/>"
        "<vbnetwork method='static' first='10.1.0.20' count='9' prefix='24'/>", 1).replace(
        "<interface type='network'><source", "<interface type='network'><mac address='52:54:00:00:00:02'/><source", 1)
    chosen = planned(text, facts(text=text, addresses=CHOSEN, node="node1"))
    assert xpath(chosen, "string(os/cmdline)") == (
        "quiet vbcontext=ssh vbuser=alice vbgroup=alice vbuid=1500 vbgid=1500 vbhost=vm-42 vbjob=42.vm "
        "vbnet0=52:54:00:00:00:01,10.1.0.23/24,,,,, vbnet1=52:54:00:00:00:02")
    assert chosen.delivery is not None
    assert chosen.delivery.address == "10.1.0.23"


def test_an_address_is_reserved_first_of_all() -> None:
    chosen = planned(STATIC, facts(text=STATIC, addresses=CHOSEN, node="node1"))
    assert chosen.reservations == (Address("/srv/vmbatch/share/.addresses/10.1.0.23", TOKEN, "42.vm", "node1"),)
    found = content(chosen).parameters
    assert (found["VMBATCH_NETS"], found["VMBATCH_NET0_ADDRESS4"], found["VMBATCH_NET1_METHOD"]) == ("2", "10.1.0.23/24", "dhcp")
    elsewhere = planned(STATIC, facts(text=STATIC, addresses=CHOSEN), settings(network_reservations="/net/addresses"))
    assert elsewhere.reservations == (Address("/net/addresses/10.1.0.23", TOKEN, "42.vm", ""),)


@pytest.mark.parametrize("messages", ["CHANNEL", "CONSOLE"])
def test_without_a_share(messages: str) -> None:
    tags = f"<vbshell>CONSOLE</vbshell><vbmessages>{messages}</vbmessages>"
    chosen = planned(TEMPLATE.replace("<vbconfig>", f"<vbconfig>{tags}"), config=settings(share_source=""))
    assert not [step for step in steps(chosen, Directory) if step.path.startswith("/srv/vmbatch/share")]
    assert steps(chosen, GuestPlace) == []
    found = content(chosen).parameters
    assert (found["VMBATCH_MESSAGES"], found["VMBATCH_CONSOLE"], found["VMBATCH_SHARE_SOURCE"]) == (messages.lower(), "hvc0", "")
    assert (chosen.messages, chosen.console_shell) == (messages, "hvc0")
    assert xpath(chosen, "count(devices/channel)") == (messages == "CHANNEL")


def test_a_share_without_a_server() -> None:
    chosen = planned(TEMPLATE, config=settings(share_source="", share_type="virtiofs"))
    assert xpath(chosen, "devices/filesystem/source/@dir") == [f"{SHARE}/guest"]
    found = content(chosen).parameters
    assert [found[f"VMBATCH_SHARE_{name}"] for name in ("TYPE", "SOURCE", "OPTIONS")] == ["virtiofs", "vmbatch", ""]


def test_a_place_on_the_sites_own_share() -> None:
    """A guest's setuid programs are for no user of the node: only the group of the guest's root finds the way."""
    chosen = planned(TEMPLATE, config=settings(share_owner=4711))
    (above,) = (step for step in steps(chosen, Directory) if step.path == SHARE)
    assert above == Directory(SHARE, TOKEN, 0o710, 4711, distant=True)
    assert steps(chosen, GuestPlace) == [GuestPlace(f"{SHARE}/guest", 4711)]
    assert steps(chosen, Volume) == []
    assert chosen.export is None


@pytest.mark.parametrize(("changed", "mode", "owner"), [
    ({"share_type": "virtiofs"}, 0o700, 0), ({"share_type": "9p", "share_owner": 64055}, 0o711, 64055),
    ({"share_export": "exportfs", "share_source": "10.77.0.1:/srv/vmbatch/share"}, 0o711, 1500),
], ids=["virtiofs", "9p", "exportfs"])
def test_a_place_that_cannot_be_filled(changed: dict[str, object], mode: int, owner: int) -> None:
    chosen = planned(TEMPLATE, config=settings(share_limit=1 << 20, **changed))
    assert [step.mode for step in steps(chosen, Directory) if step.path == SHARE] == [mode]
    assert steps(chosen, Volume) == [Volume(f"{SHARE}/guest", TOKEN, 1 << 20, owner, owner)]
    assert steps(chosen, GuestPlace) == []


def test_an_export_for_the_guest_alone() -> None:
    exported = settings(share_export="exportfs", share_source="10.77.0.1:/srv/vmbatch/share")
    chosen = planned(STATIC, facts(text=STATIC, addresses=CHOSEN), exported)
    assert chosen.export == Export(f"{SHARE}/guest", TOKEN, "", "01234567-89ab-4def-8123-456789abcdef", 1500, 1500)
    assert chosen.address == "10.1.0.23"
    assert content(chosen).parameters["VMBATCH_SHARE_SOURCE"] == f"10.77.0.1:{SHARE}/guest"
    assert planned(TEMPLATE, config=exported).address == ""


@pytest.mark.parametrize(("changed", "said"), [
    ({"share_source": "a:/share"}, "[share] export shows guests /srv/vmbatch/share, and they would mount a:/share"),
    ({"share_type": "virtiofs"}, "[share] export is for NFS, and [share] type = virtiofs"),
])
def test_exports_that_cannot_be(changed: dict[str, object], said: str) -> None:
    with pytest.raises(SiteError) as caught:
        planned(TEMPLATE, config=settings(share_export="exportfs", **changed))
    assert caught.value.what == said


def test_a_share_over_the_messages() -> None:
    text = TEMPLATE.replace("<vbconfig>", "<vbconfig><vbshares><vbshare type='nfs4' source='s:/a' target='/mnt'/></vbshares>")
    with pytest.raises(SiteError, match=r"sample\.xml:3: <vbshare target='/mnt'> would hide \[share\] mountpoint = /mnt/vmbatch"):
        planned(text)


def test_credentials_and_directories_in_the_domain() -> None:
    text = TEMPLATE.replace("<vbconfig>", "<vbconfig><vbshares><vbshare type='9p' source='/srv/a' target='/opt/a'/></vbshares>"
                            ).replace("<devices>", "<os><type>hvm</type></os><devices>")
    chosen = planned(text, facts(text=text, credentials={"a": b"plain", "b": b"\0"}))
    assert xpath(chosen, "sysinfo/oemStrings/entry/text()") == ["io.systemd.credential:a=plain",
                                                                "io.systemd.credential.binary:b=AA=="]
    assert xpath(chosen, "devices/filesystem/target/@dir") == ["vbshare0"]
