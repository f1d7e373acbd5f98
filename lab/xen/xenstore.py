"""What a domain may leave in dom0 that libvirt does not show: in Xen, in xenstore, as devices and their back ends' processes."""

import subprocess
from pathlib import Path

_BACKENDS = ("qdisk", "vbd", "vif", "console", "vfb", "vkbd", "qusb")


def left() -> list[str]:
    """A line for each thing that belongs to no domain but dom0."""
    return [*_domains(), *_store(), *_devices(), *_processes()]


def _said(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()


def _domains() -> list[str]:
    """In Xen itself, dying ones too: xl list shows those as (null)."""
    return [f"xl list: {line}" for line in _said("xl", "list")[1:] if not line.startswith("Domain-0 ")]


def _store() -> list[str]:
    paths = [f"/local/domain/{number}" for number in _said("xenstore-list", "/local/domain") if number != "0"]
    for kind in _BACKENDS:
        place = f"/local/domain/0/backend/{kind}"
        paths += [f"{place}/{number}" for number in _said("xenstore-list", place) if number != "0"]
    paths += [f"/libxl/{number}" for number in _said("xenstore-list", "/libxl") if number != "0"]
    return [f"xenstore: {path}" for path in paths]


def _devices() -> list[str]:
    found = [f"interface {path.name}" for path in Path("/sys/class/net").glob("vif*")]
    found += [f"backend {path.name}" for path in Path("/sys/bus/xen-backend/devices").glob("*")]
    return found + [f"loop device {line}" for line in _said("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")]


def _processes() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-xen-domid" in words and words[words.index(b"-xen-domid") + 1] != b"0":
            found.append(f"process {entry.name}: {b' '.join(words[:1]).decode(errors='replace')} of domain "
                         f"{words[words.index(b'-xen-domid') + 1].decode(errors='replace')}")
    return found
