"""A guest's interfaces to which DHCP gives addresses: closed but for DHCP, and then open for these alone.

What libvirt's own DHCP has given is asked of libvirt, by the guest's MAC; nobody reads what passes on the network. It gives
no address twice, but a guest's root can give one away in the name of another guest. So each is reserved on the node for the start
to which it is opened, before it is: another start's is refused.

What another server gives is learned by the filter itself, from the server's answers, and settled once the guest is ready.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from .errors import EndedError, NodeError, TakenError
from .guard import Guard, rules
from .host import arp, libvirtd, virtnet
from .host.log import Log
from .host.watch import Watch
from .hypervisor.lease import Room
from .hypervisor.netfilter import NetworkFilter
from .resource import Work
from .template import VirtNet
from .units import Deadline

LEASES = "/var/lib/libvirt/dnsmasq"
"""Here libvirt renames a file BRIDGE.status into place when a lease changes (src/network/leaseshelper.c)."""
_MOST = 4
"""Addresses of one interface: a boot has one, or a second one for another program that asks DHCP by another name."""
_PAUSE_SECONDS = 0.1
_ROOM_SECONDS = 10.0
"""How long a guest has nothing until it is seen to again that there is something: another one may have taken all meanwhile."""


class Waiting(msgspec.Struct, frozen=True):
    """An interface that waits for what the DHCP of libvirt's `net` gives it: what it is held to, and its filter."""

    uri: str
    net: VirtNet
    guard: Guard
    filter: NetworkFilter


class Learning(msgspec.Struct, frozen=True):
    """An interface that is opened for what it is seen to be given: what it is held to, and its filter."""

    guard: Guard
    filter: NetworkFilter


class _AwayError(Exception):
    """libvirtd is not there: killed, or just being restarted."""


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Tells a libvirtd that is not there from one that refuses."""
    try:
        yield
    except NodeError as error:
        if isinstance(error, EndedError) or libvirtd.answers(uri):
            raise
        raise _AwayError from error


class Pins:
    """The interfaces of a guest that boots; `rooms` are for one that has nothing yet.

    `reserve` makes an address this start's, with TakenError if it is another's.
    """

    def __init__(self, waiting: Iterable[Waiting], learning: Iterable[Learning], rooms: Iterable[Room],
                 reserve: Callable[[str], None], log: Log) -> None:
        self._of: dict[Waiting, tuple[str, ...]] = dict.fromkeys(waiting, ())
        self._learning = tuple(learning)
        self._rooms = tuple(rooms)
        self._room = Deadline(_ROOM_SECONDS)
        self._reserve = reserve
        self._reserved: set[str] = set()
        self._log = log
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._next = 0.0 if self._of else math.inf

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that are open."""
        return tuple(address for pinned in self._of.values() for address in pinned)

    @property
    def pause(self) -> float:
        """Seconds until `look` should be called though nothing has woken anybody."""
        return max(0.0, self._next - time.monotonic())

    def watch(self, watch: Watch) -> None:
        """Is woken when leases change, where libvirt has its files."""
        if self._of and os.path.isdir(LEASES):
            watch.directory(LEASES)

    def look(self) -> None:
        """Opens interfaces for what they have been given since. NodeError; a libvirtd that is not there is waited for."""
        state = self._state()
        if state == self._seen and self.pause:
            return
        self._seen, self._next = state, time.monotonic() + _PAUSE_SECONDS
        with contextlib.suppress(_AwayError):
            for number, each in enumerate(self._of):
                self._open(each, None if state is None else state[number][1] / 1e9)
            if not self.addresses:
                self._see_room()
            if state is not None:
                self._next = self._room.at if self._rooms and not self.addresses else math.inf

    def _state(self) -> tuple[tuple[int, int], ...] | None:
        """What changes when a lease does; None where that is not known."""
        with contextlib.suppress(OSError):
            found = [os.stat(os.path.join(LEASES, f"{each.net.bridge}.status")) for each in self._of]
            return tuple((status.st_ino, status.st_mtime_ns) for status in found)
        return None

    def _open(self, each: Waiting, changed: float | None) -> None:
        """Opens one interface, if it has been given more; the network's leases have `changed` at that time."""
        pinned, mac = self._of[each], each.guard.mac
        with _asking(each.uri):
            given = [lease.address for lease in virtnet.leases(each.uri, each.net.name, mac)]
        new = [address for address in given if address not in pinned and each.net.gives(address, mac)][:_MOST - len(pinned)]
        if not new:
            return
        begin = time.monotonic()
        for address in new:
            self._keep(address, each.net.name)
        every = (*pinned, *new)
        each.filter.change(rules(each.filter.port, msgspec.structs.replace(each.guard, ipv4=every)))
        self._of[each] = every
        for address in new:
            arp.tell(each.net.bridge, each.net.server, mac, address)
        self._log.part("guest filter", time.monotonic() - begin)
        self._log.part("guest lease", 0.0 if changed is None else max(0.0, time.time() - changed))

    def _see_room(self) -> None:
        """Sees to it, every so often, that there are addresses left. NodeError."""
        if not self._room.passed():
            return
        for room in self._rooms:
            with _asking(room.uri):
                room.make(Work(self._room, lambda: None, self._log.detail))
        self._room = Deadline(_ROOM_SECONDS)

    def _keep(self, address: str, network: str) -> None:
        """Reserves an address, once."""
        if address in self._reserved:
            return
        try:
            self._reserve(address)
        except TakenError as error:
            raise NodeError(f"libvirt's DHCP in the network {network} has given the guest an address that another one has: "
                            f"{error.what}", "a guest may have given it away in the other's name; the job gets another address "
                            "when it starts again", code="VB610") from None
        self._reserved.add(address)

    def settle(self) -> list[str]:
        """Ends all learning: nothing that is said opens any more. A line for each interface that has got nothing. NodeError."""
        said = [f"the interface {each.guard.mac} has got no address from libvirt's network {each.net.name}, and stays closed"
                for each, pinned in self._of.items() if not pinned]
        for learning in self._learning:
            given = learning.filter.learned()
            learning.filter.change(rules(learning.filter.port, msgspec.structs.replace(learning.guard, ipv4=given, learns=False)))
            if not given:
                said.append(f"the interface {learning.guard.mac} has got no address by DHCP, and stays closed")
        return said
