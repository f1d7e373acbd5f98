"""A guest's part of the share as a small file system of its own, in memory: it cannot be filled beyond its size."""

import contextlib
import os
import re

from ..errors import CommandError, NodeError
from ..host import process
from ..resource import Resource
from ..units import Deadline

_SECONDS = 10.0
_FILES = 1024
_SOURCE = re.compile(r"vmbatch:([0-9a-f]{32})")


class Volume(Resource, frozen=True, tag="volume"):
    """A tmpfs of `size` bytes at `path`, made for it, which belongs to `uid` and `gid`; its source names the start's `token`.

    Nothing in it is executed, and no mode or device in it counts, whatever root of a guest makes there.
    """

    path: str
    token: str
    size: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"volume {self.path} ({self.size} bytes)"

    def acquire(self) -> None:
        """Makes the directory and mounts the file system. NodeError."""
        if os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt"):
            raise NodeError("the hooks run in a mount namespace of their own, where nobody else sees a guest's volume",
                            "start the batch system's daemon without PrivateTmp, PrivateMounts and the like", code="VB607")
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise NodeError(f"{self.path} cannot be made: {error.strerror}", code="VB607") from None
        options = f"nosuid,nodev,noexec,size={self.size},nr_inodes={_FILES},mode=0700,uid={self.uid},gid={self.gid}"
        process.run(["/usr/bin/mount", "-t", "tmpfs", "-o", options, f"vmbatch:{self.token}", self.path], Deadline(_SECONDS))

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Unmounts it if it is this start's, also while somebody still has a file of it open."""
        place = os.path.join(os.path.realpath(os.path.dirname(self.path)), os.path.basename(self.path))
        while (place, self.token) in mounted():
            try:
                process.run(["/usr/bin/umount", "--lazy", "--no-canonicalize", place], deadline)
            except CommandError as error:
                if (place, self.token) in mounted():
                    raise NodeError(f"{self.path} cannot be unmounted: {error.what}", code="VB607") from None
        with contextlib.suppress(OSError):  # not there, or another's; else it is removed with its parent
            os.rmdir(self.path)


def mounted() -> list[tuple[str, str]]:
    """(path, token) of every volume that is mounted here. NodeError."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            lines = [line.split(" ") for line in table]
    except OSError as error:
        raise NodeError(f"/proc/self/mountinfo: {error.strerror}", code="VB607") from None
    found = []
    for words in lines:
        kind, source = words[words.index("-") + 1:][:2]
        match = _SOURCE.fullmatch(source)
        if kind == "tmpfs" and match is not None:
            found.append((re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4]), match[1]))
    return found


def left(parent: str) -> list[Volume]:
    """Every volume that is mounted below a directory."""
    place = os.path.realpath(parent)
    return [Volume(path, token, 0, 0, 0) for path, token in mounted() if path.startswith(f"{place}/")]
