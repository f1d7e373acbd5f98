"""The further file systems of a template's guests: from a server, or directories of the node."""

import ipaddress
import re
from collections.abc import Iterator

import msgspec
from lxml import etree

from . import schema

_SYSTEM = frozenset((
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys", "tmp", "usr",
    "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "usr/share", "var", "var/cache", "var/lib", "var/lock", "var/log", "var/run",
    "var/spool", "var/tmp",
))
"""Of a guest: nothing is mounted over these, though below them it may be."""
_NOT_BELOW = ("/dev", "/proc", "/run", "/sys", "/var/lib/vmbatch", "/var/run")
_OF_NODE = ("/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/var/lib/vmbatch", "/var/run")
"""Of the node: no guest gets these, or what is in them."""
_PLACE = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._@+-]+)+")
_NFS = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]*|\[([0-9A-Fa-f:.]+)\]):/[A-Za-z0-9._/@+-]*")
_OPTION = re.compile(r"[A-Za-z0-9_.-]+(=[A-Za-z0-9.,:/_@+-]+)?")
_NOT_HERE = {"ro": "write readonly='yes'", "rw": "it is so without", "bind": "a mount of its own is made",
             "rbind": "a mount of its own is made", "move": "a mount of its own is made", "remount": "a mount of its own is made"}
_9P = ("trans=virtio", "version=9p2000.L")
_VERSION = re.compile(r"(?:(?:nfs)?vers=|v(?=[234]))([0-9.]+)")


class Share(msgspec.Struct, frozen=True):
    """A `vbshare`: `kind` is nfs, nfs4, virtiofs or 9p; `source` is SERVER:/PATH, or a directory of the node."""

    line: int
    kind: str
    source: str
    target: str
    options: str
    readonly: bool

    @property
    def of_node(self) -> bool:
        """Whether it is a directory of the node."""
        return self.kind in ("virtiofs", "9p")


def read_shares(root: etree._Element, found: list[schema.Problem]) -> tuple[Share, ...]:
    """All of a template's, in the order in which a guest can mount them: what holds another's target comes first."""
    shares = tuple(_share(tag, found) for tag in root.findall("vbconfig/vbshares/vbshare"))
    for number, share in enumerate(shares):
        if share.target and any(share.target == other.target for other in shares[:number]):
            found.append((share.line, f"a second <vbshare target='{share.target}'>"))
        if share.kind == "virtiofs" and root.find("devices/disk/vbuserimage") is not None:
            found.append((share.line, "<vbshare type='virtiofs'> with <vbuserimage>: root of a user's image would be root in "
                                      f"{share.source} on the node; use type='9p', or NFS"))
        if share.of_node and root.get("type") == "xen":
            found.append((share.line, f"<vbshare type='{share.kind}'>: Xen has none; use NFS"))
    if any(share.kind == "virtiofs" for share in shares):
        found.extend(_memory_problems(root))
    return tuple(sorted(shares, key=lambda share: share.target.split("/")))


def _share(tag: etree._Element, found: list[schema.Problem]) -> Share:
    share = Share(tag.sourceline or 0, tag.get("type", ""), tag.get("source", ""), tag.get("target", ""), tag.get("options", ""),
                  tag.get("readonly") == "yes")
    if share.target.startswith("/"):
        found.extend((share.line, f"<vbshare target='{share.target}'>: {text}") for text in _target_problems(share.target))
    if share.source:
        found.extend((share.line, f"<vbshare type='{share.kind}' source='{share.source}'>: {text}") for text in
                     (_directory_problems(share.source) if share.of_node else _server_problems(share.source)))
    found.extend((share.line, f"<vbshare options='{share.options}'>: {text}") for text in _option_problems(share))
    if share.kind == "virtiofs" and share.readonly:
        found.append((share.line, "<vbshare type='virtiofs' readonly='yes'>: libvirt before 11.0 cannot keep guests from writing "
                                  "there; use type='9p', or share a directory that the node has mounted read-only"))
    return share


def _target_problems(target: str) -> Iterator[str]:
    if target[1:] in _SYSTEM or _is_below(target, _NOT_BELOW):
        yield "this is a directory of the guest's system"
    elif not _PLACE.fullmatch(target):
        yield "expected an absolute path without '..' or special characters, and not '/'"


def _directory_problems(source: str) -> Iterator[str]:
    if re.match(r"[^/]+:/", source):
        yield "expected a directory of the node; SERVER:/PATH is for type='nfs' and 'nfs4'"
    elif not re.fullmatch(r"(/(?!\.{1,2}(/|$))[^/:,]+)+", source):
        yield "expected a directory of the node, an absolute path without '..', and not '/'"
    elif source[1:] in _SYSTEM or _is_below(source, _OF_NODE):
        yield "this is a directory of the node's own system, which no guest may have"


def _server_problems(source: str) -> Iterator[str]:
    match = _NFS.fullmatch(source)
    if match is None:
        yield "expected SERVER:/PATH, where an IPv6 address stands in [ ]"
    elif match[2] is not None and not _is_ipv6(match[2]):
        yield f"[{match[2]}] is no IPv6 address"


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{place}/") for place in places)


def _option_problems(share: Share) -> Iterator[str]:
    for option in share.options.split(",") if share.options else ():
        version = _VERSION.fullmatch(option)
        if not _OPTION.fullmatch(option):
            yield "expected mount options with commas between them, without blanks or quotes"
            return
        if option in _NOT_HERE:
            yield f"{option} does not go here; {_NOT_HERE[option]}"
        elif version is not None and share.of_node:
            yield f"{option} is for type='nfs' and 'nfs4'"
        elif version is not None and (version[1][0] == "4") != (share.kind == "nfs4"):
            yield f"{option} is for type='{'nfs4' if version[1][0] == '4' else 'nfs'}'"
        elif share.kind == "9p" and option.startswith(("trans=", "version=")) and option not in _9P:
            yield f"{option} cannot be; QEMU has trans=virtio,version=9p2000.L"


def _memory_problems(root: etree._Element) -> Iterator[schema.Problem]:
    """What keeps virtiofsd from working in the guest's memory."""
    access = root.find("memoryBacking/access")
    if access is not None and access.get("mode") != "shared":
        yield access.sourceline or 0, f"<access mode='{access.get('mode')}'/>: <vbshare type='virtiofs'> needs mode='shared'"
    source = root.find("memoryBacking/source")
    if source is not None and source.get("type") == "anonymous":
        yield source.sourceline or 0, "<source type='anonymous'/>: <vbshare type='virtiofs'> needs type='memfd' or 'file'"
    for cell in root.findall("cpu/numa/cell"):
        if cell.get("memAccess") == "private":
            yield cell.sourceline or 0, "<cell memAccess='private'>: <vbshare type='virtiofs'> needs memAccess='shared'"
