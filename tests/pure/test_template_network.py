"""The <vbnetwork> tags: what is read of them, and every mistake with its line and words."""

import ipaddress
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from vmbatch.template import schema
from vmbatch.template.network import InterfaceTag, Pool, read_networks

FIRST = 3
"""Line of the first line of `text` in a domain with `text` in it."""
NETMASK = "netmask='255.255.255.0'"
STATIC4 = f"<vbnetwork method='static' first='10.0.0.20' count='30' {NETMASK} gateway='10.0.0.1'/>"
STATIC6 = "<vbnetwork method='static' addresses='fd00::10 fd00::12' prefix='64'/>"


def domain(text: str) -> etree._Element:
    return etree.fromstring(f"<domain type='kvm'>\n<devices>\n{text}\n</devices></domain>")


def read(*interfaces: str) -> tuple[InterfaceTag, ...]:
    found: list[schema.Problem] = []
    tags = read_networks(domain("\n".join(f"<interface>{text}</interface>" for text in interfaces)), found)
    assert found == []
    return tags


def mistakes(*interfaces: str) -> list[tuple[int, str]]:
    """(line within the interfaces, words) of each, of the schema and of the reader; an interface is on one line."""
    root = domain("\n".join(f"<interface>{text}</interface>" for text in interfaces))
    found = schema.problems(root)
    read_networks(root, found)
    return sorted((line - FIRST, text) for line, text in found)


def wrong(attributes: str) -> str:
    """The words of the one mistake of a static interface."""
    found = mistakes(f"<vbnetwork method='static' {attributes}/>")
    assert len(found) == 1, found
    assert found[0][0] == 0
    assert found[0][1].startswith("<vbnetwork> ")
    return found[0][1].removeprefix("<vbnetwork> ")


def test_without_a_tag() -> None:
    assert read("") == (InterfaceTag(FIRST, "dhcp"),)
    assert read("<vbnetwork method='dhcp'/>")[0].method == "dhcp"
    assert read_networks(etree.fromstring("<domain><devices/></domain>"), []) == ()


def test_a_sequence() -> None:
    (tag,) = read("<vbnetwork method='static' first='10.0.0.20' count='30' netmask='255.255.255.0' gateway='10.0.0.1' "
                  "dns='10.0.0.1  10.0.0.2 fd00::1' search='example.org A.org.'/>")
    assert tag == InterfaceTag(FIRST, "static", Pool(
        line=FIRST, family=4, listed=(), first="10.0.0.20", count=30, prefix=24, gateway="10.0.0.1",
        dns=("10.0.0.1", "10.0.0.2", "fd00::1"), search=("example.org", "a.org")))
    assert tag.ipv4 is not None
    assert tag.pools == (tag.ipv4,)
    assert (tag.ipv4.size, tag.ipv4.name) == (30, "10.0.0.20..10.0.0.49")
    assert [tag.ipv4.address(number) for number in (0, 1, 29)] == ["10.0.0.20", "10.0.0.21", "10.0.0.49"]


def test_a_list_and_both_families() -> None:
    (tag,) = read("<vbnetwork method='static' addresses='FD00:0::0010 fd00::12' prefix='64' gateway='fe80::1'/>"
                  "<vbnetwork method='static' addresses='10.0.0.10' prefix='30'/>")
    assert tag.ipv6 is not None
    assert tag.ipv4 is not None
    assert tag.pools == (tag.ipv4, tag.ipv6)
    assert tag.ipv6.listed == ("fd00::10", "fd00::12")
    assert (tag.ipv6.prefix, tag.ipv6.gateway, tag.ipv6.size, tag.ipv6.name) == (64, "fe80::1", 2, "fd00::10..fd00::12")
    assert (tag.ipv4.prefix, tag.ipv4.gateway, tag.ipv4.size, tag.ipv4.name) == (30, "", 1, "10.0.0.10")
    assert tag.ipv6.address(1) == "fd00::12"


@pytest.mark.parametrize(
    "attributes",
    [
        "first='10.0.0.0' count='2' netmask='255.255.255.254'",
        "addresses='10.0.0.1' prefix='32'",
        "first='fd00::' count='2' prefix='127'",
        "addresses='fd00::ffff:ffff:ffff:ffff' prefix='64'",
        "first='10.0.0.1' count='254' prefix='24'",
        "first='10.0.254.254' count='4' prefix='16' gateway='10.0.0.1'",
        "first='10.0.0.2' count=' +0003 ' prefix=' 24 '",
        "first='10.0.0.0' count='1' prefix='31' gateway='10.0.0.1'",
        "first='10.0.0.2' count='3' prefix='24' dns='127.0.0.1 fe80::1'",
        "addresses='10.0.0.2 10.0.0.4' prefix='24' gateway='10.0.0.3' dns='10.0.0.3'",
    ],
)
def test_what_is_allowed(attributes: str) -> None:
    assert mistakes(f"<vbnetwork method='static' {attributes}/>") == []


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (NETMASK, "method='static' needs addresses='10.0.0.10 10.0.0.12', or first='10.0.0.20' count='30'"),
        (f"count='3' {NETMASK}", "method='static' needs addresses='10.0.0.10 10.0.0.12', or first='10.0.0.20' count='30'"),
        (f"addresses='  ' {NETMASK}", "addresses= is empty"),
        (f"first='10.0.0.2' {NETMASK}", "first= needs count=: how many addresses the sequence has"),
        (f"addresses='10.0.0.2' first='10.0.0.3' count='3' {NETMASK}",
         "has a list, addresses=, and a sequence, first= and count=; take one of both out"),
        (f"addresses='10.0.0.2' count='3' {NETMASK}",
         "has a list, addresses=, and a sequence, first= and count=; take one of both out"),
        (f"addresses='10.0.0.2 10.0.0.3 10.0.0.2' {NETMASK}", "addresses: 10.0.0.2 is there twice"),
        ("addresses='fd00::2 fd00:0::2' prefix='64'", "addresses: fd00::2 is there twice"),
        (f"addresses='10.0.0.2 fd00::2' {NETMASK}",
         "addresses= has IPv4 and IPv6 addresses; give each family a <vbnetwork> of its own"),
        (f"addresses='10.0.0.2 10.0.1.2' {NETMASK}",
         "addresses: 10.0.1.2 is not in the network 10.0.0.0/24 of 10.0.0.2; see netmask= or prefix="),
        (f"addresses='10.0.0.2 10.0.0.256' {NETMASK}", "addresses: '10.0.0.256' is not an address"),
        (f"addresses='10.0.0.2 10.0.0' {NETMASK}", "addresses: '10.0.0' is not an address"),
        (f"addresses='10.0.0.2 10.0.0.03' {NETMASK}",
         "addresses: '10.0.0.03' is not an address: a number of an IPv4 address has no leading zeros, as some programs take it "
         "as octal"),
        (f"first='010.0.0.2' count='3' {NETMASK}",
         "first: '010.0.0.2' is not an address: a number of an IPv4 address has no leading zeros, as some programs take it as "
         "octal"),
        ("addresses='fd00::2 fd00:::3' prefix='64'", "addresses: 'fd00:::3' is not an address"),
        (f"addresses='10.0.0.0' {NETMASK}", "10.0.0.0 is the address of the network 10.0.0.0/24 itself; no guest can have it"),
        (f"addresses='10.0.0.2 10.0.0.255' {NETMASK}",
         "10.0.0.255 is the broadcast address of the network 10.0.0.0/24; no guest can have it"),
        (f"first='10.0.0.250' count='6' {NETMASK}",
         "10.0.0.255 is the broadcast address of the network 10.0.0.0/24; no guest can have it"),
        ("first='fd00::' count='3' prefix='64'", "fd00:: is the address of the network fd00::/64 itself; no guest can have it"),
        (f"first='10.0.0.250' count='7' {NETMASK}",
         "count='7': the sequence from 10.0.0.250 on goes beyond its network 10.0.0.0/24, which has 6 addresses from there on"),
        ("first='fd00::fffe' count='3' prefix='112'",
         "count='3': the sequence from fd00::fffe on goes beyond its network fd00::/112, which has 2 addresses from there on"),
        ("first='223.255.255.250' count='60000' prefix='1'",
         "the sequence from 223.255.255.250 on ends with 224.0.234.89, which is no address of a host"),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='10.0.1.1'",
         "gateway: 10.0.1.1 is not in the network 10.0.0.0/24 of 10.0.0.2; see netmask= or prefix="),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='10.0.0.4'", "gateway: 10.0.0.4 is one of the addresses that guests get"),
        (f"addresses='10.0.0.2 10.0.0.4' {NETMASK} gateway='10.0.0.4'",
         "gateway: 10.0.0.4 is one of the addresses that guests get"),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='10.0.0.255'",
         "gateway: 10.0.0.255 is the network or broadcast address of 10.0.0.0/24"),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='10.0.0.0'",
         "gateway: 10.0.0.0 is the network or broadcast address of 10.0.0.0/24"),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='fd00::1'",
         "gateway: fd00::1 is not an IPv4 address, as those of this <vbnetwork> are"),
        (f"first='10.0.0.2' count='3' {NETMASK} gateway='10.0.0.'", "gateway: '10.0.0.' is not an address"),
        ("first='fd00::2' count='3' prefix='64' gateway='fd01::1'",
         "gateway: fd01::1 is not in the network fd00::/64 of fd00::2; see netmask= or prefix="),
        ("first='fd00::2' count='3' prefix='64' gateway='10.0.0.1'",
         "gateway: 10.0.0.1 is not an IPv6 address, as those of this <vbnetwork> are"),
        (f"first='10.0.0.2' count='3' {NETMASK} dns='10.0.0.3'",
         "dns: the name server 10.0.0.3 is one of the addresses that guests get"),
        (f"first='10.0.0.2' count='3' {NETMASK} dns='10.0.0.1 1.2.3'", "dns: '1.2.3' is not an address"),
        (f"first='10.0.0.2' count='3' {NETMASK} search='a.org b..org'", "search: 'b..org' is not a domain such as example.org"),
        (f"first='10.0.0.2' count='3' {NETMASK} search='-a.org'", "search: '-a.org' is not a domain such as example.org"),
        ("first='10.0.0.2' count='3'", "method='static' needs netmask='255.255.255.0' or prefix='24'"),
        ("first='fd00::2' count='3'", "method='static' needs prefix='64'"),
        (f"first='fd00::2' count='3' {NETMASK}", "netmask= is for IPv4; an IPv6 network has a prefix='64'"),
        (f"first='10.0.0.2' count='3' {NETMASK} prefix='24'", "has netmask= and prefix=; take one of both out"),
        ("first='10.0.0.2' count='3' prefix='33'", "prefix='33': an IPv4 prefix has 1 to 32 bits"),
        ("first='10.0.0.2' count='3' netmask='255.0.255.0'",
         "netmask='255.0.255.0' has holes: its bits are ones, then zeros; expected for instance 255.255.255.0"),
        ("first='10.0.0.2' count='3' netmask='0.0.0.255'",
         "netmask='0.0.0.255' has holes: its bits are ones, then zeros; expected for instance 255.255.255.0"),
        ("first='10.0.0.2' count='3' netmask='0.0.0.0'",
         "netmask='0.0.0.0' is the whole internet; expected for instance 255.255.255.0"),
        ("first='10.0.0.2' count='3' netmask='255.255.255.256'",
         "netmask='255.255.255.256' is not a netmask such as 255.255.255.0"),
        ("first='10.0.0.2' count='3' netmask='255.255.255'", "netmask='255.255.255' is not a netmask such as 255.255.255.0"),
        ("addresses='fe80::2' prefix='64'",
         "addresses: fe80::2 is link-local; give an address of the network, the guest makes its link-local one itself"),
        ("first='169.254.0.2' count='3' prefix='16'",
         "first: 169.254.0.2 is link-local; give an address of the network, the guest makes its link-local one itself"),
        ("addresses='127.0.0.2' prefix='8'", "addresses: 127.0.0.2 is no address of a host"),
        ("addresses='224.0.0.2' prefix='8'", "addresses: 224.0.0.2 is no address of a host"),
        ("addresses='250.0.0.2' prefix='8'", "addresses: 250.0.0.2 is no address of a host"),
        ("addresses='0.0.0.2' prefix='8'", "addresses: 0.0.0.2 is no address of a host"),
        ("first='::1' count='2' prefix='64'", "first: ::1 is no address of a host"),
        ("addresses='ff02::2' prefix='64'", "addresses: ff02::2 is no address of a host"),
        ("addresses='::ffff:10.0.0.2' prefix='96'", "addresses: ::ffff:a00:2 is an IPv4 address; write it as such"),
    ],
)
def test_mistakes(attributes: str, words: str) -> None:
    assert wrong(attributes) == words


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("first='10.0.0.2' count='0' prefix='24'", "count"),
        ("first='10.0.0.2' count='65537' prefix='24'", "count"),
        ("first='10.0.0.2' count='-3' prefix='24'", "count"),
        ("first='10.0.0.2' count='x' prefix='24'", "count"),
        ("first='10.0.0.2%eth0' count='3' prefix='24'", "first"),
        ("first='10.0.0.2' count='3' prefix='0'", "prefix"),
        ("first='10.0.0.2' count='3' prefix='129'", "prefix"),
        ("first='10.0.0.2' count='3' netmask='ffffff00'", "netmask"),
        ("addresses='host.example.org' prefix='24'", "addresses"),
        ("first='10.0.0.2' count='3' prefix='24' search='a;b'", "search"),
        ("first='10.0.0.2' count='3' prefix='24' dns='fe80::1%eth0'", "dns"),
    ],
)
def test_what_the_schema_names_is_named_once_or_twice_but_never_fatal(attributes: str, name: str) -> None:
    found = mistakes(f"<vbnetwork method='static' {attributes}/>")
    assert any(text.startswith(f"<vbnetwork> {name}='") and "': expected " in text for _, text in found), found


def test_method_is_needed() -> None:
    assert any("needs the attribute method" in text for _, text in mistakes("<vbnetwork/>"))
    assert any("expected 'dhcp' or 'static'" in text for _, text in mistakes("<vbnetwork method='auto'/>"))


def test_dhcp_has_nothing_else() -> None:
    assert mistakes("<vbnetwork method='dhcp' gateway='10.0.0.1' dns='10.0.0.1'/>") == [
        (0, "<vbnetwork> dns= goes with method='static'"), (0, "<vbnetwork> gateway= goes with method='static'")]
    alone = ("<vbnetwork method='dhcp'> stands alone in its <interface>: it is for IPv4 and IPv6; take the others out, or make "
             "this one static")
    assert mistakes("", f"{STATIC4}<vbnetwork method='dhcp'/>") == [(1, alone)]
    assert mistakes("<vbnetwork method='dhcp'/><vbnetwork method='dhcp'/>") == [(0, alone), (0, alone)]


def test_one_tag_a_family() -> None:
    assert mistakes(STATIC4 + STATIC6) == []
    other = STATIC4.replace("10.0.0.20", "10.0.0.100").replace("gateway='10.0.0.1'", "")
    assert mistakes("", STATIC4 + STATIC6 + other) == [
        (1, "a second <vbnetwork> for IPv4 in the same <interface>; there may be one for IPv4 and one for IPv6")]


def test_two_interfaces() -> None:
    other = "<vbnetwork method='static' first='10.0.0.40' count='30' prefix='24'/>"
    assert mistakes(STATIC4 + STATIC6, "", other) == [
        (2, "<vbnetwork>: interface 0 may get 10.0.0.40, too, and interface 2 may not")]
    assert mistakes(STATIC4, STATIC6.replace("fd00", "fd01"), other.replace("10.0.0.40", "10.0.0.50")) == []
    listed = "<vbnetwork method='static' addresses='10.0.0.9 10.0.0.49' prefix='24'/>"
    assert mistakes(STATIC4, listed) == [(1, "<vbnetwork>: interface 0 may get 10.0.0.49, too, and interface 1 may not")]
    assert mistakes(STATIC6, STATIC6) == [(1, "<vbnetwork>: interface 0 may get fd00::10, too, and interface 1 may not")]
    assert mistakes(STATIC4, "<vbnetwork method='static' first='10.1.0.20' count='3' prefix='24' gateway='10.1.0.1'/>") == [
        (1, "<vbnetwork> gateway='10.1.0.1': interface 0 has the IPv4 gateway 10.0.0.1, and a guest has one; take one of both "
            "out")]
    assert mistakes(STATIC4, "<vbnetwork method='static' first='fd00::2' count='3' prefix='64' gateway='fd00::1'/>") == []


def test_all_mistakes_at_once() -> None:
    found = mistakes("<vbnetwork method='static' first='10.0.0.2' count='3' netmask='255.255.255.0' gateway='10.9.0.1' "
                     "dns='10.0.0.2 x.y' search='..'/>", "<vbnetwork method='static'/>")
    assert [line for line, _ in found] == [0, 0, 0, 0, 1]


def test_large_pools_cost_nothing() -> None:
    begin = time.process_time()
    listed = " ".join(str(ipaddress.IPv4Address("10.2.0.1") + 2 * step) for step in range(1000))
    (one, two) = read("<vbnetwork method='static' first='10.0.0.1' count='65534' prefix='16'/>",
                      f"<vbnetwork method='static' addresses='{listed}' prefix='16'/>")
    assert one.pools[0].address(65533) == "10.0.255.254"
    assert two.pools[0].size == 1000
    assert time.process_time() - begin < 1


ATTRIBUTES = ("method", "addresses", "first", "count", "netmask", "prefix", "gateway", "dns", "search")
VALUES = st.one_of(
    st.sampled_from(["static", "dhcp", "10.0.0.2", "10.0.0.2 10.0.0.3", "fd00::2", "3", "65536", "24", "64", "255.255.255.0",
                     "255.255.255.255", "::", "0.0.0.1", "1", "32", "128", "127", "example.org", ""]),
    st.text(alphabet="0123456789abcdef.: -", max_size=20),
)


@given(st.lists(st.lists(st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES), max_size=3), max_size=3))
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_is_read_or_named(interfaces: list[list[dict[str, str]]]) -> None:
    root = etree.Element("domain", {"type": "kvm"})
    devices = etree.SubElement(root, "devices")
    for tags in interfaces:
        interface = etree.SubElement(devices, "interface")
        for attributes in tags:
            etree.SubElement(interface, "vbnetwork", attributes)
    found = schema.problems(root)
    read = read_networks(root, found)
    assert len(read) == len(interfaces)
    if not found:
        for tag in read:
            for pool in tag.pools:
                for number in (0, pool.size - 1):
                    address = ipaddress.ip_interface(f"{pool.address(number)}/{pool.prefix}")
                    assert address.ip.is_global or address.ip.is_private
                    assert not pool.gateway or pool.gateway != str(address.ip)
