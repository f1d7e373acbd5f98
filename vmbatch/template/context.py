"""How a template wants its guests prepared: media, disks to write into, root's way in by ssh."""

import re

import msgspec
from lxml import etree

from . import schema
from .disk import BlankSource, DiskTag

LABELS = {"vmbatch": "VMBATCH", "nocloud": "cidata", "configdrive": "config-2", "opennebula": "CONTEXT", "cernvm": "VMBATCH"}
"""The forms of a medium, and the label by which guests know each."""


class GuestDisk(msgspec.Struct, frozen=True):
    """A `vbdisk`: the file system on disk number `index`, as a whole, in a partition or in a logical volume (VG/LV).

    `device` is the partition's or the disk's name in the guest, such as `vda1`; `init` is '' where it is to be recognised.
    """

    index: int
    line: int
    device: str
    partition: int
    volume: str
    init: str
    trusted: bool


class RootSsh(msgspec.Struct, frozen=True):
    """A `vbrootssh`: `key` is a path, `host_key` a line as in known_hosts without the name or '', `give` image or credential."""

    key: str
    host_key: str
    first_use: bool
    give: str


def read_guest_disks(root: etree._Element, disks: list[DiskTag], found: list[schema.Problem]) -> dict[str, GuestDisk]:
    """The file systems to write the context into, by `rootdisk` and `jobdisk`."""
    method = (root.findtext("vbconfig/vbpreparemethod") or "").strip()
    tags = root.findall("devices/vbdisks/vbdisk")
    chosen: dict[str, GuestDisk] = {}
    for tag in tags:
        name = tag.get("name", "")
        if name in chosen:
            found.append((tag.sourceline or 0, f"a second <vbdisk name='{name}'>"))
        place = _guest_disk(tag, disks, found)
        if place is not None:
            chosen[name] = place
    if method == "DISK" and not any(tag.get("name") == "rootdisk" for tag in tags):
        place_of = root.find("vbconfig/vbpreparemethod")
        line = 0 if place_of is None else place_of.sourceline or 0
        found.append((line, "vbpreparemethod DISK needs a <vbdisks> with <vbdisk name='rootdisk' dev='vda' partition='vda1'/> "
                            "in <devices>"))
    if tags and method != "DISK":
        found.append((tags[0].sourceline or 0, "<vbdisks> goes with <vbpreparemethod>DISK</vbpreparemethod>"))
    if len({(place.index, place.partition, place.volume) for place in chosen.values()}) < len(chosen):
        found.append((tags[0].sourceline or 0, "rootdisk and jobdisk are the same; leave jobdisk out"))
    return chosen


def _guest_disk(tag: etree._Element, disks: list[DiskTag], found: list[schema.Problem]) -> GuestDisk | None:
    line, dev = tag.sourceline or 0, tag.get("dev", "")
    disk = next((disk for disk in disks if disk.target == dev), None)
    if disk is None:
        found.append((line, f"<vbdisk> dev='{dev}': there is no disk with this target; "
                            f"there is {', '.join(disk.target for disk in disks) or 'none'}"))
        return None
    if disk.source is None or disk.readonly:
        found.append((line, f"<vbdisk> dev='{dev}': this disk is not the job's own to write; "
                            "give it a <vbdisksource> and no <readonly/>"))
    if isinstance(disk.source, BlankSource) and (disk.source.once or tag.get("name") == "rootdisk"):
        found.append((line, f"<vbdisk> dev='{dev}': an empty disk has no system, and one with create='once' is not the "
                            "job's alone"))
    partition = tag.get("partition") or ""
    number = re.fullmatch(re.escape(dev) + r"([1-9][0-9]{0,2})", partition)
    if partition and not number:
        found.append((line, f"<vbdisk> partition='{partition}': expected a partition of {dev}, such as '{dev}1'"))
    return GuestDisk(disk.index, line, partition or dev, int(number[1]) if number else 0, tag.get("volume") or "",
                     tag.get("init") or "", tag.get("trusted") == "yes")


def read_rootssh(root: etree._Element, found: list[schema.Problem]) -> RootSsh | None:
    """Root's way in, for ROOTSSH."""
    method = root.find("vbconfig/vbpreparemethod")
    wanted = method is not None and (method.text or "").strip() == "ROOTSSH"
    tag = root.find("vbconfig/vbrootssh")
    if tag is None:
        if wanted and method is not None:
            found.append((method.sourceline or 0, "vbpreparemethod ROOTSSH needs in <vbconfig> a "
                                                  "<vbrootssh key='/etc/vmbatch/root_key' hostkey='ssh-ed25519 AAAA...'/>"))
        return None
    line = tag.sourceline or 0
    if not wanted:
        found.append((line, "<vbrootssh> goes with <vbpreparemethod>ROOTSSH</vbpreparemethod>"))
    first_use = tag.get("firstuse") == "yes"
    if not tag.get("hostkey") and not first_use:
        found.append((line, "<vbrootssh> needs the guest's hostkey='ssh-ed25519 AAAA...'; or write firstuse='yes' to trust "
                            "whatever answers first"))
    if tag.get("hostkey") and first_use:
        found.append((line, "<vbrootssh> has a hostkey= and firstuse='yes'; take one of both out"))
    return RootSsh(tag.get("key", ""), tag.get("hostkey") or "", first_use, tag.get("give") or "image")
