"""The ssh keys of one job: the user's towards the guest, and the guest's host key."""

import os

from ..host import file, ssh
from ..resource import Piece, Work
from ..units import Deadline


class Keys(Piece, frozen=True, tag="keys"):
    """Both keys in `directory`; `job` is their comment."""

    directory: str
    job: str

    def make(self, work: Work) -> None:
        """Makes the directory and both keys, for root alone."""
        os.mkdir(self.directory, 0o700)
        ssh.make_keys(ssh.key_files(self.directory), self.job, work.deadline)

    def __str__(self) -> str:
        return f"keys of the job in {self.directory}"


def renew(directory: str, comment: str, deadline: Deadline) -> None:
    """Makes another key for the user in a directory of keys: the one before was a job's. NodeError, OSError."""
    user_key, _host_key = ssh.key_files(directory)
    for path in (user_key, f"{user_key}.pub"):
        os.unlink(path)
    ssh.make_keys([user_key], comment, deadline)


def pin(directory: str, alias: str, key: str) -> None:
    """Writes down the guest's host key, `ssh-ed25519 AAAA...`, in a hand-over directory."""
    file.write_new(os.path.join(directory, "known_hosts"), ssh.known_host(alias, key), 0o444)


class HandoverKeys(Piece, frozen=True, tag="handover-keys"):
    """The user's key and the guest's host key, in the hand-over `directory` for `uid`, out of `keys`.

    Without `host_key` the guest has one of its own, which `pin` writes down once it has been seen.
    """

    keys: str
    directory: str
    alias: str
    host_key: bool
    uid: int
    gid: int

    def make(self, work: Work) -> None:
        """Gives the user's key to the user; the directory stays root's."""
        user_key, host_key = ssh.key_files(self.keys)
        with open(user_key, "rb") as key:
            file.write_new(os.path.join(self.directory, "id_ed25519"), key.read(), 0o400, (self.uid, self.gid))
        if self.host_key:
            pin(self.directory, self.alias, ssh.public_key(host_key))
        control = os.path.join(self.directory, "control")
        os.mkdir(control, 0o700)
        os.chown(control, self.uid, self.gid)

    def __str__(self) -> str:
        return f"keys for uid {self.uid} in {self.directory}"
