"""Each frame that a guest can send or get, and whether it passes."""

from collections.abc import Callable

import msgspec
import pytest

from vmbatch.guard import BASE, Guard, Port, bare, claim, removal, rules
from vmbatch.hypervisor.netfilter import BridgePort

from . import packet as p
from .world import NODE, NODE_MAC, WORLD, Play, Sent, Settle, mark, play

OWN, OTHER = "52:54:00:12:34:56", "52:54:00:00:00:02"
"""The MACs of the guest, and of another one."""
IP, IPV6, SECOND, VICTIM, BEYOND, BEYOND6 = "10.77.0.21", "fd00:77::21", "10.77.0.30", "10.77.0.22", "198.51.100.7", "fd00:99::7"
LINK, NODE6, VICTIM6 = "fe80::5054:ff:fe12:3456", "fd00:77::1", "fd00:77::22"
PLACES = (NODE, "10.77.0.255", NODE6)
CLOSED = (f"{VICTIM}/32", "10.9.0.0/16", f"{VICTIM6}/128")
GUARDS = {
    "both": Guard(OWN, (IP,), IPV6, False, PLACES, CLOSED, (53, 2049, 2050), 32768),
    "pinned": Guard(OWN, (IP,), "", True, PLACES, CLOSED, (53,), 32768),
    "twice": Guard(OWN, (SECOND, IP), "", True, PLACES, CLOSED, (53,), 32768),
    "waiting": Guard(OWN, (), "", True, PLACES, CLOSED, (53,), 32768),
    "six": Guard(OWN, (), IPV6, False, PLACES, CLOSED, (53,), 32768),
    "learns": Guard(OWN, (), "", True, PLACES, CLOSED, (53,), 32768, learns=True),
}
PORTS = {name: Port(f"{number}1234567" + "89abcdef" * 3, number) for number, name in enumerate(GUARDS)}
Body = Callable[[bytes], bytes]
"""A frame's body, in which the mark must be."""


def four(protocol: int, body: Body, source: str = IP, target: str = BEYOND, **how: int | bytes | bool) -> Body:
    def made(sign: bytes) -> bytes:
        return p.ether(OWN, p.BROADCAST, p.IPV4, p.ipv4(source, target, protocol, body(sign), **how))  # type: ignore[arg-type]
    return made


def six(protocol: int, body: Body, source: str = IPV6, target: str = BEYOND6) -> Body:
    return lambda sign: p.ether(OWN, p.BROADCAST, p.IPV6, p.ipv6(source, target, protocol, body(sign)))


def tcp(source: int, target: int) -> Body:
    return lambda sign: p.tcp(source, target, sign)


def udp(source: int, target: int) -> Body:
    return lambda sign: p.udp(source, target, sign)


def ping(sign: bytes) -> bytes:
    return p.icmp(8, sign)


def neighbour(kind: int, target: str) -> Body:
    return lambda sign: p.neighbour(kind, target, sign)


def behind(header: bytes, body: Body) -> Body:
    return lambda sign: header + body(sign)


def arp(sender: tuple[str, str], target: str = VICTIM, operation: int = 1, **how: int) -> Body:
    return lambda sign: p.ether(OWN, p.BROADCAST, p.ARP, p.arp(operation, sender, target, sign, **how))


def named(source: str, frame: Body) -> Body:
    """With another sender's MAC."""
    return lambda sign: (made := frame(sign))[:6] + p.packed(source) + made[12:]


def to(target: str, frame: Body) -> Body:
    """For another MAC than all."""
    return lambda sign: p.packed(target) + frame(sign)[6:]


def tagged(*kinds: int, of: Body) -> Body:
    def made(sign: bytes) -> bytes:
        frame = of(sign)
        for kind in reversed(kinds):
            frame = p.tagged(frame, kind)
        return frame
    return made


def unnamed(kind: int, body: bytes = b"") -> Body:
    return lambda sign: p.ether(OWN, p.BROADCAST, kind, body + sign + bytes(40))


def measured(head: bytes) -> Body:
    """IEEE 802.3: a length in the type's place, and then 802.2's header."""
    return lambda sign: p.ether(OWN, p.BROADCAST, len(head + sign), head + sign)


PLAIN = four(p.TCP, tcp(40000, 443))
OPTIONS = p.extension(p.ICMPV6)
"""A header of IPv6's for hops, or for the destination, before ICMPv6's."""
SOURCE_ROUTE = bytes((131, 7, 4, 10, 9, 3, 3, 0))
"""A loose one (RFC 791), by way of a closed network."""

NEVER: dict[str, Body] = {
    "another's MAC": named(OTHER, PLAIN),
    "another's address": four(p.TCP, tcp(40000, 443), VICTIM),
    "the node's address": four(p.TCP, tcp(40000, 443), NODE),
    "no address": four(p.UDP, udp(40000, 53), p.NOBODY),
    "another's MAC in ARP": arp((OTHER, IP)),
    "another's address in ARP": arp((OWN, VICTIM)),
    "the node's address in ARP": arp((OWN, NODE), NODE, 2),
    "no address in ARP": arp((OWN, p.NOBODY)),
    "ARP of other hardware": arp((OWN, IP), hardware=6),
    "ARP with longer addresses": arp((OWN, IP), size=8),
    "ARP backwards": unnamed(0x8035, p.arp(3, (OWN, IP), IP)),
    "DHCP's answers": four(p.UDP, udp(67, 68)),
    "DHCP's answers to all": four(p.UDP, udp(67, 68), target=p.EVERYBODY),
    "another guest": four(p.TCP, tcp(40000, 22), target=VICTIM),
    "another guest's NFS": four(p.TCP, tcp(40000, 2049), target=VICTIM),
    "another guest's ping": four(p.ICMP, ping, target=VICTIM),
    "a closed network": four(p.UDP, udp(40000, 53), target="10.9.3.3"),
    "the node's batch daemon": four(p.TCP, tcp(40000, 15002), target=NODE),
    "the node's batch daemon, UDP": four(p.UDP, udp(40000, 15002), target=NODE),
    "the node's daemon from port 22": four(p.TCP, tcp(22, 15002), target=NODE),
    "the node's high port from another": four(p.TCP, tcp(40000, 40000), target=NODE),
    "the node's broadcast": four(p.UDP, udp(40000, 15002), target="10.77.0.255"),
    "all of the network": four(p.UDP, udp(40000, 15002), target=p.EVERYBODY),
    "a group": four(p.UDP, udp(40000, 15002), target="224.0.0.251"),
    "the cloud's own": four(p.TCP, tcp(40000, 80), target="169.254.169.254"),
    "a port of root's": four(p.TCP, tcp(1023, 15001)),
    "a port of root's, UDP": four(p.UDP, udp(1, 15001)),
    "port 0": four(p.TCP, tcp(0, 15001)),
    "a route by options": four(p.TCP, tcp(40000, 443), options=SOURCE_ROUTE),
    "a router's alarm": four(2, lambda sign: b"\x16\0\0\0" + sign, target="224.0.0.2", options=b"\x94\x04\0\0"),
    "the node by a part": four(p.UDP, udp(40000, 15002), target=NODE, offset=3),
    "another guest by a part": four(p.UDP, udp(40000, 15002), target=VICTIM, offset=3),
    "another's address in a part": four(p.UDP, udp(40000, 15002), VICTIM, offset=3),
    "a first part from a port of root's": four(p.UDP, udp(1000, 15002), more=True),
    "TCP without ports": four(p.TCP, lambda sign: sign[:3]),
    "a longer packet than there is": four(p.TCP, tcp(40000, 443), length=2000),
    "a shorter packet than its header": four(p.TCP, tcp(40000, 443), length=12),
    "IPv4 in the name of IPv6": lambda sign: p.ether(OWN, p.BROADCAST, p.IPV6, PLAIN(sign)[14:]),
    "a VLAN": tagged(p.VLAN, of=PLAIN),
    "a provider's VLAN": tagged(p.PROVIDER_VLAN, of=PLAIN),
    "two VLANs": tagged(p.VLAN, p.VLAN, of=PLAIN),
    "two VLANs, a provider's first": tagged(p.PROVIDER_VLAN, p.VLAN, of=PLAIN),
    "VLAN 0, which is none": lambda sign: p.tagged(PLAIN(sign), p.VLAN, 0),
    "ARP in a VLAN": tagged(p.VLAN, of=arp((OWN, IP))),
    "DHCP in a VLAN": tagged(p.VLAN, of=four(p.UDP, udp(68, 67), p.NOBODY, p.EVERYBODY)),
    "an unknown protocol": unnamed(0x88B5),
    "a pause": to("01:80:c2:00:00:01", unnamed(0x8808, b"\0\x01\xff\xff")),
    "a pause to all": unnamed(0x8808, b"\0\x01\xff\xff"),
    "a spanning tree": to("01:80:c2:00:00:00", measured(b"\x42\x42\x03\0\0\0\0")),
    "a spanning tree to all": measured(b"\x42\x42\x03\0\0\0\0"),
    "Cisco's spanning tree": to("01:00:0c:cc:cc:cd", measured(b"\xaa\xaa\x03\0\0\x0c\x01\x0b")),
    "IPv4 behind 802.2": measured(b"\xaa\xaa\x03\0\0\0\x08\0" + p.ipv4(IP, BEYOND, p.UDP, b"")),
    "802.3 without anything": measured(b""),
    "LLDP": to("01:80:c2:00:00:0e", unnamed(0x88CC)),
    "802.1X": to("01:80:c2:00:00:03", unnamed(0x888E)),
    "PPPoE": unnamed(0x8863),
    "MPLS": unnamed(0x8847),
}
"""No guest can send them."""
NEVER6: dict[str, Body] = {
    "another's IPv6 address": six(p.TCP, tcp(40000, 443), VICTIM6),
    "a link-local address": six(p.UDP, udp(40000, 53), LINK),
    "a router's word": six(p.ICMPV6, neighbour(134, "::"), LINK, "ff02::1"),
    "a router's word from its own address": six(p.ICMPV6, neighbour(134, "::"), IPV6, "ff02::1"),
    "a router's word behind a header": six(p.HOP_BY_HOP, behind(OPTIONS, neighbour(134, "::")), LINK, "ff02::1"),
    "a router's word behind two headers": six(p.HOP_BY_HOP, behind(p.extension(p.DESTINATION) + OPTIONS, neighbour(134, "::")),
                                              LINK, "ff02::1"),
    "a router's word in a first part": six(p.FRAGMENT, behind(p.part(p.ICMPV6, 0, True), neighbour(134, "::")), LINK, "ff02::1"),
    "a router's word in a later part": six(p.FRAGMENT, behind(p.part(p.DESTINATION, 1, False), neighbour(134, "::")), LINK,
                                           "ff02::1"),
    "the rest of something from a link-local address": six(p.FRAGMENT, behind(p.part(p.ICMPV6, 1, False), ping), LINK, "ff02::1"),
    "another way": six(p.ICMPV6, neighbour(137, VICTIM6), LINK, "ff02::1"),
    "another way from its own address": six(p.ICMPV6, neighbour(137, VICTIM6), IPV6, VICTIM6),
    "another's neighbour": six(p.ICMPV6, neighbour(136, VICTIM6), LINK, "ff02::1"),
    "another's neighbour from its own address": six(p.ICMPV6, neighbour(136, NODE6), IPV6, "ff02::1"),
    "DHCPv6's answers": six(p.UDP, udp(547, 546)),
    "another guest by IPv6": six(p.TCP, tcp(40000, 22), target=VICTIM6),
    "another guest by IPv6, by a header": six(p.DESTINATION, behind(p.extension(p.TCP), tcp(40000, 22)), target=VICTIM6),
    "the node by IPv6": six(p.TCP, tcp(40000, 15002), target=NODE6),
    "the node by IPv6, behind a header": six(p.DESTINATION, behind(p.extension(p.TCP), tcp(40000, 15002)), target=NODE6),
    "the node by a part, IPv6": six(p.FRAGMENT, behind(p.part(p.UDP, 3, False), udp(40000, 15002)), target=NODE6),
    "the node's link-local address": six(p.TCP, tcp(40000, 15002), target="fe80::1"),
    "a group of IPv6's": six(p.UDP, udp(40000, 5353), target="ff02::fb"),
    "a port of root's, IPv6": six(p.TCP, tcp(1023, 15001)),
    "a port of root's behind a header": six(p.DESTINATION, behind(p.extension(p.TCP), tcp(1023, 15001))),
    "a route by a header": six(p.ROUTING, behind(p.routing(p.TCP, VICTIM6), tcp(40000, 443))),
    "a header without an end": six(p.DESTINATION, lambda sign: bytes((p.TCP, 255)) + sign),
    "IPv6 in the name of IPv4": lambda sign: p.ether(OWN, p.BROADCAST, p.IPV4, six(p.TCP, tcp(4000, 443))(sign)[14:]),
    "IPv6 in a VLAN": tagged(p.VLAN, of=six(p.TCP, tcp(40000, 443))),
}
OPEN: dict[str, Body] = {
    "the world": PLAIN,
    "the world by UDP": four(p.UDP, udp(40000, 443)),
    "a name server": four(p.UDP, udp(40000, 53), target=NODE),
    "a name server by TCP from a port of root's": four(p.TCP, tcp(900, 53), target=NODE),
    "ssh's answers to the node": four(p.TCP, tcp(22, 45678), target=NODE),
    "ssh's answers to others": four(p.TCP, tcp(22, 1024)),
    "ping": four(p.ICMP, ping, target=NODE),
    "a large ping's rest": four(p.ICMP, ping, target=NODE, offset=185),
    "the time": four(p.UDP, udp(123, 123)),
    "ARP": arp((OWN, IP)),
    "ARP's answer": arp((OWN, IP), NODE, 2),
    "a packet's first part": four(p.UDP, udp(40000, 4000), more=True),
    "a packet's rest": four(p.UDP, udp(1, 1), offset=185),
    "another protocol of IP's": four(132, tcp(40000, 443)),
}
"""A guest with the address can send them."""
OPEN6: dict[str, Body] = {
    "IPv6": six(p.TCP, tcp(40000, 443)),
    "IPv6 behind a header": six(p.DESTINATION, behind(p.extension(p.TCP), tcp(40000, 443))),
    "a packet's rest, IPv6": six(p.FRAGMENT, behind(p.part(p.UDP, 185, False), udp(1, 1))),
    "ping by IPv6": six(p.ICMPV6, lambda sign: p.icmp(128, sign), target=NODE6),
    "IPv6's ARP": six(p.ICMPV6, neighbour(135, NODE6), LINK, "ff02::1:ff00:1"),
    "whether an IPv6 address is free": six(p.ICMPV6, neighbour(135, IPV6), "::", "ff02::1:ff00:21"),
    "IPv6's answer": six(p.ICMPV6, neighbour(136, IPV6), IPV6, NODE6),
    "IPv6's answer of the link": six(p.ICMPV6, neighbour(136, LINK), LINK, "ff02::1"),
    "which groups it is in": six(p.HOP_BY_HOP, behind(OPTIONS, neighbour(143, "::")), LINK, "ff02::16"),
    "a name server by IPv6": six(p.UDP, udp(40000, 53), target=NODE6),
}
ASKS = four(p.UDP, lambda sign: p.udp(68, 67, p.dhcp(p.DISCOVER, OWN, operation=1, payload=sign)), p.NOBODY, p.EVERYBODY)
RENEWS: dict[str, Body] = {f"its lease, of {server}": four(p.UDP, udp(68, 67), target=server)
                           for server in (NODE, p.EVERYBODY, BEYOND, VICTIM)}
NOT_RENEWED: dict[str, Body] = {
    "another's lease": four(p.UDP, udp(68, 67), VICTIM, NODE), "DHCP at another port": four(p.UDP, udp(68, 15001), target=NODE),
    "DHCP from another port": four(p.UDP, udp(1000, 67), target=NODE),
}
SENT: dict[str, tuple[dict[str, Body], dict[str, Body]]] = {
    "both": ({**OPEN, **OPEN6, "NFS as the kernel asks": four(p.TCP, tcp(900, 2049), target=NODE),
              "the last of some ports": four(p.UDP, udp(40000, 2050), target=NODE)},
             {**NEVER, **NEVER6, **RENEWS, "DHCP": ASKS, "one more port": four(p.TCP, tcp(40000, 2051), target=NODE)}),
    "pinned": ({**OPEN, **RENEWS, "DHCP": ASKS}, {**NEVER, **NEVER6, **OPEN6, **NOT_RENEWED,
                                                  "a second address": four(p.TCP, tcp(40000, 443), SECOND)}),
    "twice": ({**OPEN, **RENEWS, "DHCP": ASKS, "a second address": four(p.TCP, tcp(40000, 443), SECOND),
               "ARP of a second address": arp((OWN, SECOND))},
              {**NEVER, **NEVER6, **OPEN6, **NOT_RENEWED, "another guest by it": four(p.TCP, tcp(4000, 22), SECOND, VICTIM)}),
    "waiting": ({"DHCP": ASKS}, {
        **NEVER, **NEVER6, **OPEN, **OPEN6, **RENEWS, **NOT_RENEWED, "DHCP to one": four(p.UDP, udp(68, 67), p.NOBODY, NODE),
        "DHCP with an address": four(p.UDP, udp(68, 67), IP, p.EVERYBODY), "DHCP in another's name": named(OTHER, ASKS)}),
    "six": ({**OPEN6}, {**NEVER, **NEVER6, **OPEN, **RENEWS, "DHCP": ASKS}),
    "learns": ({"DHCP": ASKS}, {**NEVER, **NEVER6, **OPEN, **OPEN6, **RENEWS, **NOT_RENEWED}),
}
"""Of each guard what passes, and what does not."""


def came(kind: int, body: Body, source: str = OTHER, target: str = OWN) -> Body:
    return lambda sign: p.ether(source, target, kind, body(sign))


def from4(source: str, protocol: int, body: Body, target: str = IP) -> Body:
    return came(p.IPV4, lambda sign: p.ipv4(source, target, protocol, body(sign)))


def from6(source: str, protocol: int, body: Body, target: str = IPV6) -> Body:
    return came(p.IPV6, lambda sign: p.ipv6(source, target, protocol, body(sign)))


ANSWERED = from4(NODE, p.UDP, udp(67, 68))
ODD: dict[str, Body] = {
    "for another machine": to(OTHER, from4(BEYOND, p.TCP, tcp(443, 40000))),
    "a VLAN": tagged(p.VLAN, of=from4(BEYOND, p.TCP, tcp(443, 40000))),
    "an unknown protocol": came(0x88B5, lambda sign: sign + bytes(40)),
    "another guest": from4(VICTIM, p.TCP, tcp(40000, 22)),
    "another guest's part": came(p.IPV4, lambda sign: p.ipv4(VICTIM, IP, p.TCP, sign, offset=3)),
    "a closed network": from4("10.9.3.3", p.UDP, udp(53, 40000)),
    "another guest by IPv6": from6(VICTIM6, p.TCP, tcp(40000, 22)),
}
COMES: dict[str, Body] = {
    "the world": from4(BEYOND, p.TCP, tcp(443, 40000)), "the node": from4(NODE, p.TCP, tcp(40000, 22)),
    "ARP": came(p.ARP, lambda sign: p.arp(1, (OTHER, NODE), IP, sign)),
    "ARP to all": came(p.ARP, lambda sign: p.arp(1, (OTHER, NODE), IP, sign), target=p.BROADCAST),
}
COMES6: dict[str, Body] = {
    "IPv6": from6(BEYOND6, p.TCP, tcp(443, 40000)),
    "IPv6's ARP": from6("fe80::1", p.ICMPV6, neighbour(135, IPV6), "ff02::1:ff00:21"),
}
GOT: dict[str, tuple[dict[str, Body], dict[str, Body]]] = {
    "both": ({**COMES, **COMES6, "an answer of DHCP": ANSWERED}, ODD),
    "pinned": ({**COMES, "an answer of DHCP": ANSWERED}, {**ODD, **COMES6}),
    "waiting": ({"an answer of DHCP": ANSWERED, "one to all": to(p.BROADCAST, ANSWERED)}, {
        **ODD, **COMES, **COMES6, "an answer from another port": from4(NODE, p.UDP, udp(53, 68)),
        "one to another port": from4(NODE, p.UDP, udp(67, 22)), "one to another machine": to(OTHER, ANSWERED)}),
    "six": (COMES6, {**ODD, **COMES, "an answer of DHCP": ANSWERED}),
    "learns": ({**COMES, "an answer of DHCP": ANSWERED}, {**ODD, **COMES6}),
}


def opened(port: Port, guard: Guard) -> str:
    """As it is made for a node's first guest."""
    return BASE + rules(port, guard).removeprefix(bare(port)) + claim(port)


def cases() -> list[tuple[str, str, str, Body, bool]]:
    """Guard, direction, what the frame is, the frame, whether it passes."""
    return [(guard, way, what, frame, passes)
            for way, table in (("sent", SENT), ("got", GOT)) for guard, both in table.items()
            for frames, passes in zip(both, (True, False), strict=True) for what, frame in frames.items()]


def sent(way: str, guard: str, frame: bytes) -> Sent:
    return Sent(PORTS[guard].interface if way == "sent" else WORLD, frame)


@pytest.fixture(scope="module")
def arrived() -> dict[tuple[str, str, str], set[str]]:
    """Where each frame has arrived; each guard's guest is alone."""
    found = {}
    for guard, port in PORTS.items():
        mine = [case for case in cases() if case[0] == guard]
        frames = tuple(sent(way, guard, frame(mark(number))) for number, (_, way, _, frame, _) in enumerate(mine))
        places = play(Play((port.interface,), (opened(port, GUARDS[guard]), frames)))
        found.update({case[:3]: seen for case, seen in zip(mine, places, strict=True)})
    return found


@pytest.mark.parametrize(("guard", "way", "what", "frame", "passes"), cases(),
                         ids=lambda value: value if isinstance(value, str) else "")
def test_what_passes(arrived: dict[tuple[str, str, str], set[str]], guard: str, way: str, what: str, frame: Body,
                     passes: bool) -> None:
    place = WORLD if way == "sent" else PORTS[guard].interface
    seen = arrived[guard, way, what]
    assert (place in seen) is passes, seen
    assert passes or way == "got" or not seen, "the node has got it"


def test_without_rules_everything_passes() -> None:
    """Else nothing that does not would prove anything; what a bridge keeps for itself is another test's."""
    names = {**NEVER, **NEVER6}
    frames = tuple(sent("sent", "both", frame(mark(number))) for number, frame in enumerate(names.values()))
    places = play(Play((PORTS["both"].interface,), (frames,)))
    kept = {"a pause", "LLDP", "802.1X"}
    malformed = {"a longer packet than there is", "a shorter packet than its header", "IPv4 in the name of IPv6",
                 "IPv6 in the name of IPv4"}  # dropped by br_netfilter, where that is on
    lost = {name for name, seen in zip(names, places, strict=True) if WORLD not in seen}
    assert lost - malformed == kept | {"TCP without ports"}, "the latter is too short for its mark"


def answer(kind: int = p.ACK, own: str = IP, xid: int = 1, *, mac: str = OWN, server: str = NODE, **how: int | bytes) -> Body:
    """Of a DHCP server that is another machine."""
    def made(sign: bytes) -> bytes:
        return p.udp(67, 68, p.dhcp(kind, mac, own, xid=xid, payload=sign, **how))  # type: ignore[arg-type]
    return from4(server, p.UDP, made)


def asks(xid: int = 1) -> Body:
    return four(p.UDP, lambda sign: p.udp(68, 67, p.dhcp(p.REQUEST, OWN, xid=xid, operation=1, payload=sign)), p.NOBODY,
                p.EVERYBODY)


def speaks(address: str) -> Body:
    return four(p.TCP, tcp(40000, 443), address)


def learned(*story: tuple[str, Body]) -> list[bool]:
    """Which of these frames of one guest pass, in their turn; `way` is as above."""
    port, frames = PORTS["learns"], []
    for number, (way, frame) in enumerate(story):
        frames.append(sent(way, "learns", frame(mark(number))))
    places = play(Play((port.interface,), (opened(port, GUARDS["learns"]), tuple(frames))))
    return [(WORLD if way == "sent" else port.interface) in seen for (way, _), seen in zip(story, places, strict=True)]


def test_what_dhcp_gives_is_open_at_once() -> None:
    assert learned(("sent", speaks(IP)), ("sent", asks()), ("got", answer()), ("sent", speaks(IP)), ("sent", arp((OWN, IP))),
                   ("sent", speaks(VICTIM)), ("sent", arp((OWN, VICTIM))), ("sent", RENEWS[f"its lease, of {NODE}"])) == [
                       False, True, True, True, True, False, False, True]


def told(sign: bytes) -> bytes:
    return p.udp(67, 68, p.dhcp(p.ACK, OWN, IP, payload=sign))


FALSE: dict[str, Body] = {
    "an offer": answer(p.OFFER), "a refusal": answer(p.NAK), "no address": answer(own=p.NOBODY),
    "a group": answer(own="224.0.0.1"), "all": answer(own=p.EVERYBODY), "the node's address": answer(own=NODE),
    "the node's network": answer(own="10.77.0.255"),
    "to another question": answer(xid=2), "for another's card": answer(mac=OTHER), "a question": answer(operation=1),
    "BOOTP": answer(cookie=0),
    "from another port": from4(NODE, p.UDP, lambda sign: p.udp(66, 68, p.dhcp(p.ACK, OWN, IP, payload=sign))),
    "of a card of another kind": from4(NODE, p.UDP, lambda sign: (whole := told(sign))[:8] + b"\2\6" + whole[10:]),
    "a packet's rest": came(p.IPV4, lambda sign: p.ipv4(NODE, IP, p.UDP, told(sign), offset=1)),
    "a packet's first part": came(p.IPV4, lambda sign: p.ipv4(NODE, IP, p.UDP, told(sign), more=True)),
    "with its kind behind": answer(first=bytes((54, 4, 10, 77, 0, 1))),
}


@pytest.mark.parametrize("what", FALSE)
def test_what_is_no_answer_opens_nothing(what: str) -> None:
    own = {"no address": p.NOBODY, "a group": "224.0.0.1", "all": p.EVERYBODY, "the node's address": NODE,
           "the node's network": "10.77.0.255"}.get(what, IP)
    assert learned(("sent", asks()), ("got", FALSE[what]), ("sent", speaks(own)))[::2] == [True, False]


def test_a_guest_cannot_answer_itself() -> None:
    assert learned(("sent", asks()), ("sent", four(p.UDP, told, NODE, p.EVERYBODY)), ("sent", speaks(IP))) == [True, False, False]


def test_what_was_learned_is_settled() -> None:
    """From then on nothing more is learned, whatever a server says."""
    port, guard = PORTS["learns"], GUARDS["learns"]
    story = [("sent", asks()), ("got", answer()), ("sent", speaks(IP)), ("sent", asks(2)), ("got", answer(own=SECOND, xid=2)),
             ("sent", speaks(SECOND)), ("sent", speaks(IP))]
    frames = [sent(way, "learns", frame(mark(number))) for number, (way, frame) in enumerate(story)]
    places = play(Play((port.interface,), (opened(port, guard), tuple(frames[:2]), Settle(port, guard), tuple(frames[2:]))))
    assert [bool(seen) for seen in places] == [True, True, True, True, True, False, True]


def test_little_is_learned_and_nothing_forgotten() -> None:
    """Of a server that gives whatever is asked for."""
    addresses = [f"10.77.0.{number}" for number in range(40, 50)]
    story = [step for number, address in enumerate(addresses)
             for step in (("sent", asks(number)), ("got", answer(own=address, xid=number)))]
    spoken = learned(*story, *(("sent", speaks(address)) for address in addresses))[len(story):]
    assert spoken == [True] * 4 + [False] * 6


def test_questions_without_end() -> None:
    """They are not all remembered, and then do not pass; what has been learned stays."""
    story = [("sent", asks()), ("got", answer()), *(("sent", asks(number)) for number in range(2, 40)), ("sent", speaks(IP))]
    passed = learned(*story)
    assert passed[-1]
    assert passed[2:-1] == [True] * 15 + [False] * 23


MACS = (NODE_MAC, *(f"01:80:c2:00:00:{last:02x}" for last in range(16)))


@pytest.mark.parametrize("stp", [False, True])
def test_frames_for_the_bridge_itself(stp: bool) -> None:
    """A bridge gives frames to some MACs to the node as if they had come over no bridge, for any of its addresses."""
    port, guard = PORTS["both"], GUARDS["both"]
    frames = [to(mac, four(p.UDP, udp(40000, 15002), target=NODE)) for mac in MACS]
    frames += [to(mac, arp((OWN, NODE), NODE)) for mac in MACS]
    made = tuple(Sent(port.interface, frame(mark(number))) for number, frame in enumerate(frames))
    assert play(Play((port.interface,), (opened(port, guard), made), stp)) == [set()] * len(frames)
    unguarded = play(Play((port.interface,), (made,), stp))[:len(MACS)]
    assert sum("socket" in seen for seen in unguarded) >= 15, "the attempt is worth something"


ROOT = bytes.fromhex("424203" "0000000000" "0000525400123456" "00000000" "0000525400123456" "8001" "0000" "1400" "0200" "1e00")
"""The best root that a spanning tree can have (IEEE 802.1D, 9.3.1): the guest."""


@pytest.mark.parametrize("blocked", [True, False])
def test_a_spanning_tree_does_not_end_at_a_guest(blocked: bool) -> None:
    """The bridge would believe it. So the guest that says it is its root has no network as long as it says so; others have."""
    port, other = PORTS["both"], PORTS["twice"]
    frames = (Sent(port.interface, to("01:80:c2:00:00:00", measured(ROOT))(mark(0))), sent("sent", "both", PLAIN(mark(1))),
              sent("sent", "twice", PLAIN(mark(2))))
    ports = (BridgePort(port.interface, isolated=True), BridgePort(other.interface, isolated=True)) if blocked else ()
    places = play(Play((port.interface, other.interface), (opened(port, GUARDS["both"]), opened(other, GUARDS["twice"]), *ports,
                                                           frames), stp=True))
    assert [WORLD in seen for seen in places] == [False, not blocked, True]


def test_a_guest_is_closed_before_and_after() -> None:
    """As long as the table is there, by any interface that is named as guests' are; no order of things opens it."""
    port, other = PORTS["both"], Port("f" * 32, 7)
    speak = [(sent("sent", "both", PLAIN(mark(number))), sent("got", "both", COMES["the world"](mark(number + 1))))
             for number in range(0, 10, 2)]
    first, second, third, *_ = speak
    guard = GUARDS["both"]
    assert play(Play((port.interface,), (opened(other, guard), first, opened(port, guard), second, removal(port), third))) == [
        set(), set(), {WORLD, "node"}, {port.interface}, set(), set()]


def test_rules_that_were_lost_are_made_again() -> None:
    port, guard = PORTS["both"], GUARDS["both"]
    frames = [(sent("sent", "both", NEVER["another's MAC"](mark(number))), sent("sent", "both", PLAIN(mark(number + 1))))
              for number in range(0, 8, 2)]
    for lost in ("flush ruleset", "flush table bridge vmbatch", "delete table bridge vmbatch",
                 "flush map bridge vmbatch from", f"flush chain bridge vmbatch from-{port.name}"):
        acts = (opened(port, guard), frames[0], f"{lost}\n", frames[1], rules(port, guard), frames[2])
        places = play(Play((port.interface,), acts))
        assert places[:2] == places[4:] == [set(), {WORLD, "node"}], lost


def test_one_guest_to_another() -> None:
    """Which is closed to it, and it to that one."""
    one, two = PORTS["both"], PORTS["twice"]
    victim = msgspec.structs.replace(GUARDS["twice"], mac=OTHER, ipv4=(VICTIM,), closed=(f"{IP}/32",))
    frames = (sent("sent", "both", to(OTHER, four(p.TCP, tcp(40000, 22), target=VICTIM))(mark(0))),
              sent("sent", "both", to(OTHER, arp((OWN, IP)))(mark(1))),
              Sent(WORLD, p.ether(NODE_MAC, OTHER, p.IPV4, p.ipv4(BEYOND, VICTIM, p.TCP, p.tcp(1, 22, mark(2))))))
    for closed in (CLOSED, ()):
        guard = msgspec.structs.replace(GUARDS["both"], closed=closed)
        places = play(Play((one.interface, two.interface), (opened(one, guard), opened(two, victim), frames)))
        assert [two.interface in seen for seen in places] == [False, True, True]
        assert (WORLD in places[0]) is (closed == ()), "it has been flooded, to all but the guest that does not want it"
