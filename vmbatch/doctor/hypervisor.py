"""libvirt and the hypervisor: whether they answer, and whether guests of the templates' types can run on this node."""

import errno
import os
import re
from collections.abc import Iterator

import msgspec

from ..errors import NodeError
from ..host import libvirtd, xen
from ..units import Deadline
from .finding import Check, Finding, Site, error, ok, warning

_KVM = "/dev/kvm"
_OLDEST = 9
_XL_SECONDS = 8.0
_NO_DOM0 = "boot the node with Xen, and see that its services run (xenstored, xenconsoled, xl list)"


def libvirt(site: Site) -> Iterator[Finding]:
    """Whether libvirtd answers."""
    library, kind, version = libvirtd.versions(site.config.libvirt_uri)
    said = f"{site.config.libvirt_uri} answers: libvirt {library}, {kind} {version}"
    if int(library.partition(".")[0]) < _OLDEST:
        yield warning(said, f"VmBatch is tested with libvirt {_OLDEST} and later")
    else:
        yield ok(said)


class Kvm(msgspec.Struct, frozen=True):
    """`trouble` is what opening /dev/kvm says (an errno, 0 for success), `processor` whether it can virtualize.

    `refused` is what libvirt says of domains of type kvm, '' if it has them.
    """

    trouble: int
    processor: bool
    refused: str


def kvm(site: Site) -> Iterator[Finding]:
    """KVM, where templates want it, or could."""
    wanted = [os.path.basename(form.path) for form in site.of_type("kvm")]
    emulated = [os.path.basename(form.path) for form in site.of_type("qemu")]
    if wanted or emulated:
        yield from judge_kvm(_look_at_kvm(site.config.libvirt_uri, ask=bool(wanted)), wanted, emulated)


def _look_at_kvm(uri: str, *, ask: bool) -> Kvm:
    trouble = 0
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as wrong:
        trouble = wrong.errno or errno.EIO
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as text:
        processor = re.search(r"^(?:flags|Features)\s*:.*\b(?:vmx|svm)\b", text.read(), re.MULTILINE) is not None
    refused = ""
    if ask:
        try:
            libvirtd.domain_capabilities(uri, None, None, None, "kvm")
        except NodeError as wrong:
            refused = wrong.what
    return Kvm(trouble, processor, refused)


def judge_kvm(found: Kvm, wanted: list[str], emulated: list[str]) -> Iterator[Finding]:
    """`wanted` by templates of type kvm; of those that are `emulated` some could have it."""
    if not wanted:
        if not found.trouble:
            yield warning(f"{' '.join(emulated)}: guests are emulated, and {_KVM} is there",
                          "with <domain type='kvm'> they are many times faster")
        return
    if found.trouble == errno.ENOENT and not found.processor:
        yield error(f"{_KVM} is not there, and the processor offers no virtualization: {' '.join(wanted)} cannot start",
                    "switch on VT-x or AMD-V in the firmware; in a machine that is virtual itself, nested virtualization")
    elif found.trouble == errno.ENOENT:
        yield error(f"{_KVM} is not there: {' '.join(wanted)} cannot start", "modprobe kvm_intel, or kvm_amd; dmesg says why not")
    elif found.trouble:
        yield error(f"{_KVM}: {os.strerror(found.trouble)}",
                    f"QEMU needs it: chgrp kvm {_KVM}; chmod 660 {_KVM}, and run this as root")
    elif found.refused:
        yield error(found.refused, "virsh domcapabilities --virttype kvm says more")
    else:
        yield ok(f"{_KVM} can be opened, and libvirt has domains of type kvm; that a guest boots, --boot shows")


def emulators(site: Site) -> Iterator[Finding]:
    """The programs and machines that templates of QEMU's and KVM's name."""
    named: dict[tuple[str, str | None, str | None, str | None], list[str]] = {}
    for form in site.of_type("qemu", "kvm"):
        kind = form.root.find("os/type")
        arch, machine = (None, None) if kind is None else (kind.get("arch"), kind.get("machine"))
        emulator = (form.root.findtext("devices/emulator") or "").strip() or None
        named.setdefault((form.type, emulator, arch, machine), []).append(os.path.basename(form.path))
    seen: set[str] = set()
    for (kind_of, emulator, arch, machine), users in named.items():
        try:
            text = libvirtd.domain_capabilities(site.config.libvirt_uri, emulator, arch, machine, kind_of)
            seen.update(re.findall(r"<path>([^<]+)</path>", text))
        except NodeError as refused:
            if kind_of != "kvm" or emulator or machine:  # else it is the check of KVM that says it
                yield error(f"{' '.join(users)}: {refused.what}",
                            "install the emulator (Debian: qemu-system-x86), or correct <emulator> and <os><type>")
    if seen:
        yield ok(f"libvirt has what the templates name: {' '.join(sorted(seen))}")


def dom0(site: Site) -> Iterator[Finding]:
    """Xen, where templates want it."""
    wanted = [os.path.basename(form.path) for form in site.of_type("xen")]
    if not wanted:
        return
    try:
        with open("/proc/xen/capabilities", encoding="ascii") as text:
            here = "control_d" in text.read()
    except OSError:
        here = False
    if not here:
        yield error(f"this node is no dom0 of Xen's: {' '.join(wanted)} cannot start", _NO_DOM0)
        return
    found = xen.domains(Deadline(_XL_SECONDS))
    dying = [f"{each.number}" for each in found if each.dying]
    if dying:
        yield warning(f"domains that do not end die: {' '.join(dying)}",
                      "xl list -v shows them; something in dom0 still holds their memory")
    yield ok(f"xl answers: {len(found)} domains beside dom0")


def accounts(site: Site) -> Iterator[Finding]:
    """Under which account guests run, and whether their disks are given to it."""
    if not site.of_type("qemu", "kvm") or site.config.libvirt_uri != "qemu:///system":
        return
    try:
        with open("/etc/libvirt/qemu.conf", encoding="utf-8", errors="replace") as text:
            settings = text.read()
    except FileNotFoundError:
        settings = ""
    yield from judge_accounts(settings, libvirtd.capabilities(site.config.libvirt_uri))


def judge_accounts(settings: str, capabilities: str) -> Iterator[Finding]:
    """From qemu.conf, and what libvirt says of the host."""
    stated = dict(re.findall(r"^\s*(dynamic_ownership|user)\s*=\s*\"?([^\"\s#]*)", settings, re.MULTILINE))
    models = re.findall(r"<secmodel>\s*<model>([^<]+)</model>", capabilities)
    owner = re.search(r"<baselabel type='(?:qemu|kvm)'>\+([0-9]+):\+([0-9]+)</baselabel>", capabilities)
    if stated.get("dynamic_ownership") == "0":
        yield error("/etc/libvirt/qemu.conf has dynamic_ownership = 0, so QEMU cannot open jobs' disks, which are root's",
                    "take it out, and restart libvirtd")
    elif owner is not None and owner[1] == "0":
        yield warning("guests' QEMUs run as root", "take user = \"root\" out of /etc/libvirt/qemu.conf, and restart libvirtd")
    else:
        who = f"uid {owner[1]} and gid {owner[2]}" if owner else "an account that libvirt does not name"
        yield ok(f"guests' QEMUs run as {who}; security drivers: {' '.join(models) or 'none'}")


CHECKS = (
    Check("libvirt", "whether libvirtd answers at [libvirt] uri", libvirt, root=True),
    Check("kvm", "whether KVM can be used, where templates want it", kvm, root=True),
    Check("emulators", "whether the emulators and machines that templates name are there", emulators, root=True,
          needs="libvirt"),
    Check("xen", "whether this is a dom0 whose xl answers, where templates want it", dom0, root=True),
    Check("accounts", "under which account guests run, and whether they are given their disks", accounts, root=True,
          needs="libvirt"),
)
