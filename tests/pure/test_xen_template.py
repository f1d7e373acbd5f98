"""Templates for Xen: what says that a template is for it, what it has not, and what its domain gets."""

import pytest
from lxml import etree

from vmbatch import template
from vmbatch.errors import InputError, SiteError
from vmbatch.host.xen import XenDomain, parse_list
from vmbatch.plan import plan

from .sample import facts, job, settings

MEDIUM = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><vbpreparecdrom source='c.iso'/>
<target dev='xvdb'/><readonly/></disk>"""
XEN = "xen:///system"


def text(config: str = "", kind: str = "xen", devices: str = "") -> str:
    return f"""<domain type='{kind}'><vbconfig>{config}</vbconfig>
<os><type>linux</type><kernel>/boot/vmlinuz</kernel><cmdline>quiet</cmdline></os>
<devices>{MEDIUM}{devices}</devices></domain>"""


def parsed(*about: str) -> template.Template:
    return template.parse(text(*about).encode(), "t.xml")


def made(form: template.Template, **changed: object) -> etree._Element:
    chosen = plan(job(), form, settings(**{"libvirt_uri": XEN, **changed}), facts(text=text()))
    return etree.fromstring(chosen.xml)


@pytest.mark.parametrize(("config", "hypervisor"), [
    ("", "XEN"), ("<vbhypervisor>XEN</vbhypervisor>", "XEN"), ("<vbhypervisor>XEN3</vbhypervisor>", "XEN3"),
    ("<vbhypervisor> XEN4 </vbhypervisor>", "XEN4"),
])
def test_which(config: str, hypervisor: str) -> None:
    assert parsed(config).hypervisor == hypervisor


@pytest.mark.parametrize(("config", "kind", "said"), [
    ("<vbhypervisor>XEN4</vbhypervisor>", "kvm",
     "<vbhypervisor>XEN4</vbhypervisor> in a <domain type='kvm'>; it must be type='xen'"),
    ("<vbhypervisor>KVM</vbhypervisor>", "xen",
     "<vbhypervisor>KVM</vbhypervisor> in a <domain type='xen'>; it must be type='kvm'"),
    ("", "vmware", "<domain type='vmware'> is none that VmBatch knows; use type='kvm', type='qemu' or type='xen'"),
    ("<vbmessages>CHANNEL</vbmessages>", "xen",
     "<vbmessages>CHANNEL</vbmessages> is a virtio port, which Xen has not; use SHARE, or CONSOLE with "
     "<vbshell>CONSOLE</vbshell>"),
    ("<vbshell device='ttyS1'>CONSOLE</vbshell>", "xen",
     "<vbshell device='ttyS1'>: a Xen guest has one console, hvc0; take device= out"),
    ("<vbcredentials><vbcredential name='a' value='b'/></vbcredentials>", "xen",
     "<vbcredentials> go through the firmware's tables, which Xen's guests have not; use vbpreparemethod CDROM"),
])
def test_what_xen_has_not(config: str, kind: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed(config, kind)
    assert said in [problem for _, problem in caught.value.problems]


@pytest.mark.parametrize(("kind", "uri", "said"), [
    ("xen", "qemu:///system", "t.xml is for XEN, and [libvirt] uri = qemu:///system"),
    ("kvm", "xen:///system", "t.xml is for KVM, and [libvirt] uri = xen:///system"),
    ("kvm", "xen+unix:///system", "t.xml is for KVM, and [libvirt] uri = xen+unix:///system"),
])
def test_the_nodes_hypervisor_is_another(kind: str, uri: str, said: str) -> None:
    with pytest.raises(SiteError) as caught:
        made(parsed("", kind), libvirt_uri=uri)
    assert caught.value.what == said


@pytest.mark.parametrize("kind", ["virtiofs", "9p"])
def test_a_share_that_qemu_would_give(kind: str) -> None:
    with pytest.raises(SiteError) as caught:
        made(parsed(), share_type=kind)
    assert caught.value.what == f"[share] type = {kind} needs QEMU or KVM, and t.xml is for XEN"


def test_the_domain() -> None:
    """Xen's own console, no log by libvirt, a MAC of Xen's, the medium as a CD."""
    root = made(parsed("", "xen", "<interface type='bridge'><source bridge='xenbr0'/></interface>"))
    assert [etree.tostring(each).strip() for each in root.findall("devices/console")] == [
        b'<console type="pty"><target type="xen" port="0"/></console>']
    assert root.find("devices/serial") is None
    assert str(root.xpath("string(devices/interface/mac/@address)")).startswith("00:16:3e:")
    assert root.xpath("string(devices/disk/@device)") == "cdrom"


def test_a_console_of_the_templates_own_is_the_jobs() -> None:
    own = "<console type='file'><source path='/var/log/x'/><target type='xen'/></console>"
    root = made(parsed("<vbshell>CONSOLE</vbshell>", "xen", own))
    [console] = root.findall("devices/console")
    assert console.get("type") == "pty"
    assert template.console_path("<domain><devices><console type='pty'><source path='/dev/pts/3'/><target type='xen'/></console>"
                                 "</devices></domain>", "hvc0") == "/dev/pts/3"


REST = "        -                -"
LIST = f"""Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID          Reason-Code\tSecurity Label
Domain-0                                     0   768     1     r-----      47.7 00000000-0000-0000-0000-000000000000{REST}
vmbatch-42.vm-8b00930f                       2   192     1     ------       0.5 8b00930f-1111-4222-8333-444455556666{REST}
(null)                                      13     0     1     --p--d       2.1 5e1e0c0e-1111-4222-8333-444455556666{REST}
vmbatch-43.vm-9b00930f                       7   192     2     -b---d       2.1 9b00930f-1111-4222-8333-444455556666{REST}
"""


def test_what_xl_lists() -> None:
    assert parse_list(LIST) == [
        XenDomain("vmbatch-42.vm-8b00930f", 2, "8b00930f-1111-4222-8333-444455556666", False),
        XenDomain("(null)", 13, "5e1e0c0e-1111-4222-8333-444455556666", True),
        XenDomain("vmbatch-43.vm-9b00930f", 7, "9b00930f-1111-4222-8333-444455556666", True),
    ]
