"""The filter between a guest and its network: libvirt's schema takes it, and it lets pass what it should."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmbatch.errors import InputError
from vmbatch.facts import Around
from vmbatch.hypervisor.netfilter import NetworkFilter
from vmbatch.plan import FilterFile, plan
from vmbatch.template import LEARNT, Guard, filter_xml, others, parse_network

from .sample import TEMPLATE, TOKEN, facts, form, job, settings

MAC, IP, IPV6 = "52:54:00:12:34:56", "10.77.0.21", "fd00:77::21"
UUID = "01234567-89ab-4def-8123-456789abcdef"
NODE = ("10.77.0.1", "10.77.0.255", "fd00:77::1")
CLOSED = ("10.77.0.22/32", "10.9.0.0/16", "fd00:77::22/128")
BOTH = Guard(MAC, (IP,), IPV6, False, NODE, CLOSED, (53, 2049), 32768)
SCHEMA = Path("/usr/share/libvirt/schemas/nwfilter.rng")
ROUTER_ADVERTISEMENT, NEIGHBOUR = "134", "135"


def matches(rule: etree._Element, direction: str, frame: dict[str, str]) -> bool:
    """Whether a rule of one condition is for a frame, as libvirt's documentation of nwfilter has it."""
    if rule.get("direction") != direction:
        return False
    [condition] = rule
    kind = condition.tag
    if kind != "mac" and kind != {"ipv4": "ip", "arp": "arp", "ipv6": "ipv6"}.get(frame["ether"]):
        return False
    told = dict(condition.attrib)
    negated = told.pop("match", "yes") == "no"
    for end in ("src", "dst"):
        mask = told.pop(f"{end}ipmask", None)
        if mask is not None:
            told[f"{end}ipaddr"] += f"/{mask}"
    fits = []
    for name, wanted in told.items():
        if name.endswith("portend"):
            continue
        if name.endswith("ipaddr") and not name.startswith("arp"):
            fits.append(ipaddress.ip_address(frame[name]) in ipaddress.ip_network(wanted))
        elif name.endswith("portstart"):
            end = told.get(name.replace("start", "end"), wanted)
            fits.append(name[:-5] in frame and int(wanted) <= int(frame[name[:-5]]) <= int(end))
        else:
            fits.append(frame.get(name if name != "protocolid" else "ether") == wanted)
    return all(fits) != negated


def verdict(guard: Guard, direction: str = "out", **frame: str) -> str:
    """What becomes of a frame: the first rule that fits, else it passes."""
    frame = {"srcmacaddr": MAC, "ether": "ipv4", "srcipaddr": IP, **frame}
    if frame["ether"] == "ipv6" and frame["srcipaddr"] == IP:
        frame["srcipaddr"] = IPV6
    root = etree.fromstring(filter_xml("f", UUID, guard).replace(b"$IP", IP.encode()))
    rules = sorted(root.findall("rule"), key=lambda rule: int(rule.get("priority", "")))
    return next((str(rule.get("action")) for rule in rules if matches(rule, direction, frame)), "accept")


LEARNED = Guard(MAC, (LEARNT,), "", True, NODE, CLOSED, (53,), 32768)
PINNED = Guard(MAC, (IP,), "", True, NODE, CLOSED, (53,), 32768)
SECOND = "10.77.0.30"
TWICE = Guard(MAC, (SECOND, IP), "", True, NODE, CLOSED, (53,), 32768)
WAITING = Guard(MAC, (), "", True, NODE, CLOSED, (53,), 32768)
SIX = Guard(MAC, (), IPV6, False, NODE, CLOSED, (53,), 32768)


@pytest.mark.parametrize("guard", [BOTH, LEARNED, PINNED, TWICE, WAITING, SIX, Guard(MAC, (LEARNT,), "", True, (), (), (), 1)])
def test_libvirts_schema(guard: Guard) -> None:
    schema = etree.RelaxNG(etree.parse(str(SCHEMA)))
    document = etree.fromstring(filter_xml("vmbatch-42.vm-01234567-0", UUID, guard))
    assert schema.validate(document), schema.error_log


@pytest.mark.parametrize(("what", "frame"), [
    ("another's MAC", {"srcmacaddr": "52:54:00:00:00:01", "dstipaddr": "198.51.100.7"}),
    ("another's address", {"srcipaddr": "10.77.0.22", "dstipaddr": "198.51.100.7"}),
    ("another's MAC in ARP", {"ether": "arp", "arpsrcmacaddr": "52:54:00:00:00:01", "arpsrcipaddr": IP}),
    ("another's address in ARP", {"ether": "arp", "arpsrcmacaddr": MAC, "arpsrcipaddr": "10.77.0.1"}),
    ("DHCP's answers", {"dstipaddr": "198.51.100.7", "protocol": "udp", "srcport": "67", "dstport": "68"}),
    ("another guest", {"dstipaddr": "10.77.0.22", "protocol": "tcp", "srcport": "4000", "dstport": "22"}),
    ("another guest's NFS", {"dstipaddr": "10.77.0.22", "protocol": "tcp", "srcport": "4000", "dstport": "2049"}),
    ("a closed network", {"dstipaddr": "10.9.3.3", "protocol": "udp", "srcport": "4000", "dstport": "53"}),
    ("the node's batch daemon", {"dstipaddr": "10.77.0.1", "protocol": "tcp", "srcport": "4000", "dstport": "15002"}),
    ("the node's daemon from port 22", {"dstipaddr": "10.77.0.1", "protocol": "tcp", "srcport": "22", "dstport": "15002"}),
    ("the node's broadcast", {"dstipaddr": "10.77.0.255", "protocol": "udp", "srcport": "4000", "dstport": "15002"}),
    ("all of the network", {"dstipaddr": "255.255.255.255", "protocol": "udp", "srcport": "4000", "dstport": "15002"}),
    ("the cloud's own", {"dstipaddr": "169.254.169.254", "protocol": "tcp", "srcport": "4000", "dstport": "80"}),
    ("a port of root's", {"dstipaddr": "198.51.100.7", "protocol": "tcp", "srcport": "1023", "dstport": "15001"}),
    ("a port of root's, UDP", {"dstipaddr": "198.51.100.7", "protocol": "udp", "srcport": "1", "dstport": "15001"}),
    ("another protocol", {"ether": "vlan"}),
    ("another's IPv6 address", {"ether": "ipv6", "srcipaddr": "fd00:77::22", "dstipaddr": "fd00:99::7"}),
    ("a router's word", {"ether": "ipv6", "srcipaddr": "fe80::1", "dstipaddr": "ff02::1", "protocol": "icmpv6",
                         "type": ROUTER_ADVERTISEMENT}),
    ("a router's word behind a header", {"ether": "ipv6", "srcipaddr": "fe80::1", "dstipaddr": "ff02::1", "protocol": "0"}),
    ("DHCPv6's answers", {"ether": "ipv6", "dstipaddr": "fd00:99::7", "protocol": "udp", "srcport": "547", "dstport": "546"}),
    ("another guest by IPv6", {"ether": "ipv6", "dstipaddr": "fd00:77::22", "protocol": "tcp", "srcport": "1", "dstport": "22"}),
    ("the node by IPv6", {"ether": "ipv6", "dstipaddr": "fd00:77::1", "protocol": "tcp", "srcport": "4000", "dstport": "15002"}),
    ("the node's link-local address", {"ether": "ipv6", "dstipaddr": "fe80::1", "protocol": "tcp", "srcport": "9"}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_guest_cannot_send(what: str, frame: dict[str, str]) -> None:
    assert verdict(BOTH, **frame) == "drop", what


@pytest.mark.parametrize(("what", "frame"), [
    ("the world", {"dstipaddr": "198.51.100.7", "protocol": "tcp", "srcport": "40000", "dstport": "443"}),
    ("NFS as the kernel asks", {"dstipaddr": "10.77.0.1", "protocol": "tcp", "srcport": "900", "dstport": "2049"}),
    ("a name server", {"dstipaddr": "10.77.0.1", "protocol": "udp", "srcport": "40000", "dstport": "53"}),
    ("ssh's answers to the node", {"dstipaddr": "10.77.0.1", "protocol": "tcp", "srcport": "22", "dstport": "45678"}),
    ("ssh's answers to others", {"dstipaddr": "198.51.100.7", "protocol": "tcp", "srcport": "22", "dstport": "45678"}),
    ("ping", {"dstipaddr": "10.77.0.1", "protocol": "icmp"}),
    ("the time", {"dstipaddr": "198.51.100.7", "protocol": "udp", "srcport": "123", "dstport": "123"}),
    ("ARP", {"ether": "arp", "arpsrcmacaddr": MAC, "arpsrcipaddr": IP}),
    ("IPv6", {"ether": "ipv6", "dstipaddr": "fd00:99::7", "protocol": "tcp", "srcport": "4000", "dstport": "443"}),
    ("IPv6's ARP", {"ether": "ipv6", "srcipaddr": "fe80::5054:ff:fe12:3456", "dstipaddr": "ff02::1:ff00:1", "protocol": "icmpv6",
                    "type": NEIGHBOUR}),
    ("whether an IPv6 address is free", {"ether": "ipv6", "srcipaddr": "::", "dstipaddr": "ff02::1:ff00:1", "protocol": "icmpv6",
                                         "type": NEIGHBOUR}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_guest_can_send(what: str, frame: dict[str, str]) -> None:
    assert verdict(BOTH, **frame) == "accept", what


@pytest.mark.parametrize("guard", [LEARNED, PINNED, TWICE], ids=["learned", "pinned", "two addresses"])
@pytest.mark.parametrize("server", ["10.77.0.1", "255.255.255.255", "198.51.100.7"])
def test_a_lease_is_renewed(server: str, guard: Guard) -> None:
    """By a guest that asks DHCP, from its own address alone."""
    asked = {"dstipaddr": server, "protocol": "udp", "srcport": "68", "dstport": "67"}
    assert verdict(guard, **asked) == "accept"
    assert [verdict(of, **frame) for of, frame in (
        (guard, {**asked, "srcipaddr": "10.77.0.22"}), (guard, {**asked, "dstport": "15001"}),
        (guard, {**asked, "srcport": "1000"}), (BOTH, asked))] == ["drop"] * 4


def test_a_pinned_address_is_not_learned() -> None:
    assert b"$IP" in filter_xml("f", UUID, LEARNED)
    assert filter_xml("f", UUID, PINNED) == filter_xml("f", UUID, LEARNED).replace(b"$IP", IP.encode())
    assert b"$" not in filter_xml("f", UUID, WAITING)


ASKED = {"srcipaddr": "0.0.0.0", "dstipaddr": "255.255.255.255", "protocol": "udp", "srcport": "68",  # noqa: S104
         "dstport": "67"}
ANSWERED = {"srcmacaddr": "52:54:00:00:00:01", "srcipaddr": "10.77.0.1", "dstipaddr": IP, "protocol": "udp", "srcport": "67",
            "dstport": "68"}


def test_a_guest_that_waits_speaks_with_dhcp_alone() -> None:
    assert verdict(WAITING, **ASKED) == "accept"
    assert verdict(WAITING, "in", **ANSWERED) == "accept"


@pytest.mark.parametrize("frame", [
    {"ether": "arp", "arpsrcmacaddr": MAC, "arpsrcipaddr": IP}, {"ether": "vlan"}, {"ether": "ipv6", "srcipaddr": "fe80::1"},
    {"srcipaddr": IP, "dstipaddr": "10.77.0.1", "protocol": "icmp"},
    {**ASKED, "srcipaddr": IP}, {**ASKED, "dstipaddr": "10.77.0.1"}, {**ASKED, "srcport": "67"}, {**ASKED, "dstport": "53"},
    {**ASKED, "srcmacaddr": "52:54:00:00:00:01"},
])
def test_what_a_guest_that_waits_cannot_send(frame: dict[str, str]) -> None:
    assert verdict(WAITING, **frame) == "drop"


@pytest.mark.parametrize("frame", [
    {"ether": "arp", "arpsrcmacaddr": MAC, "arpsrcipaddr": IP}, {"ether": "ipv6", "srcipaddr": "fe80::1"},
    {"srcipaddr": "10.77.0.1", "protocol": "icmp"}, {**ANSWERED, "srcport": "53"}, {**ANSWERED, "dstport": "22"},
])
def test_what_does_not_reach_a_guest_that_waits(frame: dict[str, str]) -> None:
    assert verdict(WAITING, "in", **{"srcmacaddr": "52:54:00:00:00:01", **frame}) == "drop"


def test_two_addresses() -> None:
    """As of a guest that has asked twice, in the names of two programs."""
    for own in (IP, SECOND):
        assert verdict(TWICE, srcipaddr=own, dstipaddr="198.51.100.7", protocol="tcp", srcport="40000", dstport="443") == "accept"
        assert verdict(TWICE, ether="arp", arpsrcmacaddr=MAC, arpsrcipaddr=own) == "accept"
        assert verdict(TWICE, srcipaddr=own, dstipaddr="10.77.0.22", protocol="tcp", srcport="40000", dstport="22") == "drop"
    assert verdict(TWICE, srcipaddr="10.77.0.22", dstipaddr="198.51.100.7", protocol="tcp", srcport="4", dstport="443") == "drop"


@given(st.sampled_from([BOTH, PINNED, TWICE, WAITING, SIX]), st.ip_addresses(v=4), st.ip_addresses(v=4),
       st.sampled_from(["tcp", "udp", "icmp", "sctp"]), st.integers(0, 65535), st.integers(0, 65535))
def test_nothing_passes_from_another_address(guard: Guard, source: object, target: object, protocol: str, port: int,
                                             to: int) -> None:
    frame = {"srcipaddr": str(source), "dstipaddr": str(target), "protocol": protocol, "srcport": str(port), "dstport": str(to)}
    if str(source) not in guard.ipv4 and frame != ASKED:
        assert verdict(guard, **frame) == "drop"


def test_what_reaches_a_guest() -> None:
    assert verdict(BOTH, "in", srcmacaddr="52:54:00:00:00:01", srcipaddr="10.77.0.22") == "drop"
    assert verdict(BOTH, "in", srcmacaddr="52:54:00:00:00:01", srcipaddr="10.77.0.1") == "accept"
    assert verdict(BOTH, "in", srcmacaddr="52:54:00:00:00:01", ether="ipv6", srcipaddr="fd00:77::22") == "drop"


def test_without_an_address_of_a_family() -> None:
    assert verdict(LEARNED, ether="ipv6", srcipaddr="fe80::1", dstipaddr="ff02::1", protocol="icmpv6", type=NEIGHBOUR) == "drop"
    assert verdict(LEARNED, "in", ether="ipv6", srcmacaddr="52:54:00:00:00:01", srcipaddr="fe80::1") == "drop"
    assert verdict(LEARNED, srcipaddr="0.0.0.0", dstipaddr="255.255.255.255", protocol="udp",  # noqa: S104
                   srcport="68", dstport="67") == "accept"
    assert verdict(SIX, dstipaddr="198.51.100.7", protocol="tcp", srcport="4000", dstport="443") == "drop"
    assert verdict(SIX, ether="arp", arpsrcmacaddr=MAC, arpsrcipaddr=IP) == "drop"


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
    assert b"filterref" not in chosen.xml


def steps(text: str = TEMPLATE, **changed: object) -> list[str]:
    around = Around(NODE, (("10.77.0.128/25",), ()), 32768)
    chosen = plan(job(), form(text), settings(**changed), facts(around=around, text=text))
    return [str(step) for phase in chosen.phases for step in phase.steps
            if isinstance(step, NetworkFilter | FilterFile)] + [chosen.xml.decode()]


def test_each_interface_has_a_filter_of_the_jobs() -> None:
    *made, xml = steps()
    assert [text.partition(" (")[0] for text in made] == [
        f"filter XML /var/lib/vmbatch/spool/42.vm.{TOKEN}/filter-0.xml", "network filter vmbatch-42.vm-01234567-0",
        f"filter XML /var/lib/vmbatch/spool/42.vm.{TOKEN}/filter-1.xml", "network filter vmbatch-42.vm-01234567-1",
    ]
    for number, interface in enumerate(etree.fromstring(xml).findall("devices/interface")):
        reference = interface.find("filterref")
        assert reference is not None
        assert reference.get("filter") == f"vmbatch-42.vm-01234567-{number}"
        assert [dict(parameter.attrib) for parameter in reference] == [{"name": "CTRL_IP_LEARNING", "value": "dhcp"}]
        assert [dict(port.attrib) for port in interface.findall("port")] == [{"isolated": "yes"}]


TAGS = "<interface type='network'><source network='default'/></interface>"


@pytest.mark.parametrize(("text", "changed"), [
    (TEMPLATE, {"network_filter": False}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<vbnetwork method='dhcp' filter='no'/><source")), {}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<filterref filter='clean-traffic'/><source")), {}),
    (TEMPLATE.replace(TAGS, TAGS.replace("<source", "<virtualport type='openvswitch'/><source")), {}),
    (TEMPLATE.replace(TAGS, "<interface type='direct'><source dev='eth0'/></interface>"), {}),
    (TEMPLATE.replace("type='kvm'", "type='test'").replace(">KVM<", ">TEST<"), {}),
], ids=["not wanted", "not in this template", "the template's own", "Open vSwitch", "no bridge", "libvirt's test driver"])
def test_interfaces_without_a_filter_of_ours(text: str, changed: dict[str, object]) -> None:
    *made, xml = steps(text, **changed)
    assert made == []
    assert "vmbatch-42.vm-01234567-0" not in xml
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
    closed = [[f"{each.get('dstipaddr')}/{each.get('dstipmask')}"
               for each in etree.fromstring(file.xml).findall("rule[@action='drop']/ip")
               if each.get("dstipaddr", "").startswith("10.77.")] for file in files]
    assert closed == [["10.77.0.0/32", "10.77.0.20/31", "10.77.0.1/32", "10.77.0.255/32"],
                      ["10.77.0.0/32", "10.77.0.1/32", "10.77.0.255/32"]]
