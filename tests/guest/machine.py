"""A machine on the guests' network, which asks libvirt's DHCP for addresses in whatever name."""

import socket
import subprocess
import time
from pathlib import Path

from vmbatch.host import dhcp, virtnet
from vmbatch.units import Deadline

from . import attack

SYSTEM, NETWORK, BRIDGE, SERVER = "qemu:///system", "lab", "labbr0", "10.77.0.1"
_FORWARDING = "3"
"""A bridge's port, in the kernel's words (uapi/linux/if_bridge.h, BR_STATE_FORWARDING)."""


def of(mac: str) -> set[str]:
    return {lease.address for lease in virtnet.leases(SYSTEM, NETWORK, mac)}


def until(mac: str, addresses: set[str], seconds: float = 5.0) -> bool:
    """Whether these are all that a MAC has, before the time is over."""
    over = Deadline(seconds)
    while of(mac) != addresses:
        if over.passed():
            return False
        time.sleep(0.02)
    return True


class Machine:
    """Asks for addresses on the network, in whatever name."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        subprocess.run(["ip", "link", "add", "asker0", "type", "veth", "peer", "name", "asker1"], check=True)
        for command in ("ip link set asker0 master labbr0 up", "ip link set asker1 up"):
            subprocess.run(command.split(), check=True)
        over = Deadline(30)
        while Path("/sys/class/net/asker0/brport/state").read_text().strip() != _FORWARDING:
            assert not over.passed()
            time.sleep(0.02)
        self._link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._link.bind(("asker1", 0))

    def ask(self, mac: str, address: str, client: bytes = b"") -> None:
        """Sees that the server gives it."""
        before = of(mac)
        message = attack.dhcp(attack.REQUEST, attack.packed(mac), asked=address, client=client)
        packet = attack.udp(attack.NOBODY, attack.EVERYBODY, (68, 67), message)
        self._link.send(attack.BROADCAST + attack.packed(mac) + b"\x08\x00" + packet)
        self._asked.add(mac)
        assert until(mac, before | {address}), virtnet.leases(SYSTEM, NETWORK)

    def close(self) -> None:
        for mac in self._asked:
            for lease in virtnet.leases(SYSTEM, NETWORK, mac):
                dhcp.release(BRIDGE, SERVER, lease.address, mac, lease.client)
            assert until(mac, set())
        self._link.close()
        subprocess.run(["ip", "link", "delete", "asker0"], check=True)
