"""How a template wants its guests prepared: media, disks to write into, root's ssh, consoles, credentials; and their mistakes."""

import pytest

from vmbatch import template
from vmbatch.errors import InputError
from vmbatch.template import Credential, GuestDisk, MediumTag, RootSsh, Template

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8N4aMbqXgAFbv9G8mA7A6nOtVvO0aJ7mU4p0yq4m3u"
ROOTSSH = f"<vbrootssh key='/etc/vmbatch/root_key' hostkey='{KEY}'/>"
DISK = """<disk type='file' device='disk'><driver type='qcow2'/>
<vbdisksource source='/srv/a.qcow2' copy_method='cow'/><target dev='vda'/></disk>"""
MEDIUM = "<disk type='file'><vbpreparecdrom {}/><target dev='{}'/><readonly/></disk>"
CD = MEDIUM.format("source='context.iso'", "vdb")


def text(method: str, config: str = "", devices: str = "", system: str = "", disk: str = DISK) -> str:
    medium = CD if method == "CDROM" else ""
    return (f"<domain type='kvm'>\n<vbconfig><vbpreparemethod>{method}</vbpreparemethod>{config}</vbconfig>\n<os>{system}</os>\n"
            f"<devices>{devices}\n{disk}\n{medium}\n</devices></domain>")


def parsed(method: str, config: str = "", devices: str = "", system: str = "", disk: str = DISK) -> Template:
    return template.parse(text(method, config, devices, system, disk).encode(), "/etc/vmbatch/domains/t.xml")


def mistakes(method: str, config: str = "", devices: str = "", system: str = "", disk: str = DISK) -> list[tuple[int, str]]:
    with pytest.raises(InputError) as caught:
        parsed(method, config, devices, system, disk)
    return caught.value.problems


def layout(*disks: str) -> str:
    return f"<vbdisks>{''.join(disks)}</vbdisks>"


ROOT = "<vbdisk name='rootdisk' dev='vda' partition='vda2'/>"


def test_disks_of_the_published_layout() -> None:
    found = parsed("DISK", devices=layout(ROOT, "<vbdisk name='jobdisk' dev='vda' partition='vda3'/>")).guest_disks
    assert found == {"rootdisk": GuestDisk(0, 4, "vda2", 2, "", "", False), "jobdisk": GuestDisk(0, 4, "vda3", 3, "", "", False)}


def test_a_volume_an_init_and_trust() -> None:
    disk = "<vbdisk name='rootdisk' dev='vda' partition='vda15' volume='vg0/root' init='sysv' trusted='yes'/>"
    found = parsed("DISK", devices=layout(disk)).guest_disks
    assert found == {"rootdisk": GuestDisk(0, 4, "vda15", 15, "vg0/root", "sysv", True)}


def test_a_whole_disk() -> None:
    found = parsed("DISK", devices=layout("<vbdisk name='rootdisk' dev='vda'/>")).guest_disks["rootdisk"]
    assert (found.device, found.partition) == ("vda", 0)


NEEDED = "vbpreparemethod DISK needs a <vbdisks> with <vbdisk name='rootdisk' dev='vda' partition='vda1'/> in <devices>"
EMPTY = "<disk type='file'><driver type='raw'/><vbdisksource source='x' create='{}' size='9'/><target dev='vdb'/></disk>"


@pytest.mark.parametrize(("disks", "line", "said"), [
    ("", 2, NEEDED),
    (layout(), 2, NEEDED),
    (layout(ROOT, ROOT), 4, "a second <vbdisk name='rootdisk'>"),
    (layout(ROOT, ROOT.replace("rootdisk", "jobdisk")), 4, "rootdisk and jobdisk are the same; leave jobdisk out"),
    (layout("<vbdisk name='rootdisk' dev='sda'/>"), 4, "<vbdisk> dev='sda': there is no disk with this target; there is vda"),
    (layout("<vbdisk name='rootdisk' dev='vda' partition='sda1'/>"), 4,
     "<vbdisk> partition='sda1': expected a partition of vda, such as 'vda1'"),
    (layout("<vbdisk name='rootdisk' dev='vda' partition='vda0'/>"), 4,
     "<vbdisk> partition='vda0': expected a partition of vda, such as 'vda1'"),
    (layout("<vbdisk name='home' dev='vda'/>"), 4, "<vbdisk> name='home': expected 'rootdisk' or 'jobdisk'"),
    (layout("<vbdisk name='rootdisk'/>"), 4, "<vbdisk> needs the attribute dev: the target of the disk, such as 'xvda' or 'vda'"),
    (layout("<vbdisk name='rootdisk' dev='vda' volume='root'/>"), 4,
     "<vbdisk> volume='root': expected the logical volume (LVM), such as 'vg0/root'"),
    (layout(ROOT, "<vbdisk name='jobdisk' dev='vdb'/>") + EMPTY.format("once"), 4,
     "<vbdisk> dev='vdb': an empty disk has no system, and one with create='once' is not the job's alone"),
])
def test_mistakes_in_a_layout(disks: str, line: int, said: str) -> None:
    assert (line, said) in mistakes("DISK", devices=disks)


def test_a_disk_that_is_not_the_jobs_own() -> None:
    shared = DISK.replace("copy_method='cow'", "copy_method='shared'").replace("<target", "<readonly/><target")
    [(line, said)] = mistakes("DISK", devices=layout(ROOT), disk=shared)
    assert (line, said) == (4, "<vbdisk> dev='vda': this disk is not the job's own to write; give it a <vbdisksource> and no "
                               "<readonly/>")


@pytest.mark.parametrize("method", ["CDROM", "ROOTSSH"])
def test_a_layout_for_another_method(method: str) -> None:
    config = ROOTSSH if method == "ROOTSSH" else ""
    assert mistakes(method, config, layout(ROOT)) == [
        (4, "<vbdisks> goes with <vbpreparemethod>DISK</vbpreparemethod>")]


def test_root_by_ssh() -> None:
    assert parsed("ROOTSSH", ROOTSSH).rootssh == RootSsh("/etc/vmbatch/root_key", KEY, False, "image")
    first = "<vbrootssh key='/k' firstuse='yes' give='credential'/>"
    assert parsed("ROOTSSH", first).rootssh == RootSsh("/k", "", True, "credential")


@pytest.mark.parametrize(("method", "config", "said"), [
    ("ROOTSSH", "", "vbpreparemethod ROOTSSH needs in <vbconfig> a "
                    "<vbrootssh key='/etc/vmbatch/root_key' hostkey='ssh-ed25519 AAAA...'/>"),
    ("CDROM", ROOTSSH, "<vbrootssh> goes with <vbpreparemethod>ROOTSSH</vbpreparemethod>"),
    ("ROOTSSH", "<vbrootssh key='/k'/>",
     "<vbrootssh> needs the guest's hostkey='ssh-ed25519 AAAA...'; or write firstuse='yes' to trust whatever answers first"),
    ("ROOTSSH", ROOTSSH.replace("/>", " firstuse='yes'/>"),
     "<vbrootssh> has a hostkey= and firstuse='yes'; take one of both out"),
    ("CDROM", "<vbkernelline>yes</vbkernelline>", "<vbkernelline>yes</vbkernelline> needs a kernel line to add to: <cmdline> in "
                                                  "<os>, with <kernel>"),
    ("CDROM", "<vbshell device='hvc0'>SSH</vbshell>", "<vbshell> device= goes with CONSOLE"),
    ("CDROM", "<vbmessages>CONSOLE</vbmessages>", "<vbmessages>CONSOLE</vbmessages> goes with <vbshell>CONSOLE</vbshell>"),
    ("CDROM", "<vbcredentials><vbcredential name='a'/></vbcredentials>", "<vbcredential> has either value= or file="),
    ("CDROM", "<vbcredentials><vbcredential name='a' value='1'/><vbcredential name='a' value='2'/></vbcredentials>",
     "a second <vbcredential name='a'>"),
    ("CDROM", "<vbcredentials><vbcredential name='a' value='1' file='x'/></vbcredentials>",
     "<vbcredential> has either value= or file="),
])
def test_what_does_not_go_together(method: str, config: str, said: str) -> None:
    assert mistakes(method, config) == [(2, said)]


def test_a_static_address_that_nobody_could_reach() -> None:
    interface = "<interface type='network'><vbnetwork method='static' addresses='10.0.0.2' prefix='24'/></interface>"
    [(line, said)] = mistakes("ROOTSSH", ROOTSSH, interface, "<cmdline>quiet</cmdline>")
    assert (line, said.partition(":")[0]) == (4, "<vbnetwork method='static'> with vbpreparemethod ROOTSSH needs "
                                                 "<vbkernelline>yes</vbkernelline>")
    assert parsed("ROOTSSH", f"{ROOTSSH}<vbkernelline>yes</vbkernelline>", interface, "<cmdline>quiet</cmdline>").kernel_line


@pytest.mark.parametrize("method", ["DISK", "ROOTSSH"])
def test_a_medium_for_another_method(method: str) -> None:
    config = ROOTSSH if method == "ROOTSSH" else ""
    devices = layout(ROOT) if method == "DISK" else ""
    archive = "<vbtarfiles><vbtarfile tarfile='a.tar' option='cdrom'/></vbtarfiles>"
    assert [said.partition(":")[0].partition(" and ")[0] for _, said in mistakes(method, config + archive, devices + CD)] == [
        "<vbtarfile option='cdrom'>", "<vbpreparecdrom> goes with vbpreparemethod CDROM,"]


def test_several_media() -> None:
    more = MEDIUM.format("source='cloud.iso' format='nocloud' userdata='site.yaml'", "vdc")
    assert [tag.medium for tag in parsed("CDROM", devices=more).disks if tag.medium] == [
        MediumTag("cloud.iso", "nocloud", "", "/etc/vmbatch/domains/site.yaml"), MediumTag("context.iso", "vmbatch", "", "")]


@pytest.mark.parametrize(("attributes", "said"), [
    ("source='context.iso'", "a second <vbpreparecdrom source='context.iso'>; give it another name"),
    ("source='b.iso' format='nocloud' label='X'",
     "<vbpreparecdrom> label=: guests know a medium of the format 'nocloud' by its own label; take it out"),
    ("source='b.iso' userdata='/x'", "<vbpreparecdrom> userdata= goes with format='nocloud', 'configdrive', 'opennebula' or "
                                     "'cernvm'"),
])
def test_mistakes_of_media(attributes: str, said: str) -> None:
    assert [found for _, found in mistakes("CDROM", devices=MEDIUM.format(attributes, "vdc"))] == [said]


@pytest.mark.error("VB103")
def test_a_console_for_the_job() -> None:
    assert parsed("CDROM").console_shell == ""
    assert parsed("CDROM", "<vbshell>CONSOLE</vbshell>").console_shell == "hvc0"
    assert parsed("CDROM", "<vbshell device='ttyS1'>CONSOLE</vbshell>").console_shell == "ttyS1"
    two = "<serial type='pty'/><serial type='pty'/>"
    [(_, said)] = mistakes("CDROM", "<vbshell device='ttyS1'>CONSOLE</vbshell>", two)
    assert said == "<vbshell device='ttyS1'>: the template has a second <serial> of its own; take it out"


def test_credentials() -> None:
    tags = "<vbcredentials><vbcredential name='a.b' value='1'/><vbcredential name='c' file='x'/></vbcredentials>"
    assert parsed("CDROM", tags).credentials == (Credential("a.b", "1", ""), Credential("c", "", "/etc/vmbatch/domains/x"))
    [(line, said)] = mistakes("CDROM", tags, system="<smbios mode='host'/>")
    assert line == 3
    assert said.startswith("<smbios mode='host'/> shows the node's own firmware")
