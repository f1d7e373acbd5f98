"""What may pass between a guest's interface and its network, as text for nft(8): rules of nftables' bridge family.

Each interface has a chain for what the guest sends and one for what it gets; two maps lead to them by the interface's name. A
frame of an interface that is named as ours are and is in no map is dropped: so a guest is closed before its rules stand and
after they are gone. Each text is one transaction, and stands or fails as a whole.

All rules look at one frame, and know no connections: a guest that may answer the node's ssh is one that may send from port 22 to
the ports from which the node's programs connect. What no rule lets pass is dropped.
"""

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
TABLE = "vmbatch"
_OURS = "vb-"
"""How names of guests' interfaces begin; a name has 15 characters at most (IFNAMSIZ)."""
_LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}
"""Of IPv4 it has what clouds tell their machines (169.254.169.254)."""
_MULTICAST = {4: "224.0.0.0/3", 6: "ff00::/8"}
"""With IPv4's broadcast address."""
_ROUTER, _ADVERTISEMENT, _REDIRECT = 134, 136, 137
"""Types of ICMPv6; the first and the last only a router sends (RFC 4861)."""
_FAMILY = {4: "ip", 6: "ip6"}
_WHOLE = "ip frag-off & 0x3fff == 0"
"""A packet that is not in parts; _LATER: a part of one that is not the first."""
_LATER = {4: "ip frag-off & 0x1fff != 0", 6: "frag frag-off != 0"}
_ASKS = "udp sport 68 udp dport 67"
_ANSWERS = "udp sport 67 udp dport 68"
_XID, _YIADDR, _CHADDR = "@th,96,32", "@th,192,32", "@th,288,48"
"""Where DHCP has them, in bits behind the begin of UDP's header (RFC 2131)."""
_SENDER, _SOURCE = "@nh,112,32", "@nh,96,32"
"""The addresses of a sender, of ARP (RFC 826) and of IPv4: nft compares no `ip saddr` with what was seen elsewhere."""
_ACK = "@th,64,24 0x020106 @th,1952,32 0x63825363 @th,1984,24 0x350105"
"""An answer to an Ethernet card, with options of which the first is the kind: servers have it there. nft reaches 255 bytes."""

_MAPS = """    map from { type ifname : verdict; }
    map to { type ifname : verdict; }
"""
BASE = f"""table bridge {TABLE} {{
{_MAPS}    chain sent {{ type filter hook prerouting priority -300; policy accept; }}
    chain got {{ type filter hook postrouting priority 300; policy accept; }}
    chain local {{ type filter hook input priority -300; policy accept; }}
}}
table inet {TABLE} {{
    chain local {{ type filter hook prerouting priority -450; policy accept; }}
}}
table arp {TABLE} {{
    chain local {{ type filter hook input priority -300; policy accept; }}
}}
flush chain bridge {TABLE} sent
flush chain bridge {TABLE} got
flush chain bridge {TABLE} local
flush chain inet {TABLE} local
flush chain arp {TABLE} local
table bridge {TABLE} {{
    chain sent {{
        iifname vmap @from
        iifname "{_OURS}*" drop
    }}
    chain got {{
        oifname vmap @to
        oifname "{_OURS}*" drop
    }}
    chain local {{
        iifname "{_OURS}*" ether daddr and ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop
    }}
}}
table inet {TABLE} {{
    chain local {{
        iifname "{_OURS}*" drop
    }}
}}
table arp {TABLE} {{
    chain local {{
        iifname "{_OURS}*" drop
    }}
}}
"""
"""What all interfaces share.

The chains `local` are for frames to 01:80:c2:00:00:0*, which a bridge gives to the node itself, past the hook for all others
(net/bridge/br_input.c, br_handle_frame): some by the hook `input`, some by none, as if the guest's interface were the node's.
"""

REMOVAL = "".join(f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in ("bridge", "inet", "arp"))
"""Takes all of it away."""


def interfaces(token: str) -> str:
    """How the names of all interfaces of the start with this `token` begin; its first 8 digits do."""
    return f"{_OURS}{token[:8]}-"


class Port(msgspec.Struct, frozen=True):
    """The guest's end of a network: interface `number` of the start with this `token`."""

    token: str
    number: int

    @property
    def interface(self) -> str:
        """Its name on the node."""
        return f"{interfaces(self.token)}{self.number}"

    @property
    def name(self) -> str:
        """In the names of its chains and sets."""
        return f"{self.token}-{self.number}"

    @property
    def learned(self) -> str:
        """The name of the set of addresses that DHCP has been seen to give it."""
        return f"learned-{self.name}"


class Guard(msgspec.Struct, frozen=True):
    """What an interface is held to: its `mac`, and its own addresses; `ipv6` is '' for none.

    `dhcp`: it asks DHCP for its IPv4 addresses. As long as it has none of them, and no `ipv6`, nothing but DHCP passes. `learns`:
    the first that DHCP's answers give it are its own.

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
    learns: bool = False


def bare(port: Port) -> str:
    """Has an interface pass nothing; and what all interfaces share."""
    chains = [f"{way}-{port.name}" for way in ("from", "to")]
    return "".join((BASE, *(f"add chain bridge {TABLE} {chain}\n" for chain in chains), _elements("add", port),
                    *(f"flush chain bridge {TABLE} {chain}\n" for chain in chains)))


def rules(port: Port, guard: Guard) -> str:
    """Has these rules, and no others, stand for an interface: `bare`, and then the rules."""
    learned, asked = (f"@{port.learned}", f"@asked-{port.name}") if guard.learns else ("", "")
    sent = "\n        ".join(_sent(guard, learned, asked))
    got = "\n        ".join(_got(guard, learned, asked))
    return f"""{bare(port)}table bridge {TABLE} {{
{_sets(port) if learned else ""}    chain from-{port.name} {{
        {sent}
    }}
    chain to-{port.name} {{
        {got}
    }}
}}
"""


def claim(port: Port) -> str:
    """To stand behind rules without `bare`: fails if the interface has any already."""
    return _elements("create", port)


def removal(port: Port) -> str:
    """Takes away all that is an interface's own, if it is there; fails if the interface is another start's."""
    gone = [f"delete chain bridge {TABLE} {way}-{port.name}\n" for way in ("from", "to")]
    gone += [f"delete set bridge {TABLE} {kind}-{port.name}\n" for kind in ("learned", "asked")]
    return f"""table bridge {TABLE} {{
{_MAPS}{_sets(port)}    chain from-{port.name} {{ }}
    chain to-{port.name} {{ }}
}}
{_elements("add", port)}{_elements("delete", port)}{"".join(gone)}"""


def _sets(port: Port) -> str:
    """For what is learned. They are bounded: a guest's root can ask without an end."""
    return f"""    set {port.learned} {{ typeof {_YIADDR}; size 4; flags dynamic; }}
    set asked-{port.name} {{ typeof {_XID}; size 16; flags dynamic, timeout; timeout 2m; }}
"""


def _elements(verb: str, port: Port) -> str:
    return "".join(f"{verb} element bridge {TABLE} {way} {{ \"{port.interface}\" : goto {way}-{port.name} }}\n"
                   for way in ("from", "to"))


def _types(guard: Guard) -> str:
    """The protocols above Ethernet that pass; a VLAN's tag is another one."""
    own = (*(("arp", "ip") if guard.ipv4 or guard.learns else ("ip",) if guard.dhcp else ()), *(("ip6",) if guard.ipv6 else ()))
    return f"ether type != {{ {', '.join(own)} }} drop"


def _sent(guard: Guard, learned: str, asked: str) -> Iterator[str]:
    """From the guest; the first rule that fits counts."""
    noted = f"update {asked} {{ {_XID} }} " if learned else ""
    yield f"ether saddr != {guard.mac} drop"
    yield _types(guard)
    if guard.dhcp:
        yield f"ip saddr 0.0.0.0 ip daddr 255.255.255.255 {_WHOLE} {_ASKS} {noted}accept"
    if not _versions(guard):
        yield "drop"
        return
    if guard.ipv4 or learned:
        sender, source = (_SENDER, f"ether type ip {_SOURCE}") if learned else ("arp saddr ip", "ip saddr")
        own = learned or _any(guard.ipv4)
        yield f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {guard.mac} {sender} {own} accept"
        yield "ether type arp drop"
        yield f"{source} != {own} drop"
        yield "ip hdrlength != 5 drop"  # options: ways around what is closed
        if guard.dhcp:  # renewed at its server, and then at any (RFC 2131, 4.4.5)
            yield f"{_WHOLE} {_ASKS} {noted}accept"
        yield from _family(guard, 4)
    if guard.ipv6:
        yield "exthdr rt exists drop"
        yield f"{_LATER[6]} ip6 saddr != {guard.ipv6} drop"
        yield f"icmpv6 type {{ {_ROUTER}, {_REDIRECT} }} drop"
        yield (f"icmpv6 type {_ADVERTISEMENT} @th,64,128 != {int(ipaddress.IPv6Address(guard.ipv6)):#034x} "
               "@th,64,10 != 0x3fa drop")
        for source in ("::", _LINK_LOCAL[6]):
            yield f"ip6 saddr {source} icmpv6 type != {_ROUTER} accept"
        yield f"ip6 saddr != {guard.ipv6} drop"
        yield from _family(guard, 6)
    yield "udp sport { 67, 547 } drop"
    for first, last in _runs(guard.services):
        yield f"meta l4proto {{ tcp, udp }} th dport {first if first == last else f'{first}-{last}'} accept"
    yield f"tcp sport 22 tcp dport {guard.replies}-65535 accept"
    for version in _versions(guard):
        yield from (f"{_FAMILY[version]} daddr {place} drop" for place in _of(version, guard.node))
    yield "udp sport 123 udp dport 123 accept"
    yield "tcp sport 22 accept"
    yield "meta l4proto { tcp, udp } th sport 1024-65535 accept"
    yield "meta l4proto != { tcp, udp } accept"
    yield "drop"


def _family(guard: Guard, version: int) -> Iterator[str]:
    """What IPv4 and IPv6 have in common, up to where ports are looked at: only a packet's first part has them, and kernels
    differ in whether they take other parts for one.
    """
    name = _FAMILY[version]
    yield from _closed(version, guard, "daddr")
    yield f"ether type {name} meta l4proto {'icmp' if version == 4 else 'ipv6-icmp'} accept"
    for place in (_LINK_LOCAL[version], _MULTICAST[version]):
        yield f"{name} daddr {place} drop"
    yield from (f"{_LATER[version]} {name} daddr {place} drop" for place in _of(version, guard.node))
    yield f"{_LATER[version]} meta l4proto {{ tcp, udp }} accept"


def _got(guard: Guard, learned: str, asked: str) -> Iterator[str]:
    """To the guest: nothing that is for another machine."""
    yield f"ether daddr and 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != {guard.mac} drop"
    yield _types(guard)
    if learned:
        for place in _of(4, guard.node):
            yield f"{_WHOLE} {_ANSWERS} {_YIADDR} {int(ipaddress.IPv4Network(place).network_address):#010x} drop"
        yield (f"{_WHOLE} {_ANSWERS} {_ACK} {_CHADDR} 0x{guard.mac.replace(':', '')} @th,192,8 != 0 @th,192,3 != 7 "
               f"{_XID} {asked} add {learned} {{ {_YIADDR} }} accept")
    if guard.dhcp:
        yield f"{_WHOLE} {_ANSWERS} accept"
    if not _versions(guard):
        yield "drop"
        return
    for version in _versions(guard):
        yield from _closed(version, guard, "saddr")
    yield "accept"


def _versions(guard: Guard) -> tuple[int, ...]:
    """Of IP, those in which it may have addresses."""
    return (*((4,) if guard.ipv4 or guard.learns else ()), *((6,) if guard.ipv6 else ()))


def _closed(version: int, guard: Guard, end: str) -> Iterator[str]:
    return (f"{_FAMILY[version]} {end} {place} drop" for place in _of(version, guard.closed))


def _any(places: tuple[str, ...]) -> str:
    return places[0] if len(places) == 1 else f"{{ {', '.join(places)} }}"


def _of(version: int, places: Iterable[str]) -> list[str]:
    """Those of a family, in as few networks as can be."""
    networks = [network for network in map(ipaddress.ip_network, places) if network.version == version]
    return [str(network.network_address if network.prefixlen == network.max_prefixlen else network)
            for network in ipaddress.collapse_addresses(networks)]  # type: ignore[type-var]


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
