"""A network of libvirt's, as its XML says it is."""

import ipaddress

import msgspec
from lxml import etree

from .guard import span


class VirtNet(msgspec.Struct, frozen=True):
    """A network by its `name`; of its DHCP, IPv4's alone.

    `bridge`: Linux's, '' if it is none: ebtables sees nothing else. `server`: the node's address there, '' for one without DHCP.
    `ranges`: first and last of what strangers get; `hosts`: (MAC, address) of those who are known, MACs in lower case.
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
