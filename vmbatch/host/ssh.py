"""OpenSSH's client and key generator."""

import contextlib
import os
import subprocess
from collections.abc import Iterable

from .. import sshargs
from ..job import User
from ..request import login_command
from ..units import Deadline
from . import process


def make_keys(paths: Iterable[str], comment: str, deadline: Deadline) -> None:
    """Ed25519 keys without passphrase at each path, the public halves at `path`.pub."""
    generator = ("/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f")
    with contextlib.ExitStack() as ends:
        for finish in [ends.enter_context(process.running([*generator, path])) for path in paths]:
            finish(deadline)


def prove_login(handover: str, user: User, address: str, alias: str, party: bytes = b"",
                port: int = 22) -> subprocess.Popen[bytes]:
    """Starts a login as the submitting user, with the user's rights on the node and the job's key.

    `party` is what the guest is told of the job's other guests on that occasion, one a line.
    """
    said = None
    if party:
        said = os.memfd_create("party", os.MFD_CLOEXEC)
        os.write(said, party)
        os.lseek(said, 0, os.SEEK_SET)
    try:
        return process.start([*sshargs.client(handover, alias), *(() if party else ("-n",)),
                              *sshargs.target(user.name, address, port), login_command(party=bool(party))], user=user, stdin=said)
    finally:
        if said is not None:
            os.close(said)


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
