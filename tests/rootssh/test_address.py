"""A guest's address by libvirt: of a real guest from its lease, and whatever else libvirt or a hostile agent may say."""

import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lab import guest as guests
from lab import place as places
from lab.domain import Parts, domain
from vmbatch.errors import DeadlineError, EndedError, NodeError
from vmbatch.host import address, libvirtd, virt

from .conftest import work

URI = "qemu:///system"
MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
LEASE, AGENT, ARP = (
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
)


@pytest.fixture
def booting() -> Iterator[tuple[str, str]]:
    """(uuid, MAC) of the small guest, just started."""
    images = places.IMAGES / guests.directory("busybox").name
    xml = domain("rootssh-address", 192, Parts(images, None, None, Path("/var/log/libvirt/rootssh-address.console"), ""))
    made = libvirtd.connect(URI).createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
    try:
        yield made.UUIDString(), made.XMLDesc().split("<mac address='")[1].split("'")[0]
    finally:
        made.destroy()


def test_a_real_guest(booting: tuple[str, str]) -> None:
    uuid, mac = booting
    found = address.wait(URI, uuid, [mac.upper()], work(60))
    assert found.startswith("10.77.0.")
    assert address.find(URI, uuid, [OTHER], ["lease"]) == ([], ["lease: no address"])
    found_by_agent, said = address.find(URI, uuid, [mac], ["agent"])
    assert found_by_agent == []
    assert said[0].startswith("agent: ") and "agent" in said[0][7:]


def test_a_guest_that_is_gone() -> None:
    with pytest.raises(NodeError) as caught:
        address.wait(URI, "00000000-0000-4000-8000-000000000000", [MAC], work(20))
    assert caught.value.what == "the guest has ended before it had an address"


class Failure(libvirt.libvirtError):  # type: ignore[misc]  # libvirt has no types
    """As libvirt raises it for a driver that lacks something."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)

    def get_error_code(self) -> int:
        return int(libvirt.VIR_ERR_NO_SUPPORT)


class Domain:
    """What libvirt says, by source."""

    def __init__(self, **known: object) -> None:
        self.known = {LEASE: known.get("lease", {}), ARP: known.get("arp", {}), AGENT: known.get("agent", {})}
        self.asked: list[int] = []
        self.patience: list[int] = []

    def interfaceAddresses(self, source: int, _flags: int) -> object:
        self.asked.append(source)
        said = self.known[source]
        if isinstance(said, Exception):
            raise said
        return said

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:
        self.patience.append(seconds)


def interface(mac: str | None, *texts: object) -> dict[str, object]:
    return {"hwaddr": mac, "addrs": [{"addr": text, "prefix": 24, "type": 0} for text in texts]}


def find(
    monkeypatch: pytest.MonkeyPatch,
    known: Domain,
    macs: tuple[str, ...] = (MAC,),
    sources: tuple[str, ...] = address.SOURCES,
) -> tuple[list[str], list[str]]:
    monkeypatch.setattr(virt, "find", lambda _uri, _uuid: known)
    return address.find(URI, "uuid", macs, sources)


def test_the_order_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Domain(
        lease={"a": interface(OTHER, "10.0.0.9")}, arp={"a": interface(MAC, "10.0.0.2")}, agent={"a": interface(MAC, "10.0.0.3")}
    )
    assert find(monkeypatch, known) == (["10.0.0.2"], ["lease: no address"])
    assert known.asked == [LEASE, ARP]
    assert find(monkeypatch, known, sources=("agent", "lease")) == (["10.0.0.3"], [])
    assert known.patience == [3]


def test_the_order_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Domain(
        lease={"a": interface(OTHER, "fd00::9", "10.0.0.9"), "b": interface(MAC.upper(), "fd00::2", "10.0.0.3", "10.0.0.2")}
    )
    assert find(monkeypatch, known, (MAC, OTHER))[0] == ["10.0.0.3", "10.0.0.2", "10.0.0.9", "fd00::2", "fd00::9"]
    assert find(monkeypatch, known, (OTHER,))[0] == ["10.0.0.9", "fd00::9"]


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "::1",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1%lo",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",  # noqa: S104
        "::",
        "::ffff:127.0.0.1",
        "guest",
        "",
        "10.0.0.1/24",
        "-oProxyCommand=x",
        None,
        5.5,
        ["x"],
    ],
)
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, text: object) -> None:
    assert find(monkeypatch, Domain(agent={"eth0": interface(MAC, text)}), sources=("agent",)) == ([], ["agent: no address"])


@pytest.mark.parametrize(
    "said",
    [
        {"lo": None},
        {"a": {}},
        {"a": {"hwaddr": MAC}},
        {"a": {"hwaddr": MAC, "addrs": None}},
        {"a": interface(None, "10.0.0.2")},
        {"a": {"addrs": [{"addr": "10.0.0.2"}]}},
        {"a": {"hwaddr": MAC, "addrs": [{}]}},
    ],
)
def test_careless_agents(monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    assert find(monkeypatch, Domain(agent=said), sources=("agent",)) == ([], ["agent: no address"])


def test_mapped_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, Domain(arp={"a": interface(MAC, "::ffff:10.0.0.2")}))[0] == ["10.0.0.2"]


@pytest.mark.error("VB604")
def test_a_source_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Domain(lease=Failure("no \x1b[31mleases"), arp=Failure("wrong nlmsg len"))
    monkeypatch.setattr(virt, "find", lambda _uri, _uuid: known)
    begin = time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        address.wait(URI, "uuid", [MAC], work(0.6))
    assert time.monotonic() - begin < 15
    assert caught.value.what == "nobody knows the address of the guest (lease: no leases; arp: wrong nlmsg len; agent: nothing)"
    assert len(known.asked) <= 3 * 4


def test_a_job_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virt, "find", lambda _uri, _uuid: Domain())

    def over() -> None:
        raise EndedError("the job is over")

    with pytest.raises(EndedError):
        address.wait(URI, "uuid", [MAC], work(20, over))
