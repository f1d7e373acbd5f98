"""What the DHCP of libvirt's networks gives, with a real server: given back behind a guest, taken back where none is left."""

from collections.abc import Iterator

import msgspec
import pytest

from lab import node
from tests.guest.machine import BRIDGE, NETWORK, SERVER, SYSTEM, Machine, of, until
from vmbatch import registry
from vmbatch.errors import NodeError
from vmbatch.host import virtnet
from vmbatch.hypervisor.lease import DhcpLease, Room
from vmbatch.resource import Work
from vmbatch.template import VirtNet
from vmbatch.units import Deadline

from .tokens import new_token

FOUR = VirtNet(NETWORK, BRIDGE, SERVER, (("10.77.0.131", "10.77.0.134"),))
"""As if there were no more."""

pytestmark = pytest.mark.skipif(not node.inside(), reason="a real DHCP server is the lab's node's")


def new_mac() -> str:
    token = new_token()
    return f"52:54:00:{token[:2]}:{token[2:4]}:{token[4:6]}"


def release(mac: str) -> None:
    """As a record of it brings it back."""
    record = msgspec.json.encode(DhcpLease(SYSTEM, NETWORK, BRIDGE, SERVER, mac))
    assert b"\n" not in record
    registry.resource(record).release(Deadline(30), last=False)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


@pytest.mark.parametrize("clients", [(b"",), (b"\x01guest",), (b"one", b"two"), (b"", b"one"), (b"one", b"two", b"\xff" * 255)],
                         ids=["without a name", "with a name", "two names", "first without", "three names"])
def test_leases_are_given_back(machine: Machine, clients: tuple[bytes, ...]) -> None:
    mac, other = new_mac(), new_mac()
    machine.ask(other, "10.77.0.140")
    for number, client in enumerate(clients):
        if client and b"" in clients:
            continue  # to whom it knows without a name the server gives no second one
        machine.ask(mac, f"10.77.0.{141 + number}", client)
    release(mac)
    assert until(mac, set())
    assert of(other) == {"10.77.0.140"}
    release(mac)
    assert of(mac) == set()


def test_what_never_was() -> None:
    release(new_mac())


def test_the_lease_of_a_guest_that_runs_is_left_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mac = new_mac()
    machine.ask(mac, "10.77.0.141")
    with monkeypatch.context() as patch:
        patch.setattr(virtnet, "macs", lambda _uri, _name: {mac})
        release(mac)
    assert not until(mac, set(), 0.5)


def test_libvirt_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: str) -> None:
        raise NodeError("libvirt does not answer")

    monkeypatch.setattr(virtnet, "leases", fail)
    release(new_mac())


def test_a_network_that_is_used_up_heals(machine: Machine) -> None:
    said: list[str] = []
    forged = {f"10.77.0.{number}": new_mac() for number in range(131, 135)}
    for address, mac in forged.items():
        machine.ask(mac, address, mac.encode())
    own = new_mac()
    Room(SYSTEM, FOUR, (own,)).make(Work(Deadline(30), lambda: None, said.append))
    [line] = said
    [address] = [each for each, mac in forged.items() if f"{each} of {mac}" in line]
    assert until(forged[address], set())
    machine.ask(own, address)


def test_a_network_that_guests_have_used_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = {f"10.77.0.{number}": new_mac() for number in range(131, 135)}
    for address, mac in forged.items():
        machine.ask(mac, address)
    with monkeypatch.context() as patch:
        patch.setattr(virtnet, "macs", lambda _uri, _name: set(forged.values()))
        with pytest.raises(NodeError, match=r"^no free address in libvirt's network lab: running guests have all 4$"):
            Room(SYSTEM, FOUR, (new_mac(),)).make(Work(Deadline(5), lambda: None, lambda _: None))
    assert {address: of(mac) for address, mac in forged.items()} == {address: {address} for address in forged}
