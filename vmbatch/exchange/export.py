"""A guest's part of the share, exported by this node's NFS server to that guest's address alone (exportfs(8))."""

import re

from ..errors import CommandError, NodeError
from ..host import process
from ..resource import Resource
from ..units import Deadline

PROGRAM = "/usr/sbin/exportfs"
_SECONDS = 10.0


class Export(Resource, frozen=True, tag="export"):
    """`path` for the IPv4 `address` alone, all of whose users are `uid` and `gid` there. `fsid` is a uuid: a volume has none."""

    path: str
    token: str
    address: str
    fsid: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"export of {self.path} to {self.address or 'the guest'}"

    @property
    def _client(self) -> str:
        """As a network of one address, for which exportfs asks no name server."""
        return f"{self.address}/32"

    def acquire(self) -> None:
        """Exports the directory. NodeError."""
        if ":" in self.address:
            raise NodeError(f"exports are for IPv4, and the guest has {self.address}", "give the guest an IPv4 address",
                            code="VB607")
        if self._is_there(Deadline(_SECONDS)):
            raise NodeError(f"{self.path} is exported to {self.address} already", code="VB607")
        squash = f"all_squash,anonuid={self.uid},anongid={self.gid}"
        options = f"rw,sync,sec=sys,no_subtree_check,{squash},fsid={self.fsid}"
        try:
            process.run([PROGRAM, "-o", options, f"{self._client}:{self.path}"], Deadline(_SECONDS))
        except CommandError as error:
            raise NodeError(f"{self.path} cannot be exported to {self.address}: {error.what}",
                            "is this node's NFS server the kernel's, and running?", code="VB607") from None

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the export; what is not exported is success."""
        if not self._is_there(deadline):
            return
        try:
            process.run([PROGRAM, "-u", f"{self._client}:{self.path}"], deadline)
        except CommandError as error:
            if self._is_there(deadline):
                raise NodeError(f"the export of {self.path} to {self.address} cannot be ended: {error.what}",
                                code="VB607") from None

    def _is_there(self, deadline: Deadline) -> bool:
        return (self.path, self._client) in exported(deadline)


def exported(deadline: Deadline) -> list[tuple[str, str]]:
    """(path, client) of every export. NodeError."""
    try:
        listed = process.run([PROGRAM, "-s"], deadline)
    except CommandError as error:
        raise NodeError(f"this node's exports cannot be read: {error.what}", code="VB607") from None
    return [(str(path), str(client)) for path, client in re.findall(r"^(/\S+)\s+([^\s(]+)\(", listed, re.MULTILINE)]


def left(parent: str, deadline: Deadline) -> list[Export]:
    """Every export of a part of the share `parent` to a single address. NodeError."""
    found = []
    for path, client in exported(deadline):
        token = re.fullmatch(re.escape(parent) + r"/[^/]+\.([0-9a-f]{32})/guest", path)
        if token is not None and client.endswith("/32"):
            found.append(Export(path, token[1], client.removesuffix("/32"), "", 0, 0))
    return found
