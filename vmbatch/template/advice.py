"""What in a template makes its guests start later than they need to: what is there, what it costs, what to write instead.

The seconds are those of `python -m bench.lean`: a start of the lab's guests under emulation beside the same start without that
thing. docs/performance.md has them all, and the machine; what did not matter there is not here.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from lxml import etree

from .disk import ImageSource
from .read import Template
from .resources import own_size

_GIB = 1 << 30
Sizes = dict[int, int]
"""Bytes of images, as far as they are known, by the index of their disks."""
Found = Iterator[tuple[int, str, float]]
"""Of each place in a template: its line, what is there, and the seconds that it costs a start."""


class Advice(msgspec.Struct, frozen=True):
    """What is `found` in the template's `line`, the `seconds` that it costs a start, and what to write instead.

    `waits`: they pass idly, under KVM as under emulation.
    """

    name: str
    line: int
    found: str
    seconds: float
    remedy: str
    waits: bool


class Kind(NamedTuple):
    """`look` finds it in a template."""

    name: str
    look: Callable[[Template, Sizes], Found]
    remedy: str
    waits: bool = False


def advise(form: Template, sizes: Sizes) -> list[Advice]:
    """In the order of the template's lines, without what its <vbadvice> does not want."""
    found = [Advice(kind.name, line, what, round(seconds, 1), kind.remedy, kind.waits)
             for kind in KINDS if kind.name not in form.without_advice for line, what, seconds in kind.look(form, sizes)]
    return sorted(found, key=lambda each: each.line)


def _tags(form: Template, path: str) -> Iterator[tuple[int, etree._Element]]:
    """Those of a domain that QEMU runs, with their lines."""
    if form.type in ("kvm", "qemu"):
        for tag in form.root.iterfind(path):
            yield tag.sourceline or 0, tag


def _boot_menu(form: Template, _sizes: Sizes) -> Found:
    for line, tag in _tags(form, "os/bootmenu[@enable='yes']"):
        timeout = str(tag.get("timeout") or "")
        yield line, "the firmware waits for a key", int(timeout) / 1000 if timeout.isdecimal() else 2.5


def _network_boot(form: Template, _sizes: Sizes) -> Found:
    for line, tag in _tags(form, "os/boot[@dev='network']"):
        if form.root.find("os/kernel") is None and next(tag.itersiblings("boot"), None) is not None:
            yield line, "the firmware tries the network before the disk", 7.0


def _uefi(form: Template, _sizes: Sizes) -> Found:
    for path in ("os[@firmware='efi']", "os/loader[@type='pflash']"):
        for line, _tag in _tags(form, path):
            yield line, "UEFI starts the guest", 3.5
            return


def _debug(form: Template, _sizes: Sizes) -> Found:
    for line, tag in _tags(form, "os/cmdline"):
        if "debug" in (tag.text or "").split():
            yield line, "the kernel's line has debug, by which systemd, too, tells all that it does", 5.9


def _usb(form: Template, _sizes: Sizes) -> Found:
    for line, devices in _tags(form, "devices"):
        stated = devices.find("controller[@type='usb']")
        if stated is None:
            yield line, "libvirt adds a USB controller, as the template does not say there is none", 0.2
        elif stated.get("model") != "none":
            yield stated.sourceline or 0, "the guest has a USB controller", 0.2


def _medium(form: Template, _sizes: Sizes) -> Found:
    for line, tag in _tags(form, "devices/disk[vbpreparecdrom]/target"):
        if tag.get("bus") != "virtio":
            yield line, f"the context medium is on the bus {tag.get('bus') or 'that libvirt chooses'}", 0.2


def _memory(form: Template, _sizes: Sizes) -> Found:
    for path in ("memoryBacking/allocation[@mode='immediate']", "memoryBacking/locked"):
        for line, tag in _tags(form, path):
            yield (line, f"by <{tag.tag!s}> all of the guest's memory is taken before it starts",
                   1.6 * own_size(form.root)[1] / _GIB)
            return


def _copy(form: Template, sizes: Sizes) -> Found:
    for tag in form.disks:
        if isinstance(tag.source, ImageSource) and tag.source.method == "copy" and sizes.get(tag.index):
            yield (tag.line, f"the image of {tag.target}, {sizes[tag.index] >> 20} MiB, is copied for each job",
                   0.5 * sizes[tag.index] / _GIB)


KINDS = (
    Kind("boot-menu", _boot_menu, "take <bootmenu> out", waits=True),
    Kind("network-boot", _network_boot, "name 'hd' first, or alone", waits=True),
    Kind("uefi", _uefi, "let SeaBIOS do it, where the image can: neither firmware='efi' nor <loader>"),
    Kind("debug", _debug, "write quiet in its place"),
    Kind("usb", _usb, "<controller type='usb' model='none'/>"),
    Kind("medium", _medium, "make it a plain disk: device='disk', <target dev='vdb' bus='virtio'/>"),
    Kind("memory", _memory, "take it out; [admission] sees to it that the node's memory is enough"),
    Kind("copy", _copy, "copy_method='cow' takes no time; a copy takes none either where image and spool share an XFS or Btrfs",
         waits=True),
)
