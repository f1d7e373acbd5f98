"""Frames, header by header, with whatever is wrong in them."""

import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
IPV4, ARP, IPV6, VLAN, PROVIDER_VLAN = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
ICMP, TCP, UDP, ROUTING, FRAGMENT, ICMPV6, HOP_BY_HOP, DESTINATION = 1, 6, 17, 43, 44, 58, 0, 60
NOBODY, EVERYBODY = "0.0.0.0", "255.255.255.255"  # noqa: S104 (nothing is bound)
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ether(source: str, target: str, kind: int, body: bytes) -> bytes:
    return packed(target) + packed(source) + struct.pack("!H", kind) + body


def tagged(frame: bytes, kind: int = VLAN, number: int = 7) -> bytes:
    """The frame with a VLAN's tag, before any that it has."""
    return frame[:12] + struct.pack("!HH", kind, number) + frame[12:]


def checksum(data: bytes) -> int:
    total = int(sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int, body: bytes, *, options: bytes = b"", offset: int = 0, more: bool = False,
         length: int | None = None) -> bytes:
    """`offset` in units of 8 bytes; `length`: another one than it has."""
    words = 5 + len(options) // 4
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(body) if length is None else length, 1,
                       offset | (0x2000 if more else 0), 64, protocol, 0)
    return head[:10] + struct.pack("!H", checksum(head + ends + options)) + ends + options + body


def ipv6(source: str, target: str, protocol: int, body: bytes) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + ends + body


def extension(following: int, body: bytes = b"\x01\x04\0\0\0\0") -> bytes:
    """A header for hops or for the destination, of 8 bytes: one option that fills it up."""
    return struct.pack("!BB", following, 0) + body


def routing(following: int, via: str) -> bytes:
    """A routing header of type 0 (RFC 2460)."""
    return struct.pack("!BBBBI", following, 2, 0, 1, 0) + socket.inet_pton(socket.AF_INET6, via)


def part(following: int, offset: int, more: bool) -> bytes:
    """IPv6's fragment header."""
    return struct.pack("!BBHI", following, 0, offset << 3 | more, 1)


def tcp(source: int, target: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, 1, 0, 0x50, 2, 1024, 0, 0) + payload


def udp(source: int, target: int, payload: bytes = b"") -> bytes:
    return struct.pack("!4H", source, target, 8 + len(payload), 0) + payload


def icmp(kind: int, payload: bytes = b"") -> bytes:
    """Also of IPv6; the checksum is left out, as nobody here looks at it."""
    return struct.pack("!BBHI", kind, 0, 0, 0) + payload


def neighbour(kind: int, target: str, payload: bytes = b"") -> bytes:
    """A solicitation, an advertisement or a redirect (RFC 4861)."""
    return icmp(kind, socket.inet_pton(socket.AF_INET6, target) + payload)


def arp(operation: int, sender: tuple[str, str], target: str, payload: bytes = b"", *, hardware: int = 1, size: int = 6) -> bytes:
    return (struct.pack("!HHBBH", hardware, IPV4, size, 4, operation) + packed(sender[0]) + socket.inet_aton(sender[1]) + bytes(6)
            + socket.inet_aton(target) + payload)


def dhcp(kind: int, mac: str, own: str = "", *, xid: int = 1, operation: int = 2, cookie: int = 0x63825363,
         first: bytes = b"", payload: bytes = b"") -> bytes:
    """A message of DHCP (RFC 2131): `own` is `yiaddr`, `first` are options before its kind."""
    head = struct.pack("!BBBBIHH4s4s4s4s16s", operation, 1, 6, 0, xid, 0, 0x8000, bytes(4), socket.inet_aton(own or NOBODY),
                       bytes(4), bytes(4), packed(mac))
    return head + bytes(192) + struct.pack("!I", cookie) + first + bytes((53, 1, kind)) + payload + b"\xff"
