"""An address of a network of libvirt's, which its DHCP gives to one interface of a guest and to nobody else."""

import time
from collections.abc import Iterable

from ..errors import NodeError, TakenError
from ..host import dhcp, virtnet
from ..resource import Resource
from ..template import parse_network
from ..units import Deadline

_IN_FLIGHT_SECONDS = 2.0
_FREED_SECONDS = 30.0
"""The server has a helper that writes down what it gives and gets back, and all leases anew when its hosts change: one
program for each, one after the other (dnsmasq(8), --dhcp-script)."""
_PAUSE_SECONDS = 0.05


class DhcpHost(Resource, frozen=True, tag="dhcp-host"):
    """A <host> in the running `network`, for the start `token`; `bridge` and `server` are that network's.

    It bears no mark: a name there would be the guest's in DNS, and whoever said it could get its lease. What is ours is known by
    the start's reservation of the address on this node (exchange/address.py), which is older and lives longer.
    """

    uri: str
    network: str
    bridge: str
    server: str
    mac: str
    address: str
    token: str

    def __str__(self) -> str:
        return f"address {self.address} for {self.mac} in libvirt's network {self.network}"

    def acquire(self) -> None:
        """Makes it, and frees the address if a machine has it that has gone: before it, too, as the server then is quicker to say
        so. TakenError, NodeError."""
        self._free()
        try:
            virtnet.add_host(self.uri, self.network, self.mac, self.address)
        except NodeError:
            self._check_known()
            raise
        over = Deadline(_FREED_SECONDS)
        try:
            while holder := self._free():
                if over.passed():
                    raise NodeError(f"the DHCP server of libvirt's network {self.network} does not take back {self.address} from "
                                    f"{holder}, a machine that has gone", f"does dnsmasq serve {self.bridge}?", code="VB610")
                time.sleep(_PAUSE_SECONDS)
        except TakenError:
            virtnet.remove_host(self.uri, self.network, self.mac, self.address)
            raise

    def _free(self) -> str:
        """Gives the address back in the name of a machine that has gone: its MAC, '' if none has it. TakenError, NodeError."""
        holder = virtnet.leases(self.uri, self.network).get(self.address, self.mac)
        if holder == self.mac:
            return ""
        if holder in virtnet.macs(self.uri, self.network):
            raise TakenError(f"the address {self.address} was given to a guest with MAC {holder} meanwhile")
        dhcp.release(self.bridge, self.server, self.address, holder)
        return holder

    def _check_known(self) -> None:
        """TakenError if somebody else has the address now, NodeError if there is another guest with the same MAC."""
        for mac, address in parse_network(virtnet.network_xml(self.uri, self.network)).hosts:
            if mac == self.mac and address != self.address:
                raise NodeError(f"libvirt's network {self.network} knows {self.mac} already, with the address {address}",
                                "jobs of a template with a <mac> run one at a time", code="VB610")
            if address == self.address:
                raise TakenError(f"the address {self.address} was given to {mac} meanwhile")

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Takes it away, and gives the lease back, if the network still has this very pair of MAC and address."""
        over = deadline.earlier(_IN_FLIGHT_SECONDS if last else 0)
        while not self._is_there():
            if over.passed():
                return
            time.sleep(_PAUSE_SECONDS)
        virtnet.remove_host(self.uri, self.network, self.mac, self.address)
        dhcp.release(self.bridge, self.server, self.address, self.mac)

    def _is_there(self) -> bool:
        """Looks first, as libvirt would also remove a host of that address that has no MAC (virNetworkDefUpdateIPDHCPHost)."""
        running = map(parse_network, virtnet.networks(self.uri))
        return any(net.name == self.network and (self.mac, self.address) in net.hosts for net in running)


def left(uri: str, reserved: Iterable[tuple[str, str]]) -> list[DhcpHost]:
    """What the running networks have of `reserved`: (address, token of the start that reserved it on this node). NodeError."""
    tokens = dict(reserved)
    return [] if not tokens else [
        DhcpHost(uri, net.name, net.bridge, net.server, mac, address, tokens[address])
        for net in map(parse_network, virtnet.networks(uri)) for mac, address in net.hosts if address in tokens]
