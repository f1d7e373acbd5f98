"""A word to a DHCP server on this node, in the name of a machine that cannot say it any more."""

import contextlib
import ipaddress
import os
import re
import socket
import struct

_SERVER_PORT = 67
_BODY = struct.Struct("!4B4sHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _ETHERNET = 1, 1
_MESSAGE_TYPE, _SERVER, _CLIENT, _END = 53, 54, 61, 255
_RELEASE = 7
_LEAST = 300
"""Bytes of a BOOTP message (RFC 951)."""


def release_message(server: str, address: str, mac: str, client: str = "") -> bytes:
    """That a machine gives its address back (RFC 2131, 4.4.6).

    `client` is its identifier, bytes in hex with colons between them, by which the server knows it before its `mac` (dnsmasq,
    src/lease.c, lease_find_by_client). It is a guest's own: one that is not well-formed is left out.
    """
    nobody = bytes(4)
    called = bytes.fromhex(client.replace(":", "")) if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){0,254}", client) else b""
    body = _BODY.pack(_REQUEST, _ETHERNET, 6, 0, os.urandom(4), 0, 0, _packed(address), nobody, nobody, nobody,
                      bytes.fromhex(mac.replace(":", "")), b"", b"")
    options = bytes((_MESSAGE_TYPE, 1, _RELEASE, _SERVER, 4)) + _packed(server)
    options += bytes((_CLIENT, len(called))) + called if called else b""
    return (body + _COOKIE + options + bytes((_END,))).ljust(_LEAST, b"\0")


def release(bridge: str, server: str, address: str, mac: str, client: str = "") -> None:
    """Tells the server at the address `server` on a `bridge` of this node; best effort, as nobody answers.

    The socket is bound to the bridge: the server heeds what comes from its own network alone.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        out.sendto(release_message(server, address, mac, client), (server, _SERVER_PORT))


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed
