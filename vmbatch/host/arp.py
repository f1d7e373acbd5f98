"""A word to a machine on a bridge of this node: where the node is."""

import contextlib
import ipaddress
import socket
import struct

_HEAD = struct.Struct("!6s6sH")
_BODY = struct.Struct("!HHBBH6s4s6s4s")
_ARP, _ETHERNET, _IPV4, _REQUEST = 0x0806, 1, 0x0800, 1


def request(own: tuple[bytes, str], mac: str, address: str) -> bytes:
    """A frame that asks a machine for its address in the name of `own`, a MAC and an address (RFC 826)."""
    told = bytes.fromhex(mac.replace(":", ""))
    return _HEAD.pack(told, own[0], _ARP) + _BODY.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, own[0], _packed(own[1]), bytes(6),
                                                       _packed(address))


def tell(bridge: str, own: str, mac: str, address: str) -> None:
    """Lets a machine on `bridge` know whose the node's address `own` is there; best effort.

    It learns that from being asked. One that has asked itself, when its filter did not let it, waits a second before it
    asks again (arp(7), retrans_time_ms), and keeps its packets so long.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as out:
        out.bind((bridge, 0))
        out.send(request((out.getsockname()[4], own), mac, address))


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed
