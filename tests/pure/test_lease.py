"""The address that libvirt's DHCP is to give: chosen before the start, told to DHCP and filter, and to nobody else."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vmbatch import network
from vmbatch.errors import NodeError
from vmbatch.exchange.address import Address
from vmbatch.facts import Around
from vmbatch.host import dhcp
from vmbatch.hypervisor.dhcphost import DhcpHost
from vmbatch.network import Lease
from vmbatch.plan import FilterFile, Plan, plan
from vmbatch.template import VirtNet, parse_network

from .sample import OTHER_TOKEN, TEMPLATE, TOKEN, facts, form, job, settings

XML = """<network>
  <name>default</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid><bridge name='virbr0'/>
  <ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::2' end='fd00::9'/></dhcp></ip>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.1' end='192.168.122.4'><lease expiry='10' unit='minutes'/></range>
      <range start='192.168.122.8' end='192.168.122.9'/>
      <host mac='52:54:00:AA:00:01' ip='192.168.122.9'/><host name='by-name' ip='192.168.122.60'/><host mac='52:54:00:aa:00:02'/>
    </dhcp>
  </ip>
</network>"""
NET = VirtNet("default", "virbr0", "192.168.122.1", (("192.168.122.1", "192.168.122.4"), ("192.168.122.8", "192.168.122.9")),
              (("52:54:00:aa:00:01", "192.168.122.9"), ("", "192.168.122.60")))
FREE = {f"192.168.122.{number}" for number in (2, 3, 4, 8)}
MAC = "52:54:00:00:00:07"


def chosen(token: str = TOKEN, mac: str = "", taken: dict[str, str] | None = None, leased: dict[str, str] | None = None,
           living: set[str] | None = None, net: VirtNet = NET) -> Lease | None:
    return network.lease(net, mac, token, taken or {}, leased or {}, lambda: living or set())


def address(**given: object) -> str:
    found = chosen(**given)  # type: ignore[arg-type]
    assert found is not None
    return found.address


def test_what_a_network_says() -> None:
    assert parse_network(XML) == NET
    assert parse_network("<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>") == VirtNet("n", "br0")


def test_every_address_has_its_turn() -> None:
    assert {address(token=f"{number:032x}") for number in range(6)} == FREE, "neither the server's nor another host's"
    assert chosen() == Lease("default", "virbr0", "192.168.122.1", address())


@given(st.sets(st.sampled_from(sorted(FREE)), max_size=3), st.integers(0, (1 << 128) - 1))
def test_nobody_elses(taken: set[str], number: int) -> None:
    assert address(token=f"{number:032x}", taken=dict.fromkeys(taken, "job 1.vm")) not in taken


def test_what_has_gone_is_taken_last() -> None:
    """A lease may be a dead guest's, or one that a guest has asked for in another name."""
    leased = {each: f"52:54:00:00:01:{each[-1]:0>2}" for each in FREE}
    held = dict(leased)
    free = held.popitem()[0]
    assert {address(token=f"{number:032x}", leased=held) for number in range(6)} == {free}
    assert address(leased=leased) in FREE
    alive = set(leased.values()) - {leased["192.168.122.3"]}
    assert {address(token=f"{number:032x}", leased=leased, living=alive) for number in range(6)} == {"192.168.122.3"}


def test_nobody_asks_who_lives_while_there_are_others() -> None:
    def living() -> set[str]:
        raise AssertionError

    assert network.lease(NET, "", TOKEN, {}, {"192.168.122.2": MAC}, living) is not None


def test_none_is_free() -> None:
    leased = {"192.168.122.2": "52:54:00:00:01:02"}
    taken = dict.fromkeys(FREE - {"192.168.122.2"}, "job 7.vm")
    with pytest.raises(NodeError) as caught:
        chosen(leased=leased, taken=taken, living={"52:54:00:00:01:02"})
    assert caught.value.lines() == [
        "no free address in libvirt's network default: all are taken by job 7.vm, the machine with MAC 52:54:00:00:01:02, "
        "the network itself (give the network a larger <range>, or the queue fewer jobs)"]


@pytest.mark.error("VB610")
def test_a_mac_that_the_network_knows() -> None:
    assert chosen(mac="52:54:00:aa:00:01") == Lease("default", "virbr0", "192.168.122.1", "192.168.122.9", known=True)
    with pytest.raises(NodeError, match=r"^the template's MAC 52:54:00:aa:00:01, .* is another guest's now$"):
        chosen(mac="52:54:00:aa:00:01", living={"52:54:00:aa:00:01"})


def test_a_mac_of_the_templates_keeps_what_it_has() -> None:
    leased = dict.fromkeys(FREE, MAC)
    assert address(mac=MAC, leased=leased, living={MAC}) == address()


def test_a_network_that_knows_its_hosts_alone() -> None:
    hosts = "<host mac='52:54:00:aa:00:01' ip='10.0.0.9'/>"
    only = parse_network(f"<network><ip address='10.0.0.1'><dhcp>{hosts}</dhcp></ip></network>")
    assert chosen(net=only) is None
    assert chosen(net=only, mac="52:54:00:aa:00:01") is not None


def test_tokens_spread() -> None:
    wide = VirtNet("n", "b", "10.0.0.1", (("10.0.0.2", "10.0.255.254"),))
    assert address(net=wide) != address(net=wide, token=OTHER_TOKEN)
    assert ipaddress.ip_address(address(net=wide)) in ipaddress.ip_network("10.0.0.0/16")


def planned(text: str = TEMPLATE, **changed: object) -> Plan:
    leases = (Lease("default", "virbr0", "192.168.122.1", "192.168.122.3"),
              Lease("default", "virbr0", "192.168.122.1", "192.168.122.9", known=True))
    return plan(job(), form(text), settings(**changed), facts(leases=leases, text=text, node="n1", around=Around()))


def test_it_is_reserved_and_told_to_dhcp_before_all_else() -> None:
    made = planned()
    assert made.reservations == (
        Address("/run/vmbatch/addresses/192.168.122.3", TOKEN, "42.vm", "n1"),
        DhcpHost("qemu:///system", "default", "virbr0", "192.168.122.1", made.macs[0], "192.168.122.3", TOKEN))
    assert (made.address, made.addresses) == ("192.168.122.3", ("192.168.122.3", "192.168.122.9"))


def test_the_filter_learns_nothing() -> None:
    made = planned()
    for interface in etree.fromstring(made.xml).findall("devices/interface"):
        assert [dict(parameter.attrib) for parameter in interface.findall("filterref/parameter")] == []
    filters = [step.xml.decode() for phase in made.phases for step in phase.steps if isinstance(step, FilterFile)]
    for text, own in zip(filters, ("192.168.122.3", "192.168.122.9"), strict=True):
        assert f'match="no" srcipaddr="{own}"' in text
        assert "$IP" not in text
        assert 'srcipaddr="0.0.0.0"' in text, "the guest asks DHCP all the same"


def test_without_filters_of_ours_it_is_reserved_all_the_same() -> None:
    assert len(planned(network_filter=False).reservations) == 2


def test_a_release_as_the_server_reads_it() -> None:
    """RFC 2131, 2 and 4.4.6."""
    text = dhcp.release_message("192.168.122.1", "192.168.122.3", MAC)
    assert len(text) >= 300
    assert text[:4] == bytes((1, 1, 6, 0))
    assert socket.inet_ntoa(text[12:16]) == "192.168.122.3"
    assert text[16:28] == bytes(12)
    assert text[28:44] == bytes.fromhex("525400000007") + bytes(10)
    assert text[236:240] == bytes((99, 130, 83, 99))
    assert text[240:243] == bytes((53, 1, 7))
    assert text[243:249] == bytes((54, 4)) + socket.inet_aton("192.168.122.1")
    assert text[249] == 255
    assert text[250:].strip(b"\0") == b""


def test_no_bridge_no_server() -> None:
    dhcp.release("no-such-bridge", "192.0.2.1", "192.0.2.3", MAC)
