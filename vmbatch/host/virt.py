"""libvirt: connections, transient domains, their events."""

import functools
import re
import threading
from collections.abc import Callable

import libvirt

from ..errors import NodeError

_OWNER = "urn:vmbatch:job:1"
_MISSING = (libvirt.VIR_ERR_NO_DOMAIN,)


@functools.cache
def _events() -> None:
    """Starts the thread that delivers events; before the first connection, as libvirt asks."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def deliver() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=deliver, name="libvirt events", daemon=True).start()


@functools.cache
def connect(uri: str) -> "libvirt.virConnect":
    """The connection of this process to a hypervisor. NodeError."""
    _events()
    try:
        connection = libvirt.open(uri)
        connection.setKeepAlive(5, 6)
    except libvirt.libvirtError as error:
        if "connection" in locals() and error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return connection
        raise NodeError(f"libvirt at {uri} does not answer: {error}", "is libvirtd running on this node?") from None
    return connection


def create(uri: str, xml: str) -> None:
    """Starts a transient domain. NodeError with libvirt's reason."""
    try:
        connect(uri).createXML(xml, 0)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt did not start the guest: {error}") from None


def find(uri: str, uuid: str) -> "libvirt.virDomain | None":
    """The domain with this uuid, or None. NodeError if libvirt cannot say."""
    try:
        return connect(uri).lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _MISSING:
            return None
        raise NodeError(f"libvirt at {uri} does not answer: {error}") from None


def owner(domain: "libvirt.virDomain") -> str | None:
    """The token of the start that made a domain; None if it is not one of ours, or gone. NodeError if libvirt cannot say.

    '' for a transient domain that is just being started: libvirt's driver for Xen shows it, but not yet what it is.
    """
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _OWNER, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, *_MISSING):
            return None
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return ""
        raise NodeError(f"libvirt does not say whose a domain is: {error}") from None
    match = re.search(r"\btoken=[\"']([0-9a-f]{32})[\"']", text)
    return match[1] if match else None


def running_xml(uri: str, uuid: str) -> str:
    """The XML of a running domain, with the devices that libvirt gave it. NodeError."""
    domain = find(uri, uuid)
    try:
        if domain is not None:
            return str(domain.XMLDesc())
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt does not describe the guest: {error}") from None
    raise NodeError("the guest has ended")


def number(domain: "libvirt.virDomain") -> int:
    """The hypervisor's number for a running domain, -1 if it has ended."""
    try:
        return int(domain.ID())
    except libvirt.libvirtError:
        return -1


def destroy(domain: "libvirt.virDomain") -> None:
    """Ends a domain at once; gone is success. NodeError if it will not die."""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise NodeError(f"libvirt did not end the guest: {error}") from None


def state(uri: str, uuid: str) -> str | None:
    """`running`, or in a word why not: `gone`, `crashed`, `paused`; None where libvirt cannot say now."""
    try:
        domain = find(uri, uuid)
        if domain is None:
            return "gone"
        number, _reason = domain.state()
    except (NodeError, libvirt.libvirtError):
        return None
    running = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_NOSTATE)
    if number in running:
        return "running"
    return {libvirt.VIR_DOMAIN_CRASHED: "crashed", libvirt.VIR_DOMAIN_PAUSED: "paused"}.get(number, "shut off")


def on_event(uri: str, call: Callable[[], None]) -> None:
    """Calls `call`, in another thread, whenever a domain changes its state."""
    try:
        connect(uri).domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_arguments: call(), None)
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} gives no events: {error}") from None


def ours(uri: str) -> list[tuple[str, str, str]]:
    """(name, uuid, token) of every domain that carries our mark."""
    try:
        domains = connect(uri).listAllDomains()
    except libvirt.libvirtError as error:
        raise NodeError(f"libvirt at {uri} does not answer: {error}") from None
    found = []
    for domain in domains:
        token = owner(domain)
        if token:
            found.append((str(domain.name()), str(domain.UUIDString()), token))
    return found
