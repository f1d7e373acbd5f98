"""Addresses: a guest's where nobody has told it, as libvirt knows of its interfaces; and this node's own."""

import contextlib
import ipaddress
import os
import re
import time
from collections.abc import Iterable, Iterator

import libvirt

from ..errors import DeadlineError, NodeError
from ..guest import printable
from ..resource import Work
from . import libvirtd, virt

SOURCES = ("lease", "arp", "agent")
"""Of libvirt's own DHCP server, the node's ARP table, QEMU's agent in the guest (virDomainInterfaceAddressesSource)."""
_NUMBERS = {
    "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    "agent": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
}
_AGENT_SECONDS = 3
_PAUSE_SECONDS = 0.25
_ALIVE_SECONDS = 0.2


def wait(uri: str, uuid: str, macs: Iterable[str], work: Work, sources: Iterable[str] = SOURCES) -> str:
    """The first address that a guest has on one of its interfaces. DeadlineError says what each source said, NodeError."""
    chosen, ours = tuple(sources), tuple(macs)
    while True:
        work.alive()
        found, said = find(uri, uuid, ours, chosen)
        if found:
            return found[0]
        over = work.deadline.earlier(_PAUSE_SECONDS)
        while not over.passed():
            work.alive()
            time.sleep(min(_ALIVE_SECONDS, over.left()))
        if work.deadline.passed():
            raise DeadlineError(f"nobody knows the address of the guest ({'; '.join(said)})",
                                "see whether its network is up, and whether libvirt serves its DHCP", code="VB604")


def find(uri: str, uuid: str, macs: Iterable[str], sources: Iterable[str] = SOURCES) -> tuple[list[str], list[str]]:
    """(addresses of the first source that knows any, IPv4 first; what each source without any said). NodeError."""
    domain = virt.find(uri, uuid)
    if domain is None:
        raise NodeError("the guest has ended before it had an address", "see its console", code="VB706")
    order = {mac.lower(): number for number, mac in enumerate(macs)}
    said = []
    for source in sources:
        try:
            known = _ask(domain, source)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise NodeError("the guest has ended before it had an address", "see its console", code="VB706") from None
            said.append(f"{source}: {printable(str(error).encode('utf-8', 'replace'), 120)}")
            continue
        found = sorted((ipaddress.ip_address(text).version, order[mac], number, text)
                       for number, (mac, text) in enumerate(_usable(known)) if mac in order)
        if found:
            return [text for _version, _order, _number, text in found], said
        said.append(f"{source}: no address" if known else f"{source}: nothing")
    return [], said


def _ask(domain: "libvirt.virDomain", source: str) -> dict[str, object]:
    """What a source says: {interface: {hwaddr, addrs}}; a guest's agent that does not answer is not waited for."""
    if source == "agent":
        with contextlib.suppress(libvirt.libvirtError, AttributeError):
            libvirtd.ask(lambda: domain.agentSetResponseTimeout(_AGENT_SECONDS, 0))
    known: dict[str, object] = libvirtd.ask(lambda: domain.interfaceAddresses(_NUMBERS[source], 0))
    return known


def _usable(known: dict[str, object]) -> Iterator[tuple[str, str]]:
    """(MAC, address) of all that a guest can be reached at. What an agent says is hostile input."""
    for interface in known.values():
        if not isinstance(interface, dict):
            continue
        for entry in interface.get("addrs") or ():
            try:
                address = ipaddress.ip_address(entry["addr"])
            except (ValueError, KeyError, TypeError):
                continue
            address = getattr(address, "ipv4_mapped", None) or address
            if _reachable(address):
                yield str(interface.get("hwaddr") or "").lower(), str(address)


def _reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
                or getattr(address, "scope_id", None))


def of_this_node() -> tuple[str, ...]:
    """Every address at which this node takes packets, broadcast addresses included. NodeError."""
    try:
        with open("/proc/net/fib_trie", encoding="ascii") as table:
            found = set(re.findall(r"\|-- (\S+)\n\s*/32 (?:host LOCAL|link BROADCAST)", table.read()))
        if os.path.exists("/proc/net/if_inet6"):
            with open("/proc/net/if_inet6", encoding="ascii") as table:
                found |= {str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))) for line in table}
    except OSError as error:
        raise NodeError(f"this node's addresses cannot be read: {error.filename}: {error.strerror}", code="VB604") from None
    return tuple(sorted(address for address in found if not ipaddress.ip_address(address).is_loopback))


def first_own_port() -> int:
    """The lowest port from which this node's programs connect to others by themselves."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as setting:
        return int(setting.read().split()[0])
