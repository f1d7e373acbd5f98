"""OpenSSH's client and key generator."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable

from .. import sshargs
from ..errors import CommandError
from ..job import User
from ..request import login_command
from ..units import Deadline
from . import process

_PAUSE_SECONDS = 0.005


def make_keys(paths: Iterable[str], comment: str, deadline: Deadline) -> None:
    """Ed25519 keys without passphrase at each path, the public halves at `path`.pub."""
    generator = ("/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f")
    with contextlib.ExitStack() as ends:
        for finish in [ends.enter_context(process.running([*generator, path])) for path in paths]:
            finish(deadline)


def prove_login(handover: str, user: User, address: str, alias: str, party: bytes = b"",
                port: int = 22, known_hosts: str = "") -> subprocess.Popen[bytes]:
    """Starts a login as the submitting user, with the user's rights on the node and the job's key.

    `party` is what the guest is told of the job's other guests on that occasion, one a line. `known_hosts`: see `sshargs.client`.
    """
    said = None
    if party:
        said = os.memfd_create("party", os.MFD_CLOEXEC)
        os.write(said, party)
        os.lseek(said, 0, os.SEEK_SET)
    try:
        return process.start([*sshargs.client(handover, alias, known_hosts=known_hosts), *(() if party else ("-n",)),
                              *sshargs.target(user.name, address, port), login_command(party=bool(party))], user=user, stdin=said)
    finally:
        if said is not None:
            os.close(said)


class Ahead:
    """A login as `prove_login`, begun before its user is there: it stops at the guest's host key, which it learns from `go`.

    ssh looks for the host key within the key exchange, and names the user behind it; it reads it from a named pipe, which is the
    user's alone: whoever else opened it would have the key, and ssh would wait for ever.
    """

    def __init__(self, handover: str, user: User, address: str, alias: str) -> None:
        self._pipe = os.path.join(handover, "known_hosts.ahead")
        with open(os.path.join(handover, "known_hosts"), "rb") as known:
            self._known = known.read()
        os.mkfifo(self._pipe, 0o400)
        os.chown(self._pipe, user.uid, user.group.gid)
        self.process = prove_login(handover, user, address, alias, known_hosts=self._pipe)

    def go(self, alive: Callable[[], None]) -> None:
        """Lets it go on; `alive` is asked until it has come so far. What has ended stays so."""
        while self.process.poll() is None:
            try:
                fd = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # nobody reads yet
                alive()
                time.sleep(_PAUSE_SECONDS)
                continue
            with contextlib.suppress(BrokenPipeError), os.fdopen(fd, "wb", buffering=0) as pipe:
                pipe.write(self._known)
            return

    def close(self) -> None:
        """Ends it, if it has not."""
        process.end(self.process)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._pipe)


def shown_key(address: str, account: str, deadline: Deadline) -> str:
    """The Ed25519 key that the sshd at an address shows, `ssh-ed25519 AAAA...`; '' if there is none. DeadlineError.

    Asked as an account without rights, as anybody may answer.
    """
    try:
        said = process.run(["/usr/bin/ssh-keyscan", "-T", "10", "-t", "ed25519", "--", address], deadline, account=account,
                           quiet=True)
    except CommandError:
        return ""
    return next((line.partition(" ")[2] for line in said.splitlines() if line.startswith(f"{address} ")), "")


def public_key(path: str) -> str:
    """`ssh-ed25519 AAAA...` of the key at `path`, without its comment."""
    with open(f"{path}.pub", encoding="ascii") as file:
        return " ".join(file.read().split()[:2])


def known_host(alias: str, key: str) -> bytes:
    """The line that pins a guest's host key."""
    return f"{alias} {key}\n".encode()


def key_files(directory: str) -> tuple[str, str]:
    """(the user's key, the guest's host key) in a directory of keys."""
    return os.path.join(directory, "id_ed25519"), os.path.join(directory, "host_key")


def party_key(directory: str) -> str:
    """The key of a guest's user towards the job's other guests, in a directory of keys."""
    return os.path.join(directory, "party_key")


def pinned(path: str) -> str:
    """The key in the only line of a file of known hosts."""
    with open(path, encoding="ascii") as opened:
        return opened.read().strip().partition(" ")[2]
