"""libvirt: networks, and filters between guests and their networks."""

import re

import libvirt
import msgspec

from ..errors import NodeError
from .virt import ask, connect

_NO_FILTER = (libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT)


def define_filter(uri: str, xml: str) -> None:
    """Makes a network filter, which stays until it is removed. NodeError with libvirt's reason.

    One that is there gets other rules, also under a running guest: libvirt has the new ones stand before it takes the old away
    (src/nwfilter/nwfilter_gentech_driver.c, virNWFilterBuildAll).
    """
    try:
        connection = connect(uri)
        ask(lambda: connection.nwfilterDefineXML(xml))
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not make the guest's network filter: {error}",
                        "network filters need libvirt's nwfilter driver, ebtables and iptables on this node; without them: "
                        "[network] filter = false, or <vbnetwork filter='no'> in the template", code="VB603") from None


def filter_is_there(uri: str, uuid: str) -> bool:
    """Whether there is a network filter with this uuid. NodeError if libvirt cannot say."""
    try:
        connection = connect(uri)
        ask(lambda: connection.nwfilterLookupByUUIDString(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_FILTER:
            return False
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None
    return True


def undefine_filter(uri: str, uuid: str) -> None:
    """Removes a network filter; gone is success. NodeError if libvirt refuses, as when a guest still has it."""
    try:
        connection = connect(uri)
        ask(lambda: connection.nwfilterLookupByUUIDString(uuid).undefine())
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NO_FILTER:
            raise NodeError(f"libvirt did not remove a network filter: {error}", code="VB603") from None


def filters(uri: str) -> list[tuple[str, str]]:
    """(name, uuid) of every network filter; none where the hypervisor's driver knows no filters. NodeError."""
    try:
        connection = connect(uri)
        return [(str(each.name()), str(each.UUIDString())) for each in ask(connection.listAllNWFilters)]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise NodeError(f"libvirt at {uri} does not answer: {error}", code="VB701") from None


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
