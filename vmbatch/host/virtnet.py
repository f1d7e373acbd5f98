"""libvirt: networks."""

import re

import libvirt
import msgspec

from ..errors import NodeError
from .libvirtd import ask, connect


class Network(msgspec.Struct, frozen=True):
    """A network of libvirt's: whether it is `there` and `active`, its XML, and how many addresses its DHCP has given away."""

    there: bool
    active: bool = False
    xml: str = ""
    leases: int = 0


def network(uri: str, name: str) -> Network:
    """What libvirt knows of a network. NodeError if it cannot say."""
    try:
        connection = connect(uri)
        found = ask(lambda: connection.networkLookupByName(name))
        return Network(True, bool(ask(found.isActive)), str(ask(lambda: found.XMLDesc())), len(ask(lambda: found.DHCPLeases())))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return Network(False)
        raise NodeError(f"libvirt at {uri} does not describe the network {name}: {error}", code="VB701") from None


def network_xml(uri: str, name: str) -> str:
    """The XML of a network of libvirt's. NodeError."""
    try:
        connection = connect(uri)
        return str(ask(lambda: connection.networkLookupByName(name).XMLDesc()))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not describe the network {name}: {error}", code="VB701") from None


class Lease(msgspec.Struct, frozen=True):
    """An address of IPv4 that libvirt's DHCP has given to a `mac`, in lower case, for a time.

    `client` is what the guest has called itself (RFC 2132, 9.14), '' for nothing.
    """

    address: str
    mac: str
    client: str = ""


def leases(uri: str, name: str, mac: str | None = None) -> list[Lease]:
    """What libvirt's DHCP has given in a network, to this MAC or to all. NodeError."""
    try:
        connection = connect(uri)
        found = ask(lambda: connection.networkLookupByName(name).DHCPLeases(mac))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise NodeError(f"libvirt at {uri} does not say what the DHCP of network {name} has given: {error}",
                        code="VB701") from None
    return [Lease(str(each["ipaddr"]), str(each["mac"]).lower(), str(each["clientid"] or ""))
            for each in found if each["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4]


def macs(uri: str, name: str) -> set[str]:
    """The MACs, in lower case, of all running domains' interfaces in a network. NodeError."""
    try:
        connection = connect(uri)
        ports = ask(lambda: [port.XMLDesc() for port in connection.networkLookupByName(name).listAllPorts()])
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return set()
        raise NodeError(f"libvirt at {uri} does not say who is in the network {name}: {error}", code="VB701") from None
    return {mac.lower() for xml in ports for mac in re.findall(r"<mac address=['\"]([0-9A-Fa-f:]+)['\"]", xml)}
