"""Which guest was whose, when, and at which addresses: lines in a file that outlives guest, journal and log.

A guest has a line `begin` before it is started, `ready` once its job may run, and `end` when it is gone and its journal still
there. They are put together by the start's token. So a crash loses no guest: at worst an `end` stands twice.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator

import msgspec

from .errors import NodeError
from .host import file

NAME = "trace.jsonl"
_LINE_LIMIT = 64 << 10


class Image(msgspec.Struct, frozen=True):
    """What a disk was made from: `digest` as `sha256:...`, or '' where nobody computed one; `modified` in seconds since 1970."""

    disk: str
    source: str
    digest: str = ""
    modified: float = 0.0


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag="begin", tag_field="event"):
    """A guest that is about to be started; `started` is when its prologue was, `addresses` are those that it was given."""

    time: float
    token: str
    job: str
    user: str
    uid: int
    queue: str
    batch: str
    node: str
    started: float
    guest: str
    uuid: str
    template: str
    macs: tuple[str, ...]
    addresses: tuple[str, ...]
    images: tuple[Image, ...]


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


Event = Begin | Ready | End
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a guest; times are seconds since 1970, None where that is not known, or not yet so."""

    begin: Begin
    ready: float | None = None
    address: str = ""
    ended: float | None = None
    status: int | None = None
    why: str = ""

    def has_address(self, address: str) -> bool:
        """Whether it had this one of its interfaces' addresses, however that is spelled. ValueError."""
        wanted = ipaddress.ip_address(address)
        return any(_parsed(known) == wanted for known in (self.address, *self.begin.addresses))

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
    path = os.path.join(directory, NAME)
    try:
        file.make_state_directory(directory, 0o750)
        fresh = not os.path.exists(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            _append(fd, msgspec.json.encode(event))
        finally:
            os.close(fd)
        if fresh:
            file.sync_directory(directory)
    except OSError as error:
        raise NodeError(f"the trace {path} cannot be written: {error.strerror}", "see [log] trace in vmbatch.conf",
                        code="VB906") from None


def _append(fd: int, record: bytes) -> None:
    """One write, so that lines of several hooks do not mix; what a full disk or a power cut left of a line gets its end."""
    size = os.fstat(fd).st_size
    line = (b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b"") + record + b"\n"
    if os.write(fd, line) != len(line):
        raise NodeError("a line of the trace could not be written whole: is the disk full?", code="VB906")
    os.fsync(fd)


def guests(directory: str) -> Iterator[Guest]:
    """All guests of which there are lines, also in files that logrotate(8) has put aside; those that have ended come first."""
    known: dict[str, Guest] = {}
    over: set[str] = set()
    for event in _events(directory):
        if event.token in over:
            continue
        if isinstance(event, Begin):
            known.setdefault(event.token, Guest(begin=event))
        elif event.token in known and isinstance(event, Ready):
            known[event.token] = msgspec.structs.replace(known[event.token], ready=event.time, address=event.address)
        elif event.token in known and isinstance(event, End):
            over.add(event.token)
            yield msgspec.structs.replace(known.pop(event.token), ended=event.time, status=event.status, why=event.why)
    yield from known.values()


def _events(directory: str) -> Iterator[Event]:
    """What can be read of the lines, the oldest first; a torn line is passed over."""
    for path in _files(directory):
        for line in _lines(path):
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue


def _files(directory: str) -> list[str]:
    """The trace and what it was before, the oldest first."""
    try:
        names = [name for name in os.listdir(directory) if re.fullmatch(rf"{re.escape(NAME)}([.-][0-9.-]+)?(\.gz|\.xz)?", name)]
    except FileNotFoundError:
        return []
    paths = [os.path.join(directory, name) for name in names]
    return sorted(paths, key=lambda path: (os.path.basename(path) == NAME, os.stat(path).st_mtime))


def _lines(path: str) -> Iterable[bytes]:
    """Of a file that may be compressed; NodeError."""
    import gzip
    import lzma

    end = os.path.splitext(path)[1]
    try:
        with gzip.open(path) if end == ".gz" else lzma.open(path) if end == ".xz" else open(path, "rb") as opened:
            while line := opened.readline(_LINE_LIMIT):
                yield line
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise NodeError(f"{path} cannot be read: {error}", code="VB906") from None
