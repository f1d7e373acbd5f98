"""The interfaces of a template: whether a guest asks DHCP or gets a free address of a pool."""

import ipaddress
import posixpath
import re
from collections.abc import Iterator

import msgspec
from lxml import etree

from ..guard import span
from . import schema

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_COUNT_LIMIT = 1 << 16
_OF_BOTH = ("method", "filter", "peers")
"""Attributes that an interface with DHCP has, too."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Pool(msgspec.Struct, frozen=True):
    """The addresses of a static `vbnetwork`: those `listed`, or else `count` from `first` on; in their shortest form.

    `gateway` is '' where there is none.
    """

    line: int
    family: int
    listed: tuple[str, ...]
    first: str
    count: int
    prefix: int
    gateway: str
    dns: tuple[str, ...]
    search: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return len(self.listed) or self.count

    def address(self, number: int) -> str:
        """The address with this number, from 0 on."""
        return self.listed[number] if self.listed else str(ipaddress.ip_address(self.first) + number)

    @property
    def networks(self) -> list[str]:
        """All its addresses, as networks."""
        if self.listed:
            return list(self.listed)
        return span(self.first, self.address(self.count - 1))

    @property
    def name(self) -> str:
        """FIRST..LAST."""
        first, last = self.address(0), self.address(self.size - 1)
        return first if self.size == 1 else f"{first}..{last}"


class InterfaceTag(msgspec.Struct, frozen=True):
    """An interface of the template, in the domain's order; `method` is dhcp or static, and then there is a pool.

    `guarded`: a filter of ours is to stand there; `peers`: guests may reach each other all the same. `network` is libvirt's name
    of its network, '' for a bridge.
    """

    line: int
    method: str
    ipv4: Pool | None = None
    ipv6: Pool | None = None
    guarded: bool = False
    peers: bool = False
    network: str = ""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """One for each family that it has."""
        return tuple(pool for pool in (self.ipv4, self.ipv6) if pool is not None)


def read_networks(root: etree._Element, found: list[schema.Problem]) -> tuple[InterfaceTag, ...]:
    """All interfaces of a domain."""
    nameable = root.get("type") != "xen" or (root.findtext("os/type") or "").strip() != "hvm"
    interfaces = tuple(_interface(element, found, nameable) for element in root.findall("devices/interface"))
    found.extend(_between(interfaces))
    return interfaces


def _interface(element: etree._Element, found: list[schema.Problem], nameable: bool) -> InterfaceTag:
    """`nameable`: it may have a name of ours; Xen names a second one of an HVM guest's after it, with `-emu`: too long."""
    tags = element.findall("vbnetwork")
    pools: dict[int, Pool] = {}
    for tag in tags:
        if tag.get("method") == "dhcp":
            if len(tags) > 1:
                found.append((tag.sourceline or 0, "<vbnetwork method='dhcp'> stands alone in its <interface>: it is for IPv4 "
                                                   "and IPv6; take the others out, or make this one static"))
            found.extend((tag.sourceline or 0, f"<vbnetwork> {name!s}= goes with method='static'")
                         for name in tag.attrib if name not in _OF_BOTH and name in schema.attributes("vbnetwork"))
            continue
        pool = _Reader(tag, found).pool()
        if pool is not None and pool.family in pools:
            found.append((pool.line, f"a second <vbnetwork> for IPv{pool.family} in the same <interface>; there may be one for "
                                     "IPv4 and one for IPv6"))
        elif pool is not None:
            pools[pool.family] = pool
    source = element.find("source")
    return InterfaceTag(
        element.sourceline or 0, "static" if pools else "dhcp", pools.get(4), pools.get(6),
        guarded=(nameable and element.get("type") in ("network", "bridge") and element.find("filterref") is None
                 and element.find("virtualport") is None and _is_bridged(element.find("script"))
                 and not any(tag.get("filter") == "no" for tag in tags)),
        peers=any(tag.get("peers") == "yes" for tag in tags),
        network="" if source is None or element.get("type") != "network" else source.get("network", ""))


def _is_bridged(script: etree._Element | None) -> bool:
    """Whether Xen's script for an interface, if one is named, makes a port of a bridge of it (xl-network-configuration(5))."""
    return script is None or posixpath.basename(script.get("path", "")) == "vif-bridge"


class _Reader:
    """One static <vbnetwork>; its mistakes go to `found`. What the schema refuses is named there and passed over here."""

    def __init__(self, tag: etree._Element, found: list[schema.Problem]) -> None:
        self.tag = tag
        self.found = found

    def wrong(self, text: str) -> None:
        self.found.append((self.tag.sourceline or 0, f"<vbnetwork> {text}"))

    def pool(self) -> Pool | None:
        """The tag as a whole; None if it has no addresses that could be read."""
        addresses, count = self.addresses()
        families = {address.version for address in addresses}
        if len(families) > 1:
            self.wrong("addresses= has IPv4 and IPv6 addresses; give each family a <vbnetwork> of its own")
        if len(families) != 1:
            return None
        family = families.pop()
        prefix = self.prefix(family)
        gateway = self.of_family("gateway", family)
        dns = self.listed("dns")
        pool = Pool(
            line=self.tag.sourceline or 0, family=family, listed=() if count else tuple(map(str, addresses)),
            first=str(addresses[0]) if count else "", count=count, prefix=prefix or 0,
            gateway="" if gateway is None else str(gateway), dns=tuple(map(str, dns)), search=self.search(),
        )
        if prefix is None or pool.size == 0:
            return None
        self.check_place(pool, addresses)
        self.check_gateway(pool, gateway)
        ranges = _ranges(pool)
        for server in dns:
            if server.version == family and any(low <= int(server) <= high for low, high in ranges):
                self.wrong(f"dns: the name server {server} is one of the addresses that guests get")
        return pool

    def addresses(self) -> tuple[list[Address], int]:
        """(addresses, 0) of a list, ([first], count) of a sequence; empty where there is a mistake."""
        listed, first, count = self.tag.get("addresses"), self.tag.get("first"), self.tag.get("count")
        if listed is not None and (first is not None or count is not None):
            self.wrong("has a list, addresses=, and a sequence, first= and count=; take one of both out")
            return [], 0
        if listed is None and first is None:
            self.wrong("method='static' needs addresses='10.0.0.10 10.0.0.12', or first='10.0.0.20' count='30'")
            return [], 0
        if listed is not None and not listed.split():
            self.wrong("addresses= is empty")
        if listed is not None:
            return self.usable("addresses", self.distinct(self.listed("addresses"))), 0
        if count is None:
            self.wrong("first= needs count=: how many addresses the sequence has")
            return [], 0
        begin = self.usable("first", self.listed("first"))
        if not re.fullmatch(r"\s*\+?0*[1-9][0-9]{0,5}\s*", count) or int(count) > _COUNT_LIMIT or not begin:
            return [], 0
        return begin, int(count)

    def listed(self, name: str) -> list[Address]:
        """Every address in an attribute."""
        found: list[Address] = []
        for text in self.tag.get(name, "").split():
            if not re.fullmatch(r"[0-9A-Fa-f.:]+", text):
                continue
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                zeros = re.fullmatch(r"(\d+\.){3}\d+", text) and re.search(r"(^|\.)0\d", text)
                self.wrong(f"{name}: '{text}' is not an address" + (": a number of an IPv4 address has no leading zeros, as "
                                                                     "some programs take it as octal" if zeros else ""))
                continue
            found.append(address)
        return found

    def distinct(self, addresses: list[Address]) -> list[Address]:
        """Each once."""
        for number, address in enumerate(addresses):
            if address in addresses[:number]:
                self.wrong(f"addresses: {address} is there twice")
        return list(dict.fromkeys(addresses))

    def usable(self, name: str, addresses: list[Address]) -> list[Address]:
        """Those that a guest can have, whatever its network."""
        kept: list[Address] = []
        for address in addresses:
            why = _unusable(address)
            if why:
                self.wrong(f"{name}: {address} {why}")
            else:
                kept.append(address)
        return kept

    def of_family(self, name: str, family: int) -> Address | None:
        """The one address in an attribute."""
        for address in self.listed(name):
            if address.version == family:
                return address
            self.wrong(f"{name}: {address} is not an IPv{family} address, as those of this <vbnetwork> are")
        return None

    def search(self) -> tuple[str, ...]:
        """The domains to search."""
        domains = self.tag.get("search", "").split()
        for domain in domains:
            if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in domain.removesuffix(".").split(".")):
                self.wrong(f"search: '{domain}' is not a domain such as example.org")
        return tuple(domain.removesuffix(".").lower() for domain in domains)

    def prefix(self, family: int) -> int | None:
        """The length of the network's prefix; None where there is a mistake."""
        mask, prefix = self.tag.get("netmask"), self.tag.get("prefix")
        limit = 32 if family == 4 else 128
        if mask is not None and prefix is not None:
            self.wrong("has netmask= and prefix=; take one of both out")
        elif mask is not None and family == 6:
            self.wrong("netmask= is for IPv4; an IPv6 network has a prefix='64'")
        elif mask is not None:
            return self.mask(mask)
        elif prefix is None:
            self.wrong("method='static' needs netmask='255.255.255.0' or prefix='24'" if family == 4
                       else "method='static' needs prefix='64'")
        elif re.fullmatch(r"\s*\+?0*[1-9][0-9]{0,2}\s*", prefix):
            if int(prefix) <= limit:
                return int(prefix)
            self.wrong(f"prefix='{prefix}': an IPv{family} prefix has 1 to {limit} bits")
        return None

    def mask(self, text: str) -> int | None:
        """The prefix of a netmask."""
        try:
            bits = f"{int(ipaddress.IPv4Address(text)):032b}"
        except ValueError:
            if re.fullmatch(r"[0-9.]+", text):
                self.wrong(f"netmask='{text}' is not a netmask such as 255.255.255.0")
            return None
        length = bits.count("1")
        if "01" in bits or not length:
            what = "has holes: its bits are ones, then zeros" if length else "is the whole internet"
            self.wrong(f"netmask='{text}' {what}; expected for instance 255.255.255.0")
            return None
        return length

    def check_place(self, pool: Pool, addresses: list[Address]) -> None:
        """Whether all are hosts of one network."""
        network = _network(addresses[0], pool.prefix)
        top = int(network.broadcast_address)
        if pool.count and int(addresses[0]) + pool.count - 1 > top:
            self.wrong(f"count='{pool.count}': the sequence from {pool.first} on goes beyond its network {network}, "
                       f"which has {top - int(addresses[0]) + 1} addresses from there on")
            return
        ends = addresses if not pool.count else [addresses[0], addresses[0] + (pool.count - 1)]
        for address in dict.fromkeys(ends):
            if why := _unusable(address):
                self.wrong(f"the sequence from {pool.first} on ends with {address}, which {why}")
            elif address not in network:
                self.wrong(f"addresses: {address} is not in the network {network} of {addresses[0]}; see netmask= or prefix=")
            elif network.num_addresses > 2 and address == network.network_address:
                self.wrong(f"{address} is the address of the network {network} itself; no guest can have it")
            elif network.num_addresses > 2 and pool.family == 4 and address == network.broadcast_address:
                self.wrong(f"{address} is the broadcast address of the network {network}; no guest can have it")

    def check_gateway(self, pool: Pool, gateway: Address | None) -> None:
        """Whether it is another host of the network, or an IPv6 router by its link-local address."""
        if gateway is None or (pool.family == 6 and gateway.is_link_local):
            return
        network = _network(ipaddress.ip_address(pool.address(0)), pool.prefix)
        if gateway not in network:
            self.wrong(f"gateway: {gateway} is not in the network {network} of {pool.address(0)}; see netmask= or prefix=")
        elif any(low <= int(gateway) <= high for low, high in _ranges(pool)):
            self.wrong(f"gateway: {gateway} is one of the addresses that guests get")
        elif pool.family == 4 and network.num_addresses > 2 and gateway in (network.network_address, network.broadcast_address):
            self.wrong(f"gateway: {gateway} is the network or broadcast address of {network}")


def _network(address: Address, prefix: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((int(address), prefix) if address.version == 4 else (str(address), prefix), strict=False)


def _unusable(address: Address) -> str:
    """Why no guest can have it; '' if one can."""
    if address.is_link_local:
        return "is link-local; give an address of the network, the guest makes its link-local one itself"
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        return "is no address of a host"
    if address.version == 4 and (address.is_reserved or int(address) < 1 << 24):
        return "is no address of a host"
    if address.version == 6 and address.ipv4_mapped is not None:
        return "is an IPv4 address; write it as such"
    return ""


def _ranges(pool: Pool) -> list[tuple[int, int]]:
    """The addresses of a pool as numbers, both ends included."""
    if pool.listed:
        return [(int(ipaddress.ip_address(text)),) * 2 for text in pool.listed]
    first = int(ipaddress.ip_address(pool.first))
    return [(first, first + pool.count - 1)]


def _between(interfaces: tuple[InterfaceTag, ...]) -> Iterator[schema.Problem]:
    """Mistakes that two interfaces make together."""
    pools = [(number, pool) for number, interface in enumerate(interfaces) for pool in interface.pools]
    for index, (number, pool) in enumerate(pools):
        for other_number, other in pools[:index]:
            if other.family != pool.family:
                continue
            if pool.gateway and other.gateway:
                yield pool.line, (f"<vbnetwork> gateway='{pool.gateway}': interface {other_number} has the IPv{pool.family} "
                                  f"gateway {other.gateway}, and a guest has one; take one of both out")
            shared = _shared(pool, other)
            if shared:
                yield pool.line, f"<vbnetwork>: interface {other_number} may get {shared}, too, and interface {number} may not"


def _shared(one: Pool, two: Pool) -> str:
    """The lowest address that is in both pools, or ''."""
    lows = [max(low, other_low) for low, high in _ranges(one) for other_low, other_high in _ranges(two)
            if max(low, other_low) <= min(high, other_high)]
    if not lows:
        return ""
    return str(ipaddress.IPv4Address(min(lows)) if one.family == 4 else ipaddress.IPv6Address(min(lows)))
