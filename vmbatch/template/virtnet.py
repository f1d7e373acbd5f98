"""A network of libvirt's, as its XML says it is."""

import ipaddress
from collections.abc import Iterable

import msgspec
from lxml import etree

from ..guard import span

DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"


class VirtNet(msgspec.Struct, frozen=True):
    """A network by its `name`; of its DHCP, IPv4's alone.

    `bridge`: Linux's, '' if it is none, and cannot be filtered. `server`: the node's address there, '' for one without DHCP.
    `ranges`: first and last of what strangers get; `hosts`: (MAC, address) of those who are known, MACs in lower case, '' for
    one who is known by name.
    """

    name: str
    bridge: str = ""
    server: str = ""
    ranges: tuple[tuple[str, str], ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()

    @property
    def networks(self) -> tuple[str, ...]:
        """All that strangers get, as networks."""
        return tuple(net for first, last in self.ranges for net in span(first, last))

    @property
    def size(self) -> int:
        """How many addresses there are for strangers."""
        return sum(_number(last) - _number(first) + 1 for first, last in self.ranges) - len(self._kept)

    @property
    def _kept(self) -> set[str]:
        """Addresses in the ranges that no stranger gets."""
        return {address for address in (self.server, *(own for _mac, own in self.hosts)) if self._spans(address)}

    def _spans(self, address: str) -> bool:
        return any(_number(first) <= _number(address) <= _number(last) for first, last in self.ranges)

    def knows(self, mac: str) -> bool:
        """Whether a MAC has an address of its own."""
        return any(known == mac for known, _address in self.hosts)

    def gives(self, address: str, mac: str) -> bool:
        """Whether a MAC can have got an address: a stranger gets none of those of others, whatever name it says it has."""
        return (mac != "" and (mac, address) in self.hosts) or (self._spans(address) and address not in self._kept)

    def free(self, given: Iterable[str]) -> int:
        """How many addresses are left for strangers, `given` are not."""
        return self.size - sum(self.gives(address, "") for address in set(given))


def _number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def looks_first(xml: str) -> bool:
    """Whether the network's DHCP gives strangers addresses, but only after a look whether somebody has them.

    https://libvirt.org/formatnetwork.html#network-namespaces: dnsmasq's own options.
    """
    root = etree.fromstring(xml.encode())
    options = root.iter(f"{{{DNSMASQ}}}option")
    return root.find("ip/dhcp/range") is not None and not any(option.get("value") == "no-ping" for option in options)


def parse_network(xml: str) -> VirtNet:
    """The network of which this is the XML."""
    root = etree.fromstring(xml.encode())
    bridge = root.find("bridge") if root.find(".//virtualport") is None else None
    name, device = root.findtext("name", ""), "" if bridge is None else bridge.get("name", "")
    for place in root.findall("ip"):
        if place.get("family") != "ipv6" and place.find("dhcp") is not None:
            return VirtNet(
                name, device, place.get("address", ""),
                tuple((each.get("start", ""), each.get("end", "")) for each in place.findall("dhcp/range")),
                tuple((each.get("mac", "").lower(), str(ipaddress.ip_address(each.get("ip", ""))))
                      for each in place.findall("dhcp/host") if each.get("ip")))
    return VirtNet(name, device)
