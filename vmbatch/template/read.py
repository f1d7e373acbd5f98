"""From a template's text to what VmBatch must know of it. Nothing is fetched, expanded or changed."""

from collections.abc import Iterator

import msgspec
from lxml import etree

from ..errors import InputError
from . import schema
from .context import GuestDisk, RootSsh, read_guest_disks, read_rootssh
from .credentials import check_firmware
from .disk import BlankSource, DiskTag, beside, read_disk
from .lifetime import Lifetime, read_lifetime
from .network import InterfaceTag, read_networks
from .pool import Pool, read_pool
from .resources import Resources, read_requests, read_resources
from .share import Share, read_shares


class TarFile(msgspec.Struct, frozen=True):
    """A `vbtarfile`: archive, directory to unpack into, leading directories to drop, whether onto the medium."""

    archive: str
    directory: str
    strip: int
    on_medium: bool


class Credential(msgspec.Struct, frozen=True):
    """A `vbcredential`: its content is `value`, or that of the file."""

    name: str
    value: str
    file: str


class Template(msgspec.Struct, frozen=True):
    """A checked template; `root` is the parsed document, not to be changed.

    `guest_disks` by `rootdisk` and `jobdisk`; `console_shell` is the guest's name of the console for the job, '' for ssh.
    `requests` are what submitters may ask for beside images, with the maximum: cores, bytes or seconds. `resume`: guests start
    from a saved one where they can; `pool`: those that wait for jobs are taken where they can.
    `without_advice` names what the admin wants no advice on, see `advice`.
    """

    path: str
    root: etree._Element
    type: str
    method: str
    hypervisor: str
    disks: tuple[DiskTag, ...]
    interfaces: tuple[InterfaceTag, ...]
    guest_disks: dict[str, GuestDisk]
    rootssh: RootSsh | None
    shares: tuple[Share, ...]
    credentials: tuple[Credential, ...]
    console_shell: str
    messages: str
    kernel_line: bool
    archives: tuple[TarFile, ...]
    job_directory: str | None
    resources: Resources = Resources()
    requests: dict[str, float] = {}
    lifetime: Lifetime = Lifetime()
    resume: bool = False
    pool: Pool | None = None
    without_advice: tuple[str, ...] = ()


_TYPES = {"QEMU": "qemu", "KVM": "kvm", "TEST": "test", "XEN": "xen", "XEN3": "xen", "XEN4": "xen"}
"""The domain's type for each hypervisor; without `vbhypervisor` the type says it."""


def parse(text: bytes, path: str) -> Template:
    """The template in `text`; InputError names every mistake with its line."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise InputError(path, [(error.lineno or 0, f"is not XML: {(error.msg or '').rsplit(', line', 1)[0]}")],
                         code="VB103") from None
    if root.getroottree().docinfo.doctype:
        raise InputError(path, [(1, "has a DOCTYPE; a template may have neither DTD nor entities")], code="VB103")
    if root.tag != "domain":
        raise InputError(path, [(root.sourceline or 0, f"is a <{root.tag!s}>, not a libvirt <domain>")], code="VB103")
    found = schema.problems(root) + _libvirt_problems(root)
    if root.get("type") == "xen":
        found += _xen_problems(root)
    disks = [read_disk(index, disk, path, found) for index, disk in enumerate(root.findall("devices/disk"))]
    interfaces = read_networks(root, found)
    guest_disks = read_guest_disks(root, disks, found)
    rootssh = read_rootssh(root, found)
    shares = read_shares(root, found)
    credentials = tuple(_credential(tag, path, found) for tag in root.findall("vbconfig/vbcredentials/vbcredential"))
    console_shell = _console_shell(root, found)
    requests = read_requests(root, found)
    resources = read_resources(root, requests, found)
    lifetime = read_lifetime(root, found)
    pool = read_pool(root, found)
    if credentials or (rootssh is not None and rootssh.give == "credential"):
        check_firmware(root, found)
    found.extend([*_names_taken_twice(disks), *_context_problems(root, disks)])
    if found:
        raise InputError(path, found, code="VB103")
    return Template(
        path=path,
        root=root,
        type=root.get("type", ""),
        method=_text(root, "vbconfig/vbpreparemethod") or "CDROM",
        hypervisor=_text(root, "vbconfig/vbhypervisor") or root.get("type", "").upper(),
        disks=tuple(disks),
        interfaces=interfaces,
        guest_disks=guest_disks,
        rootssh=rootssh,
        shares=shares,
        credentials=credentials,
        console_shell=console_shell,
        messages=_text(root, "vbconfig/vbmessages") or "SHARE",
        kernel_line=_text(root, "vbconfig/vbkernelline") == "yes",
        archives=tuple(_archive(tag, path) for tag in root.findall("vbconfig/vbtarfiles/vbtarfile")),
        job_directory=_text(root, "vbconfig/vbjobpath") or None,
        resources=resources,
        requests=requests,
        lifetime=lifetime,
        resume=_text(root, "vbconfig/vbstart") == "RESUME",
        pool=pool,
        without_advice=_without_advice(root),
    )


def _console_shell(root: etree._Element, found: list[schema.Problem]) -> str:
    tag = root.find("vbconfig/vbshell")
    if tag is None or (tag.text or "").strip() != "CONSOLE":
        if tag is not None and tag.get("device"):
            found.append((tag.sourceline or 0, "<vbshell> device= goes with CONSOLE"))
        return ""
    device = str(tag.get("device") or "hvc0")
    if device == "ttyS1" and len(root.findall("devices/serial")) > 1:
        found.append((tag.sourceline or 0, "<vbshell device='ttyS1'>: the template has a second <serial> of its own; "
                                             "take it out"))
    return device


def _names_taken_twice(disks: list[DiskTag]) -> Iterator[schema.Problem]:
    seen: set[str] = set()
    for tag in disks:
        if tag.user is not None and f"user {tag.user.name}" in seen:
            yield tag.line, f"a second <vbuserimage> with the name '{tag.user.name}'; give it another name='...'"
        if isinstance(tag.source, BlankSource) and tag.source.once and f"once {tag.source.name}" in seen:
            yield tag.line, f"a second disk with create='once' and source='{tag.source.name}'; give it another name"
        if tag.medium is not None and f"medium {tag.medium.name}" in seen:
            yield tag.line, f"a second <vbpreparecdrom source='{tag.medium.name}'>; give it another name"
        seen.update([f"user {tag.user.name}"] if tag.user else [])
        seen.update([f"once {tag.source.name}"] if isinstance(tag.source, BlankSource) and tag.source.once else [])
        seen.update([f"medium {tag.medium.name}"] if tag.medium else [])


def _context_problems(root: etree._Element, disks: list[DiskTag]) -> Iterator[schema.Problem]:
    """What does not go together in the way a guest is prepared."""
    method = _text(root, "vbconfig/vbpreparemethod") or "CDROM"
    media = [tag for tag in disks if tag.medium is not None]
    if method == "CDROM" and not media:
        devices = root.find("devices")
        yield ((root if devices is None else devices).sourceline or 0,
               "no <disk> has a <vbpreparecdrom source='context.iso'/>: the guest would get no context")
    if method in ("DISK", "ROOTSSH"):
        for tag in media:
            yield tag.line, f"<vbpreparecdrom> goes with vbpreparemethod CDROM, and this template has {method}; take one out"
        for archive in root.iter("vbtarfile"):
            if archive.get("option") == "cdrom":
                yield (archive.sourceline or 0,
                       f"<vbtarfile option='cdrom'>: with vbpreparemethod {method} there is no medium; take the option out")
    messages = root.find("vbconfig/vbmessages")
    if _text(root, "vbconfig/vbmessages") == "CONSOLE" and _text(root, "vbconfig/vbshell") != "CONSOLE" and messages is not None:
        yield messages.sourceline or 0, "<vbmessages>CONSOLE</vbmessages> goes with <vbshell>CONSOLE</vbshell>"
    wish = root.find("vbconfig/vbkernelline")
    static = next((tag for tag in root.iter("vbnetwork") if tag.get("method") == "static"), None)
    if method == "ROOTSSH" and static is not None and (wish is None or (wish.text or "").strip() != "yes"):
        yield (static.sourceline or 0, "<vbnetwork method='static'> with vbpreparemethod ROOTSSH needs "
                                       "<vbkernelline>yes</vbkernelline>: the guest must have its address before anybody can "
                                       "reach it")
    if wish is not None and (wish.text or "").strip() == "yes" and root.find("os/cmdline") is None:
        yield (wish.sourceline or 0, "<vbkernelline>yes</vbkernelline> needs a kernel line to add to: <cmdline> in <os>, "
                                     "with <kernel>")


def _text(root: etree._Element, path: str) -> str:
    return (root.findtext(path) or "").strip()


def _without_advice(root: etree._Element) -> tuple[str, ...]:
    tag = root.find("vbconfig/vbadvice")
    return () if tag is None else tuple(str(tag.get("without") or "").split())


def _libvirt_problems(root: etree._Element) -> list[schema.Problem]:
    found: list[schema.Problem] = []
    if not root.get("type"):
        found.append((root.sourceline or 0, "<domain> needs the attribute type, such as type='kvm'"))
    if root.get("type", "qemu") not in _TYPES.values():
        found.append((root.sourceline or 0, f"<domain type='{root.get('type')}'> is none that VmBatch knows; "
                                            "use type='kvm', type='qemu' or type='xen'"))
    wanted = _TYPES.get(_text(root, "vbconfig/vbhypervisor"))
    if wanted and root.get("type") and root.get("type") != wanted:
        tag = root.find("vbconfig/vbhypervisor")
        line = 0 if tag is None else tag.sourceline or 0
        name = _text(root, "vbconfig/vbhypervisor")
        found.append((line, f"<vbhypervisor>{name}</vbhypervisor> in a <domain type='{root.get('type')}'>; "
                            f"it must be type='{wanted}'"))
    targets: set[str] = set()
    for target in root.findall("devices/disk/target"):
        name = target.get("dev", "")
        if name in targets:
            found.append((target.sourceline or 0, f"a second disk with the target dev='{name}'"))
        targets.add(name)
    found.extend((tag.sourceline or 0, f"<vbtarfile> path='{tag.get('path')}' leads out of the medium")
                 for tag in root.iter("vbtarfile")
                 if tag.get("option") == "cdrom" and ".." in tag.get("path", "").split("/"))
    return found


def _xen_problems(root: etree._Element) -> list[schema.Problem]:
    """What Xen has not."""
    found: list[schema.Problem] = []
    messages, shell = root.find("vbconfig/vbmessages"), root.find("vbconfig/vbshell")
    if messages is not None and (messages.text or "").strip() == "CHANNEL":
        found.append((messages.sourceline or 0, "<vbmessages>CHANNEL</vbmessages> is a virtio port, which Xen has not; "
                                                "use SHARE, or CONSOLE with <vbshell>CONSOLE</vbshell>"))
    if shell is not None and shell.get("device") == "ttyS1":
        found.append((shell.sourceline or 0, "<vbshell device='ttyS1'>: a Xen guest has one console, hvc0; take device= out"))
    firmware = root.find("vbconfig/vbcredentials")
    if firmware is not None:
        found.append((firmware.sourceline or 0, "<vbcredentials> go through the firmware's tables, which Xen's guests have not; "
                                                "use vbpreparemethod CDROM"))
    return found


def _credential(tag: etree._Element, template: str, found: list[schema.Problem]) -> Credential:
    siblings = tag.itersiblings("vbcredential", preceding=True)
    if any(other.get("name") == tag.get("name") for other in siblings):
        found.append((tag.sourceline or 0, f"a second <vbcredential name='{tag.get('name')}'>"))
    if ("value" in tag.attrib) == ("file" in tag.attrib):
        found.append((tag.sourceline or 0, "<vbcredential> has either value= or file="))
    file = str(tag.get("file") or "")
    return Credential(str(tag.get("name") or ""), str(tag.get("value") or ""), beside(template, file) if file else "")


def _archive(tag: etree._Element, template: str) -> TarFile:
    on_medium = tag.get("option") == "cdrom"
    return TarFile(
        archive=beside(template, tag.get("tarfile", "")),
        directory=tag.get("path", "." if on_medium else "/"),
        strip=int(tag.get("strip", "0")),
        on_medium=on_medium,
    )
