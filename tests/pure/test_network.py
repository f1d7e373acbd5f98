"""Which address a job gets, and the same settings as parameters, kernel words, and in the forms of the clouds."""

import ipaddress
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbatch import network
from vmbatch.errors import NodeError, SiteError
from vmbatch.network import Net
from vmbatch.template.network import InterfaceTag, Pool

from .sample import OTHER_TOKEN, TOKEN

MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"
NOWHERE = "0.0.0.0"  # noqa: S104
FULL = Net(MAC, "10.0.0.20/24", "10.0.0.1", "fd00::20/64", "fe80::1", ("10.0.0.1", "fd00::1"), ("example.org", "a.org"))
LEAST = Net(MAC, address4="10.0.0.20/30")
SIX = Net(MAC, address6="fd00::20/64")
DHCP = Net(OTHER_MAC)


def pool(first: str = "10.0.0.20", count: int = 30, **changed: object) -> Pool:
    values: dict[str, object] = {
        "line": 7, "family": ipaddress.ip_address(first).version, "listed": (), "first": first, "count": count, "prefix": 24,
        "gateway": "", "dns": (), "search": (),
    }
    return Pool(**values | changed)  # type: ignore[arg-type]


LISTED = pool(listed=("10.0.0.9", "10.0.0.2", "10.0.0.5"), first="10.0.0.9", count=0)


def test_candidates_are_all_addresses_from_one_on() -> None:
    assert list(network.candidates(LISTED, "0" * 31 + "1")) == ["10.0.0.2", "10.0.0.5", "10.0.0.9"]
    assert list(network.candidates(LISTED, "0" * 31 + "3")) == ["10.0.0.9", "10.0.0.2", "10.0.0.5"]
    found = list(network.candidates(pool(), TOKEN))
    assert found == list(network.candidates(pool(), TOKEN))
    assert found[0] != next(iter(network.candidates(pool(), OTHER_TOKEN)))
    assert sorted(found) == [f"10.0.0.{number}" for number in range(20, 50)]
    assert list(network.candidates(pool("fd00::ffff", 2), "0" * 32)) == ["fd00::ffff", "fd00::1:0"]


def test_the_first_candidate_that_is_free() -> None:
    order = list(network.candidates(pool(), TOKEN))
    assert network.free(pool(), TOKEN, {}, "t.xml") == order[0]
    taken = dict.fromkeys(order[:5], "job 1.vm") | {"10.0.0.1": "job 2.vm"}
    assert network.free(pool(), TOKEN, taken, "t.xml") == order[5]
    assert network.free(pool(), TOKEN, dict.fromkeys(order[:-1], "job 1.vm"), "t.xml") == order[-1]


@pytest.mark.error("VB601")
def test_a_pool_without_a_free_address() -> None:
    taken = {"10.0.0.9": "job 12.vm", "10.0.0.2": "job 9.vm", "10.0.0.5": "job 12.vm", "10.0.0.77": "job 77.vm"}
    with pytest.raises(NodeError) as caught:
        network.free(LISTED, TOKEN, taken, "/etc/vmbatch/domains/t.xml")
    assert caught.value.what == ("no free address in the pool 10.0.0.9..10.0.0.5 of /etc/vmbatch/domains/t.xml:7: all 3 are "
                                 "taken by job 12.vm, job 9.vm")
    many = {f"10.0.0.{number}": f"job {number}.vm" for number in range(20, 50)}
    with pytest.raises(NodeError) as caught:
        network.free(pool(), TOKEN, many, "t.xml")
    assert caught.value.what == ("no free address in the pool 10.0.0.20..10.0.0.49 of t.xml:7: all 30 are taken by job 20.vm, "
                                 "job 21.vm, job 22.vm, job 23.vm, job 24.vm and 25 more")


def test_from_tags_to_settings() -> None:
    four = pool(gateway="10.0.0.1", dns=("10.0.0.1", "fd00::1"), search=("example.org",))
    six = pool("fd00::20", 5, prefix=64, gateway="fe80::1", dns=("fd00::1",), search=("example.org", "a.org"))
    tags = (InterfaceTag(3, "static", four, six), InterfaceTag(4, "dhcp"), InterfaceTag(5, "static", None, pool("fd01::1", 1)))
    zero = "0" * 32
    chosen = network.choose(tags, zero, {"10.0.0.20": "job 1.vm"}, "t.xml")
    assert chosen == (("10.0.0.21", "fd00::20"), (), ("fd01::1",))
    assert network.nets(tags, ("52:54:00:AB:00:01", OTHER_MAC, MAC), chosen) == (
        Net("52:54:00:ab:00:01", "10.0.0.21/24", "10.0.0.1", "fd00::20/64", "fe80::1", ("10.0.0.1", "fd00::1"),
            ("example.org", "a.org")),
        Net(OTHER_MAC),
        Net(MAC, address6="fd01::1/24"),
    )
    with pytest.raises(SiteError, match=r"line 4: \"52:54:00'; reboot\" is not the MAC address"):
        network.nets(tags, (MAC, "52:54:00'; reboot", MAC), chosen)
    with pytest.raises(ValueError, match="zip"):
        network.nets(tags, (MAC,), chosen)


def test_parameters() -> None:
    assert network.parameters(()) == {"VMBATCH_NETS": "0"}
    assert network.parameters((FULL, DHCP)) == {
        "VMBATCH_NETS": "2",
        "VMBATCH_NET0_MAC": MAC, "VMBATCH_NET0_METHOD": "static",
        "VMBATCH_NET0_ADDRESS4": "10.0.0.20/24", "VMBATCH_NET0_GATEWAY4": "10.0.0.1",
        "VMBATCH_NET0_ADDRESS6": "fd00::20/64", "VMBATCH_NET0_GATEWAY6": "fe80::1",
        "VMBATCH_NET0_DNS": "10.0.0.1 fd00::1", "VMBATCH_NET0_SEARCH": "example.org a.org",
        "VMBATCH_NET1_MAC": OTHER_MAC, "VMBATCH_NET1_METHOD": "dhcp",
        "VMBATCH_NET1_ADDRESS4": "", "VMBATCH_NET1_GATEWAY4": "", "VMBATCH_NET1_ADDRESS6": "", "VMBATCH_NET1_GATEWAY6": "",
        "VMBATCH_NET1_DNS": "", "VMBATCH_NET1_SEARCH": "",
    }


@pytest.mark.parametrize(
    ("net", "word"),
    [
        (FULL, f"vbnet0={MAC},10.0.0.20/24,10.0.0.1,fd00::20/64,fe80::1,10.0.0.1;fd00::1,example.org;a.org"),
        (LEAST, f"vbnet0={MAC},10.0.0.20/30,,,,,"),
        (SIX, f"vbnet0={MAC},,,fd00::20/64,,,"),
        (DHCP, f"vbnet0={OTHER_MAC}"),
    ],
)
def test_kernel_words(net: Net, word: str) -> None:
    assert network.kernel_words((net,)) == (word,)
    assert network.parse_kernel_words(f"quiet  vbuser=alice {word}\tro") == (net,)
    assert network.parse_kernel_words(f"{word.replace('vbnet0', 'vbnet1')} {word}") == (net, net)


@pytest.mark.error("VB504")
def test_kernel_words_of_many() -> None:
    assert network.parse_kernel_words("ro quiet vbnetwork=x avbnet0=x") == ()
    assert network.parse_kernel_words(" ".join(network.kernel_words((FULL, DHCP) * 8))) == (FULL, DHCP) * 8
    with pytest.raises(SiteError, match="17 interfaces are too many for a kernel line, which takes 16"):
        network.kernel_words((DHCP,) * 17)


@pytest.mark.parametrize(
    "line",
    [
        "vbnet0=", "vbnet=52:54:00:00:00:01", "vbnet00=52:54:00:00:00:01", f"vbnet0={MAC},", f"vbnet0={MAC},,,,,,",
        f"vbnet1={MAC}",
        f"vbnet0={MAC} vbnet0={MAC}", f"vbnet0={MAC} vbnet2={MAC}", f"vbnet0={MAC.upper()}x",
        "vbnet0=52:54:00:00:00", "vbnet0=52:54:00:00:00:0G", f"vbnet0={MAC},10.0.0.20/24,,,,,,",
        f"vbnet0={MAC},10.0.0.20/33,,,,,",
        f"vbnet0={MAC},10.0.0.20/24,gateway,,,,", f"vbnet0={MAC},10.0.0.20/24,,,,x,", f"vbnet0={MAC},10.0.0.20/24,$(x),,,,",
        f"vbnet0='{MAC}'",
    ],
)
def test_kernel_words_that_are_none(line: str) -> None:
    with pytest.raises(ValueError, match=r"vbnet|appear|Octet|address"):
        network.parse_kernel_words(f"ro {line}")


V4 = st.integers(1 << 24, (1 << 32) - 1).map(lambda number: str(ipaddress.IPv4Address(number)))
V6 = st.integers(1, (1 << 128) - 1).map(lambda number: str(ipaddress.IPv6Address(number)))
NETS = st.builds(
    Net,
    mac=st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":")),
    address4=st.builds("{}/{}".format, V4, st.integers(1, 32)),
    gateway4=st.one_of(st.just(""), V4),
    address6=st.one_of(st.just(""), st.builds("{}/{}".format, V6, st.integers(1, 128))),
    gateway6=st.one_of(st.just(""), V6),
    dns=st.lists(st.one_of(V4, V6), max_size=4).map(tuple),
    search=st.lists(st.sampled_from(["example.org", "a-b.c", "x"]), max_size=3).map(tuple),
)


@given(st.lists(st.one_of(NETS, st.just(DHCP)), max_size=5).map(tuple))
@settings(max_examples=100, deadline=None)
def test_kernel_words_both_ways(nets: tuple[Net, ...]) -> None:
    words = network.kernel_words(nets)
    assert network.parse_kernel_words(" ".join(words)) == nets
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:/,;-=")
    assert set("".join(words)) <= allowed
    for number, (net, word) in enumerate(zip(nets, words, strict=True)):
        fields = word.partition("=")[2].split(",")
        values = network.parameters(nets)
        names = ("MAC", "ADDRESS4", "GATEWAY4", "ADDRESS6", "GATEWAY6", "DNS", "SEARCH")
        expected = [values[f"VMBATCH_NET{number}_{name}"].replace(" ", ";") for name in names]
        assert fields == (expected if net.method == "static" else expected[:1])


def test_cloud_init() -> None:
    assert network.cloud_v2((FULL, DHCP)) == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": MAC}, "dhcp4": False, "dhcp6": False, "accept-ra": False,
                "addresses": ["10.0.0.20/24", "fd00::20/64"], "gateway4": "10.0.0.1", "gateway6": "fe80::1",
                "nameservers": {"addresses": ["10.0.0.1", "fd00::1"], "search": ["example.org", "a.org"]},
            },
            "eth1": {"match": {"macaddress": OTHER_MAC}, "dhcp4": True},
        },
    }
    assert network.cloud_v2((LEAST,)) == {"version": 2, "ethernets": {"eth0": {
        "match": {"macaddress": MAC}, "dhcp4": False, "dhcp6": False, "accept-ra": False, "addresses": ["10.0.0.20/30"]}}}


def test_openstack() -> None:
    found = network.openstack((FULL, DHCP))
    assert json.loads(json.dumps(found)) == found == {
        "links": [{"id": "vbnet0", "type": "phy", "ethernet_mac_address": MAC},
                  {"id": "vbnet1", "type": "phy", "ethernet_mac_address": OTHER_MAC}],
        "networks": [
            {"id": "network0", "network_id": "network0", "link": "vbnet0", "type": "ipv4", "ip_address": "10.0.0.20",
             "netmask": "255.255.255.0", "routes": [{"network": NOWHERE, "netmask": NOWHERE, "gateway": "10.0.0.1"}],
             "dns_search": ["example.org", "a.org"]},
            {"id": "network1", "network_id": "network1", "link": "vbnet0", "type": "ipv6", "ip_address": "fd00::20",
             "netmask": "ffff:ffff:ffff:ffff::", "routes": [{"network": "::", "netmask": "::", "gateway": "fe80::1"}]},
            {"id": "network2", "network_id": "network2", "link": "vbnet1", "type": "ipv4_dhcp"},
        ],
        "services": [{"type": "dns", "address": "10.0.0.1"}, {"type": "dns", "address": "fd00::1"}],
    }
    assert network.openstack((SIX,))["networks"] == [
        {"id": "network0", "network_id": "network0", "link": "vbnet0", "type": "ipv6", "ip_address": "fd00::20",
         "netmask": "ffff:ffff:ffff:ffff::", "routes": []}]


def test_opennebula() -> None:
    assert network.opennebula((FULL,)) == {
        "ETH0_MAC": MAC, "ETH0_METHOD": "static", "ETH0_IP": "10.0.0.20", "ETH0_MASK": "255.255.255.0",
        "ETH0_NETWORK": "10.0.0.0",
        "ETH0_GATEWAY": "10.0.0.1", "ETH0_DNS": "10.0.0.1 fd00::1", "ETH0_SEARCH_DOMAIN": "example.org a.org",
        "ETH0_IP6_METHOD": "static", "ETH0_IP6": "fd00::20", "ETH0_IP6_PREFIX_LENGTH": "64", "ETH0_IP6_GATEWAY": "fe80::1",
        "ETH0_GATEWAY6": "fe80::1",
    }
    assert network.opennebula((LEAST,)) == {
        "ETH0_MAC": MAC, "ETH0_METHOD": "static", "ETH0_IP": "10.0.0.20", "ETH0_MASK": "255.255.255.252",
        "ETH0_NETWORK": "10.0.0.20"}
    assert network.opennebula((DHCP, DHCP)) == {}
    with pytest.raises(SiteError, match="cannot say that interface 1 asks DHCP while another one is static"):
        network.opennebula((FULL, DHCP))
    with pytest.raises(SiteError, match="cannot say that interface 0 has no IPv4 address"):
        network.opennebula((SIX,))
