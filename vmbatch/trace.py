"""Which guest was whose, when, and at which addresses: lines in a file that outlives guest, journal and log.

A guest has a line `begin` before it is started, `lease` before it can use an address that DHCP has given it, `taken` when it has
waited and becomes a job's, `ready` once its job may run, `given-back` when it then waits for another one of the same user, and
`end` when it is gone and its journal still there. They are put together by the start's token. So a crash loses no guest: at worst
an `end` stands twice.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator

import msgspec

from .errors import NodeError
from .host import jsonlines

NAME = "trace.jsonl"


class Image(msgspec.Struct, frozen=True):
    """What a disk was made from: `digest` as `sha256:...`, or '' where nobody computed one; `modified` in seconds since 1970."""

    disk: str
    source: str
    digest: str = ""
    modified: float = 0.0


class _Owned(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a guest is from `time` on."""

    time: float
    token: str
    job: str
    user: str
    uid: int
    queue: str
    batch: str


class Begin(_Owned, frozen=True, kw_only=True, tag="begin", tag_field="event"):
    """A guest that is about to be started; `started` is when its prologue was, `addresses` are those that it was given."""

    node: str
    started: float
    guest: str
    uuid: str
    template: str
    macs: tuple[str, ...]
    addresses: tuple[str, ...]
    images: tuple[Image, ...]


class Taken(_Owned, frozen=True, kw_only=True, tag="taken", tag_field="event"):
    """A guest that waited, and is a job's from now on; `started` is when that one's prologue was."""

    started: float


class GivenBack(msgspec.Struct, frozen=True, tag="given-back", tag_field="event"):
    """A guest that has had a job, and waits for another one of the same user; `pooled` is the start that made it.

    `status` is the job's, where the batch system said it.
    """

    time: float
    token: str
    job: str
    user: str
    pooled: str
    status: int | None = None


class Lease(msgspec.Struct, frozen=True, tag="lease", tag_field="event"):
    """An address that the DHCP of libvirt's network has given a guest."""

    time: float
    token: str
    job: str
    address: str


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="event"):
    """A guest that its user could log in to at `address`, or through its console alone."""

    time: float
    token: str
    job: str
    address: str


class End(msgspec.Struct, frozen=True, tag="end", tag_field="event"):
    """A guest that is gone, and why; `status` is the job's, where the batch system said it."""

    time: float
    token: str
    job: str
    user: str
    why: str
    status: int | None = None


Event = Begin | Taken | GivenBack | Lease | Ready | End
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a guest; times are seconds since 1970, None where that is not known, or not yet so."""

    begin: Begin
    leases: tuple[str, ...] = ()
    ready: float | None = None
    address: str = ""
    ended: float | None = None
    status: int | None = None
    why: str = ""

    def has_address(self, address: str) -> bool:
        """Whether it had this one of its interfaces' addresses, however that is spelled. ValueError."""
        wanted = ipaddress.ip_address(address)
        return any(_parsed(known) == wanted for known in self.addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it is known to have had, that of its login first."""
        return tuple(dict.fromkeys(filter(None, (self.address, *self.begin.addresses, *self.leases))))

    def has_mac(self, mac: str) -> bool:
        """Whether one of its interfaces had this address."""
        return _digits(mac) in map(_digits, self.begin.macs)

    def was_there(self, moment: float) -> bool:
        """Whether it may have run at a time."""
        return self.begin.time <= moment and (self.ended is None or moment <= self.ended)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _digits(mac: str) -> str:
    return re.sub("[^0-9a-f]", "", mac.lower())


def write(directory: str, event: Event) -> None:
    """Adds a line, for good; without a directory there is no trace. NodeError."""
    if not directory:
        return
    try:
        jsonlines.append(directory, NAME, msgspec.json.encode(event), durable=True)
    except OSError as error:
        raise NodeError(f"the trace {os.path.join(directory, NAME)} cannot be written: {error.strerror}",
                        "see [log] trace in vmbatch.conf", code="VB906") from None


def guests(directory: str) -> Iterator[Guest]:
    """All guests of which there are lines, also in files that logrotate(8) has put aside; those that have ended come first."""
    known: dict[str, Guest] = {}
    over: set[str] = set()
    for event in _events(directory):
        if event.token in over:
            continue
        if isinstance(event, Begin):
            known.setdefault(event.token, Guest(begin=event))
        elif event.token in known and isinstance(event, Taken):
            guest = known[event.token]
            yield msgspec.structs.replace(guest, ended=event.time, why=f"job {event.job} took it, for which it had waited")
            known[event.token] = msgspec.structs.replace(guest, begin=msgspec.structs.replace(
                guest.begin, **msgspec.structs.asdict(event)))
        elif event.token in known and isinstance(event, GivenBack):
            guest = known[event.token]
            yield msgspec.structs.replace(guest, ended=event.time, status=event.status,
                                          why=f"job {event.job} ended, and it waits for another one of {event.user}")
            known[event.token] = msgspec.structs.replace(
                guest, begin=msgspec.structs.replace(guest.begin, time=event.time, job=event.pooled), ready=None)
        elif event.token in known and isinstance(event, Lease):
            guest = known[event.token]
            known[event.token] = msgspec.structs.replace(guest, leases=(*guest.leases, event.address))
        elif event.token in known and isinstance(event, Ready):
            known[event.token] = msgspec.structs.replace(known[event.token], ready=event.time, address=event.address)
        elif event.token in known and isinstance(event, End):
            over.add(event.token)
            yield msgspec.structs.replace(known.pop(event.token), ended=event.time, status=event.status, why=event.why)
    yield from known.values()


def _events(directory: str) -> Iterator[Event]:
    """What can be read of the lines, the oldest first; a torn line is passed over."""
    for line in jsonlines.all_lines(directory, NAME):
        try:
            yield _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
