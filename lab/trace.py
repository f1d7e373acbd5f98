"""Traces that nobody sees who looks at files alone: locks, mounts, interfaces, libvirt's filters, keys."""

import contextlib
import os
import subprocess
from pathlib import Path

from . import leftover, place

_OURS = ("/var/lib/vmbatch", "/run/vmbatch", str(place.SHARE))
_KEYS = ("id_ed25519", "host_key", "party_key")


def found() -> set[str]:
    """A line for each; those of before the first job are the node's own."""
    return {*_locks(), *_mounts(), *_interfaces(), *_filters(), *_keys()}


def _files() -> dict[tuple[str, int], str]:
    """Our files by device, as /proc/locks writes it, and inode."""
    known = {}
    for top in _OURS:
        for parent, directories, names in os.walk(top):
            for name in (*directories, *names, "."):
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(os.path.join(parent, name))
                    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                    known[device, status.st_ino] = os.path.normpath(os.path.join(parent, name))
    return known


def _locks() -> set[str]:
    """proc(5), /proc/locks; of waiting ones the line has an arrow."""
    known = _files()
    lines = [line.replace("-> ", "").split() for line in Path("/proc/locks").read_text().splitlines()]
    held = ((words[5].rpartition(":"), words[4]) for words in lines)
    return {f"lock on {known[device, int(inode)]} of process {pid}" for (device, _, inode), pid in held
            if (device, int(inode)) in known}


def _mounts() -> set[str]:
    return {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _interfaces() -> set[str]:
    shown = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {f"interface {line.split(': ')[1]}" for line in shown.splitlines()}


def _filters() -> set[str]:
    """What nftables has of guests' interfaces, and what libvirt and its ebtables may have."""
    return {f"filter: {line}" for line in leftover.filters()}


def _keys() -> set[str]:
    return {f"key {path}" for top in _OURS for path in Path(top).rglob("*") if path.name.startswith(_KEYS)}
