"""The context sent into a running guest as its root, over one ssh connection."""

import time
from collections.abc import Iterable, Iterator

import msgspec

from ..errors import SiteError
from ..host import rootssh
from ..host.rootssh import Connection, Outcome, RootAccess
from ..request import BASE
from ..resource import Work
from ..units import format_size
from .stream import checked, tar
from .tree import Entry

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
    members = tuple(entry for entry in checked(entries) if entry.name not in _HOST_KEY)
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
