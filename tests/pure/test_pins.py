"""Interfaces to which libvirt's DHCP gives addresses: which ones these can be, when they are opened, and what is given back."""

import ipaddress
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import boot, pins
from vmbatch.errors import DeadlineError, EndedError, NodeError, TakenError
from vmbatch.facts import Around
from vmbatch.host import arp, dhcp, libvirtd, nft, virtnet
from vmbatch.host.log import Log
from vmbatch.host.virtnet import Lease
from vmbatch.hypervisor.lease import DhcpLease, Room
from vmbatch.pins import Pins
from vmbatch.plan import FilterFile, Plan, plan
from vmbatch.resource import Work
from vmbatch.template import VirtNet, parse_network
from vmbatch.units import Deadline

from .sample import TEMPLATE, facts, form, job, settings

XML = """<network>
  <name>default</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid><bridge name='virbr0'/>
  <ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::2' end='fd00::9'/></dhcp></ip>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.1' end='192.168.122.4'><lease expiry='10' unit='minutes'/></range>
      <range start='192.168.122.8' end='192.168.122.9'/>
      <host mac='52:54:00:AA:00:01' ip='192.168.122.9'/><host name='by-name' ip='192.168.122.60'/><host mac='52:54:00:aa:00:02'/>
    </dhcp>
  </ip>
</network>"""
NET = VirtNet("default", "virbr0", "192.168.122.1", (("192.168.122.1", "192.168.122.4"), ("192.168.122.8", "192.168.122.9")),
              (("52:54:00:aa:00:01", "192.168.122.9"), ("", "192.168.122.60")))
FREE = {f"192.168.122.{number}" for number in (2, 3, 4, 8)}
KNOWN, STRANGER = "52:54:00:aa:00:01", "52:54:00:00:00:07"
SIXTY = VirtNet("default", "virbr0", "10.0.0.1", (("10.0.0.2", "10.0.0.61"),))


def test_what_a_network_says() -> None:
    assert parse_network(XML) == NET
    assert parse_network("<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>") == VirtNet("n", "br0")


def test_what_a_network_gives() -> None:
    every = {str(address) for address in ipaddress.ip_network("192.168.122.0/24")}
    assert {address for address in every if NET.gives(address, STRANGER)} == FREE, "neither the server's nor another host's"
    assert {address for address in every if NET.gives(address, KNOWN)} == FREE | {"192.168.122.9"}
    assert {address for address in every if NET.gives(address, "")} == FREE, "a name is what a guest says it is"
    assert (NET.knows(KNOWN), NET.knows(STRANGER)) == (True, False)


@given(st.sets(st.sampled_from([f"192.168.122.{number}" for number in range(1, 12)])))
def test_how_many_are_left(taken: set[str]) -> None:
    assert NET.size == len(FREE)
    assert NET.free([*taken, *taken]) == len(FREE - taken)


def planned(text: str = TEMPLATE, net: VirtNet = NET, **changed: object) -> Plan:
    return plan(job(), form(text), settings(**changed), facts(networks={"default": net}, text=text, node="n1", around=Around()))


def rules_of(chosen: Plan) -> list[str]:
    return [step.rules for phase in chosen.phases for step in phase.steps if isinstance(step, FilterFile)]


def test_interfaces_wait_for_libvirts_own_dhcp() -> None:
    made = planned()
    assert [each.guard.mac for each in made.waiting] == list(made.macs)
    assert {each.net for each in made.waiting} == {NET}
    assert made.learning == ()
    files = [step.path for phase in made.phases for step in phase.steps if isinstance(step, FilterFile)]
    assert files == [each.filter.rules for each in made.waiting]
    for text in rules_of(made):
        assert re.findall(r"udp dport (\d+).* accept$", text, re.MULTILINE) == ["67", "68"]
        assert len(re.findall(r" accept$", text, re.MULTILINE)) == 2, "nothing but DHCP"
    assert made.sealed
    assert (made.address, made.addresses) == ("", ())


@pytest.mark.parametrize("net", [VirtNet("default", "virbr0"), VirtNet("default")], ids=["no DHCP", "no bridge"])
def test_others_dhcp_is_learned(net: VirtNet) -> None:
    made = planned(net=net)
    assert (made.waiting, made.sealed) == ((), False)
    assert [each.guard.mac for each in made.learning] == list(made.macs)
    assert all("add @learned-" in text for text in rules_of(made))


def test_beside_others_it_is_not_all_that_a_guest_has() -> None:
    tag = "<interface type='network'><source network='default'/></interface>"
    static = tag.replace("<source", "<vbnetwork method='static' addresses='10.0.0.20' prefix='24'/><source")
    bridged = "<interface type='bridge'><source bridge='br0'/></interface>"
    for other, sealed, addresses in ((bridged, False, ()), (static, True, ("10.0.0.20",))):
        text = TEMPLATE.replace(tag, other, 1)
        known = facts(networks={"default": NET}, text=text, addresses=(addresses, ()), around=Around())
        made = plan(job(), form(text), settings(), known)
        assert (len(made.waiting), made.sealed, made.addresses) == (1, sealed, addresses)


@pytest.mark.parametrize("guarded", [True, False])
def test_leases_are_in_the_journal_before_the_guest_is(guarded: bool) -> None:
    made = planned(network_filter=guarded)
    assert made.phases[0].steps == (
        Room("qemu:///system", NET, made.macs),
        *(DhcpLease("qemu:///system", "default", "virbr0", "192.168.122.1", mac) for mac in made.macs))
    assert len(made.waiting) == (2 if guarded else 0)


def test_a_release_as_the_server_reads_it() -> None:
    """RFC 2131, 2 and 4.4.6."""
    text = dhcp.release_message("192.168.122.1", "192.168.122.3", STRANGER)
    assert len(text) >= 300
    assert text[:4] == bytes((1, 1, 6, 0))
    assert socket.inet_ntoa(text[12:16]) == "192.168.122.3"
    assert text[16:28] == bytes(12)
    assert text[28:44] == bytes.fromhex("525400000007") + bytes(10)
    assert text[236:240] == bytes((99, 130, 83, 99))
    assert text[240:243] == bytes((53, 1, 7))
    assert text[243:249] == bytes((54, 4)) + socket.inet_aton("192.168.122.1")
    assert text[249] == 255
    assert text[250:].strip(b"\0") == b""


def test_a_release_in_the_name_of_a_client() -> None:
    """RFC 2132, 9.14."""
    text = dhcp.release_message("192.168.122.1", "192.168.122.3", STRANGER, "ff:00:01")
    assert text[249:255] == bytes((61, 3, 255, 0, 1, 255))
    long = dhcp.release_message("192.168.122.1", "192.168.122.3", STRANGER, ":".join(["ab"] * 255))
    assert long[249:] == bytes((61, 255)) + b"\xab" * 255 + b"\xff"


@pytest.mark.parametrize("client", ["x", "ff:0", "ff:00:", "ff::00", "ff:00\n", ":".join(["ab"] * 256), "\0"])
def test_a_client_that_is_none(client: str) -> None:
    assert dhcp.release_message("192.168.122.1", "192.168.122.3", STRANGER, client)[249] == 255


def test_no_bridge_no_server() -> None:
    dhcp.release("no-such-bridge", "192.0.2.1", "192.0.2.3", STRANGER)
    arp.tell("no-such-bridge", "192.0.2.1", STRANGER, "192.0.2.3")


def test_a_question_as_a_machine_reads_it() -> None:
    """RFC 826."""
    own = bytes.fromhex("525400ffff01")
    frame = arp.request((own, "192.168.122.1"), STRANGER, "192.168.122.3")
    assert frame[:14] == bytes.fromhex("525400000007") + own + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:32] == own + socket.inet_aton("192.168.122.1")
    assert frame[32:] == bytes(6) + socket.inet_aton("192.168.122.3")


class Network:
    """What libvirt knows of a network, and what its DHCP is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leases: list[Lease] = []
        self.there: set[str] = set()
        self.freed: list[tuple[str, ...]] = []
        self.trouble: NodeError | None = None
        monkeypatch.setattr(virtnet, "leases", self._leases)
        monkeypatch.setattr(virtnet, "macs", lambda uri, name: set(self.there))
        monkeypatch.setattr(dhcp, "release", lambda *words: self.freed.append(words))

    def _leases(self, _uri: str, _name: str, mac: str | None = None) -> list[Lease]:
        if self.trouble is not None:
            raise self.trouble
        return [lease for lease in self.leases if mac in (None, lease.mac)]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


OWN = DhcpLease("qemu:///system", "default", "virbr0", "10.0.0.1", STRANGER)


def test_what_a_guest_was_given_is_given_back(network: Network) -> None:
    """In the names by which it has asked, and the one without a name last: to that the server gives the first that it finds."""
    network.leases = [Lease("10.0.0.2", STRANGER), Lease("10.0.0.3", STRANGER, "01:02"), Lease("10.0.0.4", KNOWN)]
    OWN.acquire()
    OWN.release(Deadline(0), last=True)
    assert network.freed == [("virbr0", "10.0.0.1", "10.0.0.3", STRANGER, "01:02"),
                             ("virbr0", "10.0.0.1", "10.0.0.2", STRANGER, "")]


def test_what_another_guest_has_now_is_left_alone(network: Network) -> None:
    """Of a template with a <mac>."""
    network.leases, network.there = [Lease("10.0.0.2", STRANGER)], {STRANGER}
    OWN.release(Deadline(0), last=False)
    assert network.freed == []


def test_no_release_fails_for_it(network: Network) -> None:
    network.trouble = NodeError("libvirt does not answer")
    OWN.release(Deadline(0), last=False)


def forged(*numbers: int) -> list[Lease]:
    return [Lease(f"10.0.0.{number}", f"52:54:00:ee:00:{number:02x}") for number in numbers]


def make(macs: tuple[str, ...] = (STRANGER,), net: VirtNet = SIXTY, pinned: frozenset[str] = frozenset()) -> list[str]:
    said: list[str] = []
    Room("qemu:///system", net, macs, pinned).make(Work(Deadline(1), lambda: None, said.append))
    return said


def test_where_enough_is_left_nothing_is_taken_back(network: Network) -> None:
    network.leases = forged(*range(2, 47))
    assert (SIXTY.size, make()) == (60, [])
    assert network.freed == []


def test_a_network_that_is_used_up_heals(network: Network) -> None:
    network.leases = forged(*range(2, 62))
    network.there = {lease.mac for lease in network.leases[:3]}
    [said] = make()
    assert said.startswith("libvirt's network default has 0 of 60 addresses left; taken back from machines that have gone: "
                           "10.0.0.5 of 52:54:00:ee:00:05, 10.0.0.6")
    assert [words[2] for words in network.freed] == [f"10.0.0.{number}" for number in range(5, 20)]


def test_what_is_open_to_another_guest_is_not_given_anew(network: Network) -> None:
    """A guest may have given its own lease away, and got that address another one in a name that nobody has."""
    network.leases = forged(*range(2, 62))
    make(pinned=frozenset(["10.0.0.2", "10.0.0.4"]))
    assert [words[2] for words in network.freed][:3] == ["10.0.0.3", "10.0.0.5", "10.0.0.6"]


def test_of_a_small_network_only_what_is_wanted(network: Network) -> None:
    small = VirtNet("default", "virbr0", "10.0.0.1", (("10.0.0.2", "10.0.0.5"),))
    network.leases = forged(2, 3, 4)
    assert make(net=small) == []
    assert len(make((STRANGER, KNOWN), small)) == 1
    assert len(network.freed) == 1


@pytest.mark.error("VB601")
def test_a_network_that_running_guests_have_used_up(network: Network) -> None:
    network.leases = forged(*range(2, 62))
    network.there = {lease.mac for lease in network.leases}
    with pytest.raises(NodeError) as caught:
        make()
    assert caught.value.lines() == ["no free address in libvirt's network default: running guests have all 60 "
                                    "(give the network a larger <range>, or the queue fewer jobs)"]


def test_a_machine_that_has_its_address_needs_no_other(network: Network) -> None:
    network.leases = [*forged(*range(3, 62)), Lease("10.0.0.2", STRANGER)]
    network.there = {lease.mac for lease in network.leases}
    assert make() == []
    network.leases = forged(2, 3, 4, 8)
    network.there = {lease.mac for lease in network.leases}
    assert make((KNOWN,), VirtNet("default", "virbr0", "10.0.0.1", (("10.0.0.2", "10.0.0.4"),), ((KNOWN, "10.0.0.9"),))) == []


class Scene:
    """A guest that boots; `opened` has the addresses of each filter that was made."""

    def __init__(self, network: Network, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network, self.opened, self.reserved = network, list[list[str]](), list[str]()
        self.refused: NodeError | None = None
        self.answers = True
        monkeypatch.setattr(pins, "LEASES", str(place / "dnsmasq"))
        monkeypatch.setattr(libvirtd, "answers", lambda uri: self.answers)
        monkeypatch.setattr(nft, "apply", self._apply)
        self.told: list[tuple[str, ...]] = []
        monkeypatch.setattr(arp, "tell", lambda *words: self.told.append(words))
        (place / "dnsmasq").mkdir()
        self.file = place / "dnsmasq/virbr0.status"
        self.chosen = planned(TEMPLATE, VirtNet("default", "virbr0", "192.168.122.1", (("192.168.122.2", "192.168.122.99"),)),
                              spool_directory=str(place))
        Path(self.chosen.waiting[0].filter.rules).parent.mkdir()
        self.pins = Pins(self.chosen.waiting, (), self.chosen.rooms, self._reserve, Log(str(place), "42.vm", "prologue"))
        self.log = place / "42.vm.log"

    def _reserve(self, address: str) -> None:
        if address.endswith(".66"):
            raise TakenError(f"the address {address} was taken by job 41.vm on n1 meanwhile")
        self.reserved.append(address)

    def _apply(self, text: str) -> None:
        if self.refused is not None:
            raise self.refused
        assert Path(self.chosen.waiting[0].filter.rules).read_text() == text
        assert "vb-01234567-0" in text
        [own] = re.findall(r"arp saddr ip (.+) accept", text)
        self.opened.append(own.strip("{ }").split(", "))

    def give(self, *addresses: str) -> None:
        """As dnsmasq's helper does it."""
        self.network.leases = [Lease(address, self.chosen.macs[0]) for address in addresses]
        written = self.file.with_suffix(".new")
        written.write_text(" ".join(addresses))
        written.rename(self.file)


@pytest.fixture
def scene(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(network, tmp_path, monkeypatch)


def test_an_interface_is_opened_for_what_it_was_given(scene: Scene) -> None:
    scene.pins.look()
    assert scene.opened == []
    scene.give("192.168.122.7")
    scene.pins.look()
    assert (scene.opened, scene.reserved, scene.pins.addresses) == ([["192.168.122.7"]], ["192.168.122.7"], ("192.168.122.7",))
    assert scene.pins.settle() == [f"the interface {scene.chosen.macs[1]} has got no address from libvirt's network default, "
                                   "and stays closed"]
    assert "phase guest lease 0." in scene.log.read_text()
    assert scene.told == [("virbr0", "192.168.122.1", scene.chosen.macs[0], "192.168.122.7")], "what it has asked was dropped"


def test_nobody_asks_libvirt_while_nothing_changes(scene: Scene) -> None:
    scene.give("192.168.122.7")
    scene.pins.look()
    scene.network.trouble = NodeError("asked")
    scene.pins.look()
    assert scene.pins.pause == float("inf")


def test_what_others_have_taken_meanwhile_is_taken_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the guest has nothing: another one may have asked for all in the time that it took to boot."""
    scene.give()
    scene.network.leases = [Lease(f"192.168.122.{number}", f"52:54:00:ee:00:{number:02x}") for number in range(2, 100)]
    scene.pins.look()
    assert scene.network.freed == []
    assert 9 < scene.pins.pause <= 10
    monkeypatch.setattr(pins, "_ROOM_SECONDS", 0.0)
    again = Pins(scene.chosen.waiting, (), scene.chosen.rooms, scene._reserve, Log(str(scene.log.parent), "42.vm", "prologue"))
    again.look()
    assert len(scene.network.freed) == 16
    assert "taken back from machines that have gone" in scene.log.read_text()


def watched(opened: Pins) -> list[str]:
    """The directories in which whatever changes wakes who waits."""
    found: list[str] = []
    watch: Any = SimpleNamespace(directory=found.append)
    opened.watch(watch)
    return found


def test_a_lease_wakes_who_waits(scene: Scene) -> None:
    assert watched(scene.pins) == [str(scene.file.parent)]


def test_without_its_files_libvirt_is_asked_again_and_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "LEASES", "/no/such/directory")
    monkeypatch.setattr(pins, "_PAUSE_SECONDS", 0.0)
    assert watched(scene.pins) == []
    scene.pins.look()
    assert scene.pins.pause == 0.0
    scene.network.leases = [Lease("192.168.122.7", scene.chosen.macs[0])]
    scene.pins.look()
    assert scene.opened == [["192.168.122.7"]]


def test_a_second_address_is_added(scene: Scene) -> None:
    scene.give("192.168.122.7")
    scene.pins.look()
    scene.give("192.168.122.8")  # the first one was given away in this guest's name: it is still open to nobody else
    scene.pins.look()
    assert scene.opened == [["192.168.122.7"], ["192.168.122.7", "192.168.122.8"]]


def test_nobody_hoards_addresses(scene: Scene) -> None:
    for last in range(2, 10):
        scene.give(*(f"192.168.122.{number}" for number in range(2, last + 1)))
        scene.pins.look()
    assert len(scene.pins.addresses) == len(scene.reserved) == 4
    assert len(scene.opened) == 4


@pytest.mark.parametrize("address", ["192.168.122.1", "192.168.122.100", "10.0.0.7"])
def test_what_the_network_does_not_give_is_not_opened(scene: Scene, address: str) -> None:
    scene.give(address)
    scene.pins.look()
    assert (scene.opened, scene.reserved) == ([], [])


@pytest.mark.error("VB610")
def test_what_another_guest_has_is_not_opened(scene: Scene) -> None:
    scene.give("192.168.122.66")
    with pytest.raises(NodeError, match=r"^libvirt's DHCP in the network default has given the guest an address that another "
                                        r"one has: the address 192\.168\.122\.66 was taken by job 41\.vm on n1 meanwhile$"):
        scene.pins.look()
    assert scene.opened == []


def test_a_libvirtd_that_is_restarted_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the reservation and the filter."""
    monkeypatch.setattr(pins, "_PAUSE_SECONDS", 0.0)
    scene.pins.look()
    scene.give("192.168.122.7")
    scene.answers, scene.network.trouble = False, NodeError("connection refused")
    scene.pins.look()
    assert (scene.pins.addresses, scene.pins.pause) == ((), 0.0)
    scene.answers, scene.network.trouble = True, None
    scene.pins.look()
    assert (scene.opened, scene.reserved) == ([["192.168.122.7"]], ["192.168.122.7"])


@pytest.mark.parametrize(("error", "answers"), [(NodeError("no nft"), True), (EndedError("over"), False)])
def test_what_else_fails_ends_the_start(scene: Scene, error: NodeError, answers: bool) -> None:
    scene.give("192.168.122.7")
    scene.refused, scene.answers = error, answers
    with pytest.raises(type(error)):
        scene.pins.look()


@pytest.mark.parametrize("given", [("192.168.122.7", "192.168.122.8"), ()])
def test_what_was_learned_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]) -> None:
    """When the guest is ready: from then on nothing that is said on the network opens more."""
    texts: list[str] = []
    monkeypatch.setattr(nft, "apply", texts.append)
    monkeypatch.setattr(nft, "listed", lambda *what: [{"metainfo": {}}, {"set": {"elem": [
        int(ipaddress.IPv4Address(address)) for address in given]} if given else {}}])
    made = planned(net=VirtNet("default", "br0"), spool_directory=str(tmp_path))
    Path(made.learning[0].filter.rules).parent.mkdir()
    learning = Pins((), made.learning, (), lambda address: None, Log(str(tmp_path), "42.vm", "prologue"))
    learning.look()
    assert (texts, learning.pause, learning.addresses) == ([], float("inf"), ())
    said = learning.settle()
    assert said == ([] if given else [f"the interface {mac} has got no address by DHCP, and stays closed" for mac in made.macs])
    assert len(texts) == 2
    for text in texts:
        assert "@learned-" not in text
        assert re.findall(r"arp saddr ip (.+) accept", text) == ([f"{{ {', '.join(given)} }}"] if given else [])


def test_a_guest_without_such_interfaces(tmp_path: Path, network: Network) -> None:
    network.trouble = NodeError("asked")
    none = Pins((), (), (), lambda address: None, Log(str(tmp_path), "42.vm", "prologue"))
    none.look()
    assert (none.addresses, none.settle(), none.pause, watched(none)) == ((), [], float("inf"), [])


def waiting(addresses: tuple[str, ...], *, sealed: bool = True, own: tuple[str, ...] = ()) -> Any:
    def until(look: Callable[[], object], what: str) -> object:
        found = look()
        if found is None:
            raise DeadlineError(what, code="VB704")
        return found

    return SimpleNamespace(chosen=SimpleNamespace(sealed=sealed, addresses=own), pins=SimpleNamespace(addresses=addresses),
                           until=until)


def test_a_guest_announces_what_it_was_given() -> None:
    boot._check_own(waiting(("10.0.0.7",)), "10.0.0.7")
    boot._check_own(waiting(("10.0.0.7",), own=("10.1.0.7",)), "10.1.0.7")
    boot._check_own(waiting(()), "")
    boot._check_own(waiting((), sealed=False), "10.9.0.1")
    with pytest.raises(DeadlineError, match=r"^phase boot: it announced 10\.0\.0\.8, which it has not been given$"):
        boot._check_own(waiting(("10.0.0.7",)), "10.0.0.8")
