"""A <host> in the DHCP of a network, with a real server: who gets the address, and what becomes of others' leases."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import node
from vmbatch.errors import NodeError, TakenError
from vmbatch.exchange.address import HERE, Address
from vmbatch.host import virtnet
from vmbatch.hypervisor import dhcphost
from vmbatch.hypervisor.dhcphost import DhcpHost
from vmbatch.units import Deadline

from .tokens import new_token

SYSTEM, NETWORK, SERVER = "qemu:///system", "lab", "10.77.0.1"
PLACE = "10.77.0.133"
OTHER = "52:54:00:dd:00:01"
FORWARDING = "3"
"""A bridge's port, in the kernel's words (uapi/linux/if_bridge.h, BR_STATE_FORWARDING)."""

pytestmark = pytest.mark.skipif(not node.inside(), reason="a real DHCP server is the lab's node's")


def own() -> DhcpHost:
    token = new_token()
    return DhcpHost(SYSTEM, NETWORK, "labbr0", SERVER, f"52:54:00:{token[:2]}:{token[2:4]}:{token[4:6]}", PLACE, token)


def release(host: DhcpHost) -> None:
    host.release(Deadline(5), last=False)


class Machine:
    """Asks for addresses on the network, in whatever name."""

    def __init__(self) -> None:
        subprocess.run(["ip", "link", "add", "asker0", "type", "veth", "peer", "name", "asker1"], check=True)
        for command in ("ip link set asker0 master labbr0 up", "ip link set asker1 up"):
            subprocess.run(command.split(), check=True)
        over = Deadline(5)
        while Path("/sys/class/net/asker0/brport/state").read_text().strip() != FORWARDING:
            assert not over.passed()
            time.sleep(0.02)
        self._link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._link.bind(("asker1", 0))

    def ask(self, mac: str, address: str, seconds: float = 3.0) -> bool:
        """Whether the server gives it."""
        from tests.guest import attack

        message = attack.dhcp(attack.REQUEST, attack.packed(mac), asked=address)
        packet = attack.udp(attack.NOBODY, attack.EVERYBODY, (68, 67), message)
        self._link.send(attack.BROADCAST + attack.packed(mac) + b"\x08\x00" + packet)
        return self.has(mac, address, seconds)

    def has(self, mac: str, address: str, seconds: float = 3.0) -> bool:
        over = Deadline(seconds)
        while virtnet.leases(SYSTEM, NETWORK).get(address) != mac:
            if over.passed():
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        self._link.close()
        subprocess.run(["ip", "link", "delete", "asker0"], check=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def test_it_is_given_to_the_guest_alone(machine: Machine) -> None:
    host = own()
    host.acquire()
    try:
        assert not machine.ask(OTHER, PLACE, 0.5)
        assert machine.ask(host.mac, PLACE)
    finally:
        release(host)


def test_the_lease_is_given_back(machine: Machine) -> None:
    host = own()
    host.acquire()
    assert machine.ask(host.mac, PLACE)
    release(host)
    over = Deadline(5)
    while PLACE in virtnet.leases(SYSTEM, NETWORK):
        assert not over.passed()
        time.sleep(0.02)


def test_a_machine_that_has_gone_gives_way(machine: Machine) -> None:
    assert machine.ask(OTHER, PLACE)
    host = own()
    host.acquire()
    try:
        assert PLACE not in virtnet.leases(SYSTEM, NETWORK)
        assert not machine.ask(OTHER, PLACE, 0.5)
        assert machine.ask(host.mac, PLACE)
    finally:
        release(host)


def test_a_machine_that_is_there_does_not(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.ask(OTHER, PLACE)
    host = own()
    with monkeypatch.context() as patch:
        patch.setattr(virtnet, "macs", lambda _uri, _name: {OTHER})
        with pytest.raises(TakenError, match=f"^the address {PLACE} was given to a guest with MAC {OTHER} meanwhile$"):
            host.acquire()
    assert f"ip='{PLACE}'" not in virtnet.network_xml(SYSTEM, NETWORK)
    assert machine.has(OTHER, PLACE, 0)
    host.acquire()  # and so frees it for other tests
    release(host)


def test_what_another_start_was_quicker_to_take() -> None:
    first, second = own(), own()
    first.acquire()
    try:
        with pytest.raises(TakenError, match=f"^the address {PLACE} was given to {first.mac} meanwhile$"):
            second.acquire()
        release(second)
        assert f"<host mac='{first.mac}' ip='{PLACE}'/>" in virtnet.network_xml(SYSTEM, NETWORK)
    finally:
        release(first)


def test_a_network_that_is_not_there() -> None:
    host = DhcpHost(SYSTEM, "no-such-network", "nobr0", SERVER, OTHER, PLACE, new_token())
    with pytest.raises(NodeError, match="no-such-network"):
        host.acquire()
    release(host)


def test_only_what_was_reserved_is_ours() -> None:
    ours, others = own(), DhcpHost(SYSTEM, NETWORK, "labbr0", SERVER, OTHER, "10.77.0.134", new_token())
    for host in (ours, others):
        host.acquire()
    try:
        assert dhcphost.left(SYSTEM, [(PLACE, ours.token), ("10.77.0.135", new_token())]) == [ours]
        assert dhcphost.left(SYSTEM, []) == []
    finally:
        for host in (ours, others):
            release(host)


def test_the_sweep_takes_what_no_journal_lists() -> None:
    """A start whose journal was lost: its reservation says that the <host> is ours."""
    host = own()
    reserved = Address(f"{HERE}/{PLACE}", host.token, "42.vm", os.uname().nodename)
    subprocess.run(["install", "-d", "-m", "700", HERE], check=True)
    reserved.acquire()
    host.acquire()
    swept = subprocess.run(["/srv/vmbatch/venv/bin/vmbatch", "sweep"], capture_output=True, text=True, check=True)
    assert swept.stdout.splitlines() == [f"removed {host}: no journal lists it", f"removed {reserved}: no journal lists it"]
    assert f"ip='{PLACE}'" not in virtnet.network_xml(SYSTEM, NETWORK)
