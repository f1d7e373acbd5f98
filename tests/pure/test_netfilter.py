"""The rules between a guest and its network, as text, and what a plan makes of them; tests/network has what they let pass."""

import ipaddress
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmbatch.errors import InputError
from vmbatch.facts import Around
from vmbatch.guard import Guard, Port, bare, claim, others, removal, rules
from vmbatch.hypervisor.netfilter import NetworkFilter
from vmbatch.plan import FilterFile, plan
from vmbatch.template import parse_network

from .sample import TEMPLATE, TOKEN, facts, form, job, settings

MAC, IP, IPV6 = "52:54:00:12:34:56", "10.77.0.21", "fd00:77::21"
NODE = ("10.77.0.1", "10.77.0.255", "fd00:77::1")
CLOSED = ("10.77.0.22/32", "10.9.0.0/16", "fd00:77::22/128")
BOTH = Guard(MAC, (IP,), IPV6, False, NODE, CLOSED, (53, 2049, 2050), 32768)
LEARNS = Guard(MAC, (), "", True, NODE, CLOSED, (53,), 32768, learns=True)
WAITING = Guard(MAC, (), "", True, NODE, CLOSED, (53,), 32768)
PORT = Port(TOKEN, 3)


@pytest.mark.parametrize(("name", "guard"), [("both", BOTH), ("learns", LEARNS), ("waiting", WAITING)])
def test_the_rules(name: str, guard: Guard, golden: Callable[[str, str], None]) -> None:
    """As an admin sees them in the job's directory."""
    golden(f"filter-{name}.nft", rules(PORT, guard))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 999))
def test_names(token: bytes, number: int) -> None:
    """An interface's is short (IFNAMSIZ) and none of libvirt's own (src/util/virnetdev.h); a chain's is this start's alone."""
    port = Port(token.hex(), number)
    assert len(port.interface) <= 15
    assert not port.interface.startswith(("vnet", "vif", "macvtap", "macvlan"))
    assert set(re.findall(r"[0-9a-f]{32}-[0-9]+", claim(port) + rules(port, LEARNS) + removal(port))) == {port.name}
    assert rules(port, LEARNS).startswith(bare(port)), "without which a first guest's are made"


def test_what_is_made_is_removed() -> None:
    made = re.findall(r"^    (?:chain|set) (\S+-[0-9a-f]{32}-3) ", rules(PORT, LEARNS), re.MULTILINE)
    gone = re.findall(r"^delete (?:chain|set) bridge vmbatch (\S+)$", removal(PORT), re.MULTILINE)
    assert sorted(gone) == sorted(set(made))
    assert len(gone) == 4
    for way in ("from", "to"):
        assert f'delete element bridge vmbatch {way} {{ "{PORT.interface}"' in removal(PORT)


@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(20, 32)), max_size=4), st.integers(0, (1 << 32) - 1))
def test_others_are_all_but_the_node(places: list[tuple[int, int]], own: int) -> None:
    networks = [ipaddress.ip_network((number, prefix), strict=False) for number, prefix in places]
    us = ipaddress.IPv4Address(own)
    left = [ipaddress.ip_network(text) for text in others(map(str, networks), [str(us), "fd00::1"])]
    assert not any(us in network for network in left)
    assert sum(network.num_addresses for network in left) == sum(network.num_addresses - (us in network) for network in networks)


def test_the_leases_of_a_network() -> None:
    text = "<network><ip><dhcp><range start='10.77.0.254' end='10.77.1.1'/></dhcp></ip><ip family='ipv6'/></network>"
    assert parse_network(text).networks == ("10.77.0.254/31", "10.77.1.0/31")
    assert parse_network("<network/>").networks == ()


@pytest.mark.parametrize(("text", "bridge"), [
    ("<network><forward mode='nat'/><bridge name='virbr0'/></network>", True),
    ("<network><forward mode='bridge'/><bridge name='br0'/></network>", True),
    ("<network><forward mode='bridge'/><bridge name='ovs0'/><virtualport type='openvswitch'/></network>", False),
    ("<network><bridge name='b'/><portgroup name='a'><virtualport type='openvswitch'/></portgroup></network>", False),
    ("<network><forward mode='passthrough'><interface dev='eth0'/></forward></network>", False),
])
def test_which_networks_can_be_guarded(text: str, bridge: bool) -> None:
    assert bool(parse_network(text).bridge) is bridge


def test_a_network_that_cannot_be_guarded_is_said() -> None:
    chosen = plan(job(), form(), settings(), facts(around=Around(no_bridge=frozenset(["default"]))))
    assert chosen.notes == ("no filter guards the network default: it is no bridge of Linux's",)
    assert b"vb-" not in chosen.xml


def steps(text: str = TEMPLATE, **changed: object) -> list[str]:
    around = Around(NODE, (("10.77.0.128/25",), ()), 32768)
    chosen = plan(job(), form(text), settings(**changed), facts(around=around, text=text))
    return [str(step) for phase in chosen.phases for step in phase.steps
            if isinstance(step, NetworkFilter | FilterFile)] + [chosen.xml.decode()]


def test_each_interface_has_a_filter_of_the_jobs() -> None:
    *made, xml = steps()
    assert [text.partition(" (")[0] for text in made] == [
        f"filter rules /var/lib/vmbatch/spool/42.vm.{TOKEN}/filter-0.nft", "network filter vb-01234567-0",
        f"filter rules /var/lib/vmbatch/spool/42.vm.{TOKEN}/filter-1.nft", "network filter vb-01234567-1",
    ]
    for number, interface in enumerate(etree.fromstring(xml).findall("devices/interface")):
        assert [dict(target.attrib) for target in interface.findall("target")] == [{"dev": f"vb-01234567-{number}"}]
        assert [dict(port.attrib) for port in interface.findall("port")] == [{"isolated": "yes"}]


TAGS = "<interface type='network'><source network='default'/></interface>"


@pytest.mark.parametrize(("text", "changed"), [
    (TEMPLATE, {"network_filter": False}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<vbnetwork method='dhcp' filter='no'/><source")), {}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<filterref filter='clean-traffic'/><source")), {}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<virtualport type='openvswitch'/><source")), {}),
    (TEMPLATE.replace(TAGS, "<interface type='direct'><source dev='eth0'/></interface>"), {}),
    (TEMPLATE.replace(TAGS, TAGS.replace("</interface>", "<script path='/etc/xen/scripts/vif-route'/></interface>")), {}),
    (TEMPLATE.replace("type='kvm'", "type='xen'").replace(">KVM<", ">XEN<")
     .replace("<devices>", "<os><type>hvm</type></os><devices>"), {"libvirt_uri": "xen:///system"}),
], ids=["not wanted", "not in this template", "the template's own", "Open vSwitch", "no bridge", "routed by Xen", "of Xen's HVM"])
def test_interfaces_without_a_filter_of_ours(text: str, changed: dict[str, object]) -> None:
    *made, xml = steps(text, **changed)
    assert made == []
    assert "vb-" not in xml
    assert "isolated" not in xml


def test_peers() -> None:
    tag = TAGS.replace("<source", "<vbnetwork method='dhcp' peers='yes'/><source")
    *made, xml = steps(TEMPLATE.replace(TAGS, tag))
    assert len(made) == 4
    assert "isolated" not in xml


@pytest.mark.parametrize("tag", ["<vbnetwork method='dhcp' filter='maybe'/>", "<vbnetwork method='dhcp' peers='x'/>",
                                 "<vbnetwork method='dhcp' prefix='24'/>"])
def test_mistakes(tag: str) -> None:
    with pytest.raises(InputError) as caught:
        form(TEMPLATE.replace(TAGS, TAGS.replace("<source", f"{tag}<source"), 1))
    [(_, said)] = caught.value.problems
    assert "<vbnetwork>" in said


def test_closed_is_all_but_this_node() -> None:
    around = Around(NODE, (("10.77.0.20/31",), ()), 32768)
    chosen = plan(job(), form(), settings(network_closed=("10.77.0.0/31",)), facts(around=around))
    files = [step for phase in chosen.phases for step in phase.steps if isinstance(step, FilterFile)]
    closed = [re.findall(r"^        ip daddr (10\.77\.\S+) drop$", file.rules, re.MULTILINE) for file in files]
    assert closed == [["10.77.0.0", "10.77.0.20/31", "10.77.0.1", "10.77.0.255"], ["10.77.0.0", "10.77.0.1", "10.77.0.255"]]


def test_a_name_of_the_templates_own_gives_way() -> None:
    """Two guests could not have it."""
    named = TAGS.replace("</interface>", "<target dev='guest0' managed='no'/></interface>")
    *_made, xml = steps(TEMPLATE.replace(TAGS, named, 1))
    assert [dict(each.attrib) for each in etree.fromstring(xml).findall("devices/interface/target")] == [
        {"dev": "vb-01234567-0", "managed": "no"}, {"dev": "vb-01234567-1"}]
