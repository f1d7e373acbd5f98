"""What may pass between a guest's interface and its network, as a filter of libvirt's (nwfilter).

All rules are ebtables' and know no connections: a guest that may answer the node's ssh is one that may send from port 22 to the
ports from which the node's programs connect. libvirt makes one call of ebtables for each rule.
"""

import ipaddress
from collections.abc import Iterable

import msgspec
from lxml import etree

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LEARNED = {"CTRL_IP_LEARNING": "dhcp"}
"""Parameters of a filter with the address `LEARNT`: libvirt reads what the server answers."""
LEARNT = "$IP"
"""In place of an address of IPv4: those that libvirt has learnt."""

_LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}
"""Of IPv4 it has what clouds tell their machines (169.254.169.254)."""
_MULTICAST = {4: "224.0.0.0/3", 6: "ff00::/8"}
"""With IPv4's broadcast address."""
_ROUTER, _REDIRECT = "134", "137"
"""Types of ICMPv6 that only a router sends (RFC 4861)."""


class Guard(msgspec.Struct, frozen=True):
    """What an interface is held to: its `mac`, and its own addresses; `ipv6` is '' for none.

    `dhcp`: it asks DHCP for its IPv4 addresses. As long as it has none of them, and no `ipv6`, nothing but DHCP passes.

    The guest cannot reach `closed`, nor they it. Of the `node` it reaches the ports `services`, and answers it from port 22 to
    ports from `replies` on.
    """

    mac: str
    ipv4: tuple[str, ...]
    ipv6: str
    dhcp: bool
    node: tuple[str, ...]
    closed: tuple[str, ...]
    services: tuple[int, ...]
    replies: int


def filter_xml(name: str, uuid: str, guard: Guard) -> bytes:
    """The filter for libvirt, a single chain: `out` is from the guest, `in` is to it, and the first rule that fits counts."""
    root = etree.Element("filter", {"name": name, "chain": "root"})
    etree.SubElement(root, "uuid").text = uuid
    rules = _Rules(root)
    rules.add("drop", "mac", match="no", srcmacaddr=guard.mac)
    if guard.dhcp:
        rules.add("accept", "ip", **_hosts("src", "0.0.0.0/32"), **_hosts("dst", "255.255.255.255/32"), protocol="udp",
                  srcportstart="68", dstportstart="67")
    if guard.ipv4:
        _ipv4(rules, guard)
    if guard.ipv6:
        _ipv6(rules, guard)
    elif guard.ipv4:
        rules.add("drop", "mac", "in", protocolid="ipv6")
    else:
        rules.add("accept", "ip", "in", protocol="udp", srcportstart="67", dstportstart="68")
        rules.add("drop", "mac", "in")
    rules.add("drop", "mac")
    return etree.tostring(root, encoding="utf-8", pretty_print=True)


def _ipv4(rules: "_Rules", guard: Guard) -> None:
    for own in guard.ipv4:
        rules.add("accept", "arp", arpsrcmacaddr=guard.mac, arpsrcipaddr=own)
    rules.add("drop", "ip", protocol="udp", srcportstart="67")
    for own in guard.ipv4 if guard.dhcp else ():  # renewed at its server, and then at any (RFC 2131, 4.4.5)
        rules.add("accept", "ip", srcipaddr=own, protocol="udp", srcportstart="68", dstportstart="67")
    _family(rules, guard, 4, guard.ipv4)


def _ipv6(rules: "_Rules", guard: Guard) -> None:
    for kind in (_ROUTER, _REDIRECT):
        rules.add("drop", "ipv6", protocol="icmpv6", type=kind)
    for source in ("::/128", _LINK_LOCAL[6]):
        rules.add("accept", "ipv6", protocol="icmpv6", **_hosts("src", source))
    rules.add("drop", "ipv6", protocol="udp", srcportstart="547")
    _family(rules, guard, 6, (guard.ipv6,))


def _family(rules: "_Rules", guard: Guard, version: int, sources: tuple[str, ...]) -> None:
    """What IPv4 and IPv6 have in common: all that passes is from the guest's own `sources`."""
    kind, ping = {4: ("ip", "icmp"), 6: ("ipv6", "icmpv6")}[version]

    def accept(**what: str) -> None:
        for own in sources:
            rules.add("accept", kind, srcipaddr=own, **what)

    for place in _of(version, guard.closed):
        rules.add("drop", kind, **_hosts("dst", place))
        rules.add("drop", kind, "in", **_hosts("src", place))
    accept(protocol=ping)
    for place in (_LINK_LOCAL[version], _MULTICAST[version]):
        rules.add("drop", kind, **_hosts("dst", place))
    for first, last in _runs(guard.services):
        for protocol in ("tcp", "udp"):
            accept(protocol=protocol, dstportstart=str(first), dstportend=str(last))
    accept(protocol="tcp", srcportstart="22", dstportstart=str(guard.replies), dstportend="65535")
    for place in _of(version, guard.node):
        rules.add("drop", kind, **_hosts("dst", place))
    accept(protocol="udp", srcportstart="123", dstportstart="123")
    for protocol, lowest, highest in (("tcp", "0", "21"), ("tcp", "23", "1023"), ("udp", "0", "1023")):
        rules.add("drop", kind, protocol=protocol, srcportstart=lowest, srcportend=highest)
    accept()


class _Rules:
    """Adds rules to a filter, each to be tried after the one before."""

    def __init__(self, root: etree._Element) -> None:
        self._root = root
        self._priority = -999

    def add(self, action: str, kind: str, direction: str = "out", **what: str) -> None:
        rule = etree.SubElement(self._root, "rule", {"action": action, "direction": direction, "priority": str(self._priority)})
        etree.SubElement(rule, kind, what)
        self._priority += 1


def _hosts(end: str, place: str) -> dict[str, str]:
    """Attributes that match a network as source (`src`) or destination (`dst`)."""
    network = ipaddress.ip_network(place)
    return {f"{end}ipaddr": str(network.network_address), f"{end}ipmask": str(network.prefixlen)}


def _of(version: int, places: Iterable[str]) -> list[str]:
    """Those of a family, in as few networks as can be."""
    networks = [network for network in map(ipaddress.ip_network, places) if network.version == version]
    return [str(network) for network in ipaddress.collapse_addresses(networks)]  # type: ignore[type-var]


def _runs(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Ports as runs without a gap."""
    found: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if found and found[-1][1] == port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return found


def others(places: Iterable[str], node: Iterable[str]) -> tuple[str, ...]:
    """`places`, networks, without the addresses in `node`."""
    left: list[Network] = [ipaddress.ip_network(place) for place in places]
    for address in map(ipaddress.ip_network, node):
        left = [part for network in left for part in _without(network, address)]
    return tuple(str(network) for network in left)


def _without(network: Network, address: Network) -> Iterable[Network]:
    if network.version != address.version or not address.subnet_of(network):  # type: ignore[arg-type]
        return (network,)
    return network.address_exclude(address)  # type: ignore[arg-type]


def span(first: str, last: str) -> list[str]:
    """The networks that make up all addresses from `first` to `last`."""
    ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
    return [str(network) for network in ipaddress.summarize_address_range(*ends)]
