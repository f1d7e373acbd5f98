"""The share: a directory on this node, and an NFS server that shows it to guests."""

import contextlib
import ipaddress
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator

import msgspec

from ..config import Config
from ..errors import NodeError
from ..host import address, nfs, process
from ..units import Deadline
from .finding import Check, Finding, Site, error, ok, warning
from .networks import guests

_ETAB = "/var/lib/nfs/etab"
_THREADS = "/proc/fs/nfsd/threads"
_ASK_SECONDS = 5.0
_SKEW_SECONDS = 5.0
_DAEMONS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _is_used(site: Site) -> bool:
    """Also where no template can be read: most want it."""
    return any(form.messages == "SHARE" for form in site.templates) or bool(site.config.queues and not site.templates)


class Place(msgspec.Struct, frozen=True):
    """The share as this node sees it: owner and mode, whether it is another file system than /, and read-only.

    `skew`: how far its server's clock is ahead, in seconds, where it is not this node.
    """

    owner: int
    mode: int
    mounted: bool
    readonly: bool
    skew: float = 0.0


def directory(site: Site) -> Iterator[Finding]:
    """The share's directory."""
    config = site.config
    path = config.share_directory
    if not _is_used(site):
        return
    try:
        found = _look(config)
    except OSError as wrong:
        yield error(f"the share {wrong.filename or path}: {wrong.strerror}",
                    f"install -d -m 711 {path}, mount it, or set [share] directory")
        return
    yield from judge_directory(found, config)


def _look(config: Config) -> Place:
    """On another server's share an empty directory is made and removed: nothing else tells whether it can, and the time there."""
    path = config.share_directory
    status, state = os.stat(path), os.statvfs(path)
    skew = 0.0
    if not config.share_local and not state.f_flag & os.ST_RDONLY:
        probe = os.path.join(path, f".doctor@{os.uname().nodename}")
        with contextlib.suppress(FileNotFoundError):  # of one that was killed
            os.rmdir(probe)
        os.mkdir(probe, 0o700)
        try:
            skew = os.stat(probe).st_mtime - time.time()
        finally:
            os.rmdir(probe)
    return Place(status.st_uid, stat.S_IMODE(status.st_mode), status.st_dev != os.stat("/").st_dev,
                 bool(state.f_flag & os.ST_RDONLY), skew)


def judge_directory(found: Place, config: Config) -> Iterator[Finding]:
    """Whether jobs' parts can be made there, and guests see no names of others' there."""
    path = config.share_directory
    if not config.share_local and not found.mounted:
        yield error(f"the share {path} is not mounted",
                    "mount it; see /etc/fstab, or set [share] local = true if this node serves it")
    elif found.owner != 0 or found.mode & 0o066:
        yield error(f"the share {path} has mode {found.mode:04o} and owner {found.owner}: it must be root's, "
                    "and show no guest the names of others' directories", f"chown root {path}; chmod 711 {path}")
    elif not found.mode & 0o001:
        yield error(f"the share {path} has mode {found.mode:04o}, so guests cannot enter their parts of it", f"chmod 711 {path}")
    elif found.readonly:
        yield error(f"the share {path} is read-only", "mount it rw")
    elif abs(found.skew) > _SKEW_SECONDS:
        behind = "ahead of" if found.skew > 0 else "behind"
        yield warning(f"the clock of the share's server is {abs(found.skew):.0f} s {behind} this node's", "synchronize both")
    else:
        yield ok(f"{path} has mode {found.mode:04o} and can be written to")


def server(site: Site) -> Iterator[Finding]:
    """Whether guests can mount the share: what they mount is asked for, from this node's address on the way there."""
    config = site.config
    if not _is_used(site):
        return
    if not config.share_type.startswith("nfs"):
        if config.share_type == "virtiofs":
            found = next((path for path in _DAEMONS if os.access(path, os.X_OK)), None)
            yield (ok(f"guests mount by virtiofs: {found}") if found
                   else error("virtiofsd is not on this node", "install it (Debian 12: qemu-system-common), or set [share] type"))
        return
    host, path = split(config.share_source)
    if not host:
        yield error(f"[share] source = {config.share_source!r} is not SERVER:/PATH", "set it in vmbatch.conf")
        return
    if config.share_type == "nfs4" and config.share_export == "none":
        try:
            nfs.check(host, path, Deadline(_ASK_SECONDS))
        except nfs.NotShownError as wrong:
            if wrong.status != nfs.OLD:
                yield error(wrong.what, f"see /etc/exports and exportfs -v on {host}, or correct [share] source")
                return
    else:
        nfs.ping(host, 4 if config.share_type == "nfs4" else 3, Deadline(_ASK_SECONDS))
    yield ok(f"{host} answers" + (f" and shows {path}" if config.share_type == "nfs4" and config.share_export == "none" else ""))
    yield from judge_ports(host, config, address.of_this_node())
    if os.path.exists(_THREADS) and host in address.of_this_node() and config.share_export == "none":
        with open(_THREADS, encoding="ascii") as threads:
            running = threads.read().strip() != "0"
        if running:
            with open(_ETAB, encoding="utf-8", errors="replace") as table:
                yield from judge_exports(exports(table.read()), config, guests(site))


def split(source: str) -> tuple[str, str]:
    """(server, path) of `SERVER:/PATH`, with an IPv6 address in brackets; ('', '') for what is neither."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(/\S*)", source)
    return (match[1] or match[2], match[3]) if match else ("", "")


def judge_ports(host: str, config: Config, here: Iterable[str]) -> Iterator[Finding]:
    """Whether the filter before each guest lets it reach the server."""
    if not config.network_filter:
        return
    if host in here and nfs.PORT not in config.network_services:
        yield error(f"the NFS server is this node, and [network] services has not its port {nfs.PORT}",
                    f"guests cannot mount the share: add {nfs.PORT}")
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        return
    shut = [net for net in config.network_closed if known in ipaddress.ip_network(net)]
    if shut:
        yield error(f"the NFS server {host} is in {shut[0]}, which [network] closed keeps guests from", "take it out of there")


class Exported(msgspec.Struct, frozen=True):
    """One line of the kernel's exports: directory, for whom, how."""

    path: str
    client: str
    options: tuple[str, ...]


def exports(table: str) -> list[Exported]:
    """Of /var/lib/nfs/etab, as exportfs(8) writes it; blanks in paths are octal."""
    found = []
    for line in table.splitlines():
        if match := re.fullmatch(r"(/\S*)\s+(\S+?)\(([^)]*)\)", line.strip()):
            path = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), match[1])
            found.append(Exported(path, match[2], tuple(match[3].split(","))))
    return found


def judge_exports(table: list[Exported], config: Config, where: Iterable[Network]) -> Iterator[Finding]:
    """Whether the share is exported to where guests are, to be written to, and not as root."""
    path = config.share_directory
    ours = [each for each in table if path == each.path or path.startswith(each.path.rstrip("/") + "/")]
    squash = f"anonuid={config.share_owner},anongid={config.share_owner}"
    advice = f"in /etc/exports: {path} NETWORK(rw,sync,root_squash,{squash}); exportfs -r"
    if not ours:
        yield error(f"{path} is not exported", advice)
        return
    for net in where:
        fitting = [each for each in ours if _covers(each.client, net)]
        if not fitting:
            yield error(f"{path} is not exported to {net}, where guests are", advice)
        elif "rw" not in fitting[-1].options:
            yield error(f"{path} is exported read-only to {fitting[-1].client}", advice)
        elif "no_root_squash" in fitting[-1].options:
            yield error(f"{path} is exported with no_root_squash to {fitting[-1].client}: root of a guest is root there", advice)
        elif not {"all_squash", f"anonuid={config.share_owner}"} & set(fitting[-1].options):
            yield error(f"{path}: guests' root is another uid there than [share] owner = {config.share_owner}", advice)
        else:
            continue
        return
    yield ok(f"{path} is exported to {' '.join(each.client for each in ours)}")


def _covers(client: str, net: Network) -> bool:
    """Whether an export's client is a network that has all of `net`; names of hosts and of netgroups may be anybody."""
    try:
        known = ipaddress.ip_network(client, strict=False)
    except ValueError:
        return True
    return known.version == net.version and net.subnet_of(known)  # type: ignore[arg-type]


def per_job(site: Site) -> Iterator[Finding]:
    """What exports for each job's guest alone need."""
    if not _is_used(site) or site.config.share_export != "exportfs":
        return
    if process.find("exportfs") is None:
        yield error("exportfs is not on this node, and [share] export = \"exportfs\"", "install nfs-kernel-server")
    elif not os.path.exists(_THREADS):
        yield error("the kernel's NFS server does not run, and [share] export = \"exportfs\" is for it",
                    "systemctl start nfs-server")
    else:
        try:
            process.run(["/usr/sbin/exportfs", "-s"], Deadline(_ASK_SECONDS))
        except NodeError as wrong:
            yield error(f"exports cannot be read: {wrong.what}", "is this run by root?")
            return
        yield ok("each job's part is exported to its guest alone")


CHECKS = (
    Check("share", "whether the share is there, root's, shut to strangers and can be written to; its server's clock", directory,
          root=True),
    Check("nfs", "whether the share's server answers, shows the share, and exports it to guests, rw and without their root",
          server, root=True),
    Check("exports", "whether jobs' parts can be exported one by one, where [share] export says so", per_job, root=True),
)
