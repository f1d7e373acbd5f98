"""The context sent into a running guest as its root, over one ssh connection."""

import os
import posixpath
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator

import msgspec

from ..errors import NodeError, SiteError
from ..host import rootssh
from ..host.rootssh import Connection, Outcome, RootAccess
from ..request import BASE
from ..resource import Work
from ..units import format_size
from .tree import Entry

_CHUNK = 256 << 10
_BLOCK = 512
_HOST_KEY = ("ssh/host_key", "ssh/host_key.pub")
_DETAIL_LINES = 8
_NO_ROOT = 142
"""With which the key that cloud-init gives to root ends a session (cloudinit/config/cc_ssh.py, DISABLE_USER_OPTS)."""
_NO_NEWS = ("tar: Exiting with failure status", "tar: Error is not recoverable", "tar: Error exit delayed")
_UNPACK = (f"exec /bin/sh -c 'umask 022; mkdir -p {BASE} && cd {BASE} && umask 077 && rm -rf medium.new && mkdir medium.new && "
           "cd medium.new && exec tar -xf -'")
_START = f"exec /bin/sh {BASE}/medium.new/kit/rootssh.sh start"


def deliver(entries: Iterable[Entry], address: str, access: RootAccess, work: Work) -> str:
    """Brings the context into the guest and runs it there; the guest's host key, `ssh-ed25519 AAAA...`.

    The guest keeps the host key that it has, and the job's is not sent. When a connection is dropped it all begins anew, and then
    the host key must be the one that was seen. SiteError (what the guest says), NodeError, DeadlineError.
    """
    members = tuple(_checked(entries))
    begin = time.monotonic()
    cause = "nothing has answered yet"
    while True:
        try:
            with Connection(address, access, work, cause) as connection:
                access = msgspec.structs.replace(access, host_keys=(connection.host_key,), first_use=False)
                work.say(f"root's ssh to {address} after {time.monotonic() - begin:.3f} s, {connection.host_key}")
                _send(connection, members, work)
                _start(connection)
                return connection.host_key
        except rootssh.DroppedError as error:
            cause = error.what
            work.say(f"{cause}; the context is sent anew")
            rootssh.pause(1.0, work)


def tar(members: Iterable[Entry]) -> Iterator[bytes]:
    """The files as a tar that any tar reads, root's, in pieces; long names in GNU's way. NodeError for a source."""
    written = 0
    now = int(time.time())
    for entry in members:
        for piece in _member(entry, now):
            written += len(piece)
            yield piece
    yield bytes(2 * _BLOCK + -(written + 2 * _BLOCK) % tarfile.RECORDSIZE)


def _member(entry: Entry, now: int) -> Iterator[bytes]:
    if not entry.source:
        yield _header(entry, len(entry.data), now)
        yield entry.data
        yield bytes(-len(entry.data) % _BLOCK)
        return
    try:
        with open(os.open(entry.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NodeError(f"{entry.source} is not a regular file", code="VB503")
            left = status.st_size
            yield _header(entry, left, now)
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise NodeError(f"{entry.source} became shorter while it was sent to the guest", code="VB503")
                left -= len(piece)
                yield piece
            yield bytes(-status.st_size % _BLOCK)
    except OSError as error:
        raise NodeError(f"{entry.source} cannot be read: {error.strerror}", code="VB503") from None


def _header(entry: Entry, size: int, now: int) -> bytes:
    member = tarfile.TarInfo(entry.name)
    member.size = size
    member.mode = entry.mode & 0o777
    member.mtime = now
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _checked(entries: Iterable[Entry]) -> Iterator[Entry]:
    """All but the job's host key. SiteError for a name that is not one plain place below the medium's."""
    seen: set[str] = set()
    above: set[str] = set()
    for entry in entries:
        name = entry.name
        if not name.isprintable() or posixpath.normpath(name) != name or name.split("/")[0] in ("", ".", ".."):
            raise SiteError(f"the context cannot have a file {name[:300]!r}", "see the template's <vbtarfile option='cdrom'>",
                            code="VB501")
        if name in _HOST_KEY:
            continue
        parents = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if name in seen or name in above or parents & seen:
            raise SiteError(f"the context would have {name[:300]!r} twice", "see the template's <vbtarfile option='cdrom'>",
                            code="VB501")
        seen.add(name)
        above |= parents
        yield entry


def _send(connection: Connection, members: tuple[Entry, ...], work: Work) -> None:
    begin = time.monotonic()
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for piece in tar(members):
            sent += len(piece)
            yield piece

    outcome = connection.run(_UNPACK, counted())
    if outcome.status != 0:
        raise _failed("the context cannot be unpacked in the guest", outcome)
    work.say(f"context of {len(members)} files, {format_size(sent)} in all, sent in {time.monotonic() - begin:.3f} s")


def _start(connection: Connection) -> None:
    outcome = connection.run(_START)
    if outcome.status != 0:
        raise _failed("the guest could not prepare itself for the job", outcome)


def _failed(what: str, outcome: Outcome) -> SiteError:
    """What a command in the guest said last that means something."""
    lines = tuple(line for line in outcome.lines if not line.startswith(_NO_NEWS))
    reason = lines[-1] if lines else "it was killed" if outcome.status < 0 else f"exit status {outcome.status}"
    hint = "its image lets nobody work as root: see disable_root in its /etc/cloud/cloud.cfg"
    return SiteError(f"{what}: {reason}", hint if outcome.status == _NO_ROOT else "", detail=lines[-_DETAIL_LINES:-1],
                     code="VB506")
