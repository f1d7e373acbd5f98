"""The addresses that the DHCP of libvirt's networks gives: enough of them for a guest, and given back behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import NodeError
from ..host import dhcp, virtnet
from ..host.virtnet import Lease
from ..resource import Piece, Resource, Work
from ..units import Deadline

if TYPE_CHECKING:
    from ..template import VirtNet

_SPARE = 16
"""Addresses that are to be left, or a quarter of a small network's: others start beside this guest."""


class DhcpLease(Resource, frozen=True, tag="dhcp-lease"):
    """Whatever the DHCP of libvirt's `network` gives to a guest's `mac`; `bridge` and `server` are that network's."""

    uri: str
    network: str
    bridge: str
    server: str
    mac: str

    def __str__(self) -> str:
        return f"lease of {self.mac} in libvirt's network {self.network}"

    def acquire(self) -> None:
        """Does nothing: the guest asks for it."""

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Gives it back, unless another guest has the MAC. Best effort: what stays ends by itself, or for want of addresses."""
        with contextlib.suppress(NodeError):
            given = virtnet.leases(self.uri, self.network, self.mac)
            if given and self.mac not in virtnet.macs(self.uri, self.network):
                _give_back(self.bridge, self.server, given)


class Room(Piece, frozen=True, tag="dhcp-room"):
    """That the DHCP of libvirt's network `net` has addresses left for a guest's `macs`; what is `pinned` is other guests'."""

    uri: str
    net: VirtNet
    macs: tuple[str, ...]
    pinned: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"addresses left in libvirt's network {self.net.name}"

    def make(self, work: Work) -> None:
        """Takes back some of what machines have that have gone, or were never there, where few are left. NodeError: none is."""
        given = virtnet.leases(self.uri, self.net.name)  # looked at first: a guest is there before its lease is
        known = {lease.mac for lease in given}
        asking = [mac for mac in self.macs if mac not in known and not self.net.knows(mac)]
        free = self.net.free(lease.address for lease in given)
        lacking = max(len(asking), min(_SPARE, self.net.size // 4)) - free
        if not asking or lacking <= 0:
            return
        there = virtnet.macs(self.uri, self.net.name) | set(self.macs)
        gone = [lease for lease in given if lease.mac not in there and lease.address not in self.pinned
                and self.net.gives(lease.address, "")][:lacking]
        if gone:
            work.say(f"libvirt's network {self.net.name} has {free} of {self.net.size} addresses left; taken back from machines "
                     f"that have gone: {', '.join(f'{lease.address} of {lease.mac}' for lease in gone)}")
            _give_back(self.net.bridge, self.net.server, gone)
        if free + len(gone) < len(asking):
            raise NodeError(f"no free address in libvirt's network {self.net.name}: running guests have all {self.net.size}",
                            "give the network a larger <range>, or the queue fewer jobs", code="VB601")


def _give_back(bridge: str, server: str, given: Iterable[Lease]) -> None:
    """First those of clients with a name: to one without the server gives the first that its MAC has."""
    for lease in sorted(given, key=lambda lease: not lease.client):
        dhcp.release(bridge, server, lease.address, lease.mac, lease.client)
