"""libvirt: events of domains."""

import functools
from collections.abc import Callable

import libvirt

from ..errors import NodeError
from . import libvirtd

_heard: dict[str, "libvirt.virConnect"] = {}
"""Connections whose events are listened to."""
_listeners: list[Callable[[], None]] = []


def on_event(uri: str, call: Callable[[], None]) -> Callable[[], None]:
    """Calls `call`, in another thread, whenever a domain changes its state; what it returns ends that. NodeError.

    A connection takes one such callback, and no second one.
    """
    connection = libvirtd.connect(uri)
    if _heard.get(uri) is not connection:
        try:
            libvirtd.ask(lambda: connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _tell, None))
        except libvirt.libvirtError as error:
            raise NodeError(f"libvirt at {uri} gives no events: {error}", code="VB701") from None
        _heard[uri] = connection
    _listeners.append(call)
    return functools.partial(_listeners.remove, call)


def _tell(*_event: object) -> None:
    for call in tuple(_listeners):
        call()
