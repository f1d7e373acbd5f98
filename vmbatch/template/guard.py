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
"""Parameters of a filter where nobody has chosen the address: libvirt reads the server's answers, and `$IP` is what was given."""

_LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}
"""Of IPv4 it has what clouds tell their machines (169.254.169.254)."""
_MULTICAST = {4: "224.0.0.0/3", 6: "ff00::/8"}
"""With IPv4's broadcast address."""
_ROUTER, _REDIRECT = "134", "137"
"""Types of ICMPv6 that only a router sends (RFC 4861)."""


class Guard(msgspec.Struct, frozen=True):
    """What an interface is held to: its `mac`, and its own addresses, '' for none of that family.

    `dhcp`: it asks DHCP for its IPv4 address; where that is not known, libvirt learns it.

    The guest cannot reach `closed`, nor they it. Of the `node` it reaches the ports `services`, and answers it from port 22 to
    ports from `replies` on.
    """

    mac: str
    ipv4: str
    ipv6: str
    dhcp: bool
    node: tuple[str, ...]
    closed: tuple[str, ...]
    services: tuple[int, ...]
    replies: int

    @property
    def learned(self) -> bool:
        """Whether only the server's answers say what the IPv4 address is."""
        return self.dhcp and not self.ipv4


def filter_xml(name: str, uuid: str, guard: Guard) -> bytes:
    """The filter for libvirt, a single chain: `out` is from the guest, `in` is to it, and the first rule that fits counts."""
    root = etree.Element("filter", {"name": name, "chain": "root"})
    etree.SubElement(root, "uuid").text = uuid
    rules = _Rules(root)
    rules.add("drop", "mac", match="no", srcmacaddr=guard.mac)
    if guard.dhcp or guard.ipv4:
        own = "$IP" if guard.learned else guard.ipv4
        rules.add("accept", "arp", arpsrcmacaddr=guard.mac, arpsrcipaddr=own)
        if guard.dhcp:
            rules.add("accept", "ip", **_hosts("src", "0.0.0.0/32"), **_hosts("dst", "255.255.255.255/32"), protocol="udp",
                      srcportstart="68", dstportstart="67")
        rules.add("drop", "ip", match="no", srcipaddr=own)
        rules.add("drop", "ip", protocol="udp", srcportstart="67")
        if guard.dhcp:  # renewed at its server, and then at any (RFC 2131, 4.4.5)
            rules.add("accept", "ip", protocol="udp", srcportstart="68", dstportstart="67")
        _family(rules, guard, 4)
        rules.add("accept", "mac", protocolid="ipv4")
    if guard.ipv6:
        for kind in (_ROUTER, _REDIRECT):
            rules.add("drop", "ipv6", protocol="icmpv6", type=kind)
        for source in ("::/128", _LINK_LOCAL[6]):
            rules.add("accept", "ipv6", protocol="icmpv6", **_hosts("src", source))
        rules.add("drop", "ipv6", match="no", srcipaddr=guard.ipv6)
        rules.add("drop", "ipv6", protocol="udp", srcportstart="547")
        _family(rules, guard, 6)
        rules.add("accept", "mac", protocolid="ipv6")
    else:
        rules.add("drop", "mac", "in", protocolid="ipv6")
    rules.add("drop", "mac")
    return etree.tostring(root, encoding="utf-8", pretty_print=True)


def _family(rules: "_Rules", guard: Guard, version: int) -> None:
    """What IPv4 and IPv6 have in common; the source has been checked."""
    kind, ping = {4: ("ip", "icmp"), 6: ("ipv6", "icmpv6")}[version]
    for place in _of(version, guard.closed):
        rules.add("drop", kind, **_hosts("dst", place))
        rules.add("drop", kind, "in", **_hosts("src", place))
    rules.add("accept", kind, protocol=ping)
    for place in (_LINK_LOCAL[version], _MULTICAST[version]):
        rules.add("drop", kind, **_hosts("dst", place))
    for first, last in _runs(guard.services):
        for protocol in ("tcp", "udp"):
            rules.add("accept", kind, protocol=protocol, dstportstart=str(first), dstportend=str(last))
    rules.add("accept", kind, protocol="tcp", srcportstart="22", dstportstart=str(guard.replies), dstportend="65535")
    for place in _of(version, guard.node):
        rules.add("drop", kind, **_hosts("dst", place))
    rules.add("accept", kind, protocol="udp", srcportstart="123", dstportstart="123")
    for protocol, lowest, highest in (("tcp", "0", "21"), ("tcp", "23", "1023"), ("udp", "0", "1023")):
        rules.add("drop", kind, protocol=protocol, srcportstart=lowest, srcportend=highest)


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
