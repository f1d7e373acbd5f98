"""From job, template, configuration and facts to everything that will be done, decided and refused beforehand."""

import hashlib
import os
import uuid
from collections.abc import Iterator

import msgspec

from . import network, sshargs, trace
from .config import Config
from .context.content import Content
from .context.credentials import oem_strings
from .context.keys import HandoverKeys, Keys
from .context.parameters import hostname
from .contextplan import Context, Delivery
from .diskplan import Disks
from .errors import JobError, NodeError, SiteError
from .exchange.address import Address
from .exchange.export import Export
from .exchange.meeting import Introduction
from .exchange.member import Member, short
from .exchange.place import GuestPlace
from .exchange.volume import Volume
from .facts import Facts
from .grant import grant
from .guard import Guard, others, rules
from .host import file
from .hypervisor.domain import Domain
from .hypervisor.lease import DhcpLease, Room
from .hypervisor.netfilter import BridgePort, NetworkFilter
from .hypervisor.profile import Profile
from .hypervisor.watcher import Watcher
from .job import Job
from .network import Net
from .pins import Learning, Waiting
from .registry import HYPERVISORS
from .resource import Piece, Resource
from .spool.directory import Directory
from .staging import RECORD, Stage
from .template import (
    DomainChange,
    ImageSource,
    InterfaceChange,
    Template,
    domain_xml,
)


class DomainFile(Piece, frozen=True, tag="domain-file"):
    """The exact XML for libvirt, kept at `path`."""

    path: str
    xml: bytes

    def make(self, work: object) -> None:
        """Writes the file."""
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(self.xml)

    def __str__(self) -> str:
        return f"domain XML {self.path} ({len(self.xml)} bytes)"


class FilterFile(Piece, frozen=True, tag="filter-file"):
    """The rules of a network filter, kept at `path`."""

    path: str
    rules: str

    def make(self, work: object) -> None:
        """Writes the file."""
        file.write_new(self.path, self.rules.encode(), 0o600,)

    def __str__(self) -> str:
        return f"filter rules {self.path} ({len(self.rules)} bytes)"


class StageFile(Piece, frozen=True, tag="stage-file"):
    """What the job's shell is to send and to fetch, in the hand-over `directory`, for the group `gid`."""

    directory: str
    stage: Stage
    gid: int

    def make(self, work: object) -> None:
        """Writes the file."""
        file.write_new(os.path.join(self.directory, RECORD), msgspec.json.encode(self.stage), 0o440, (file.OWNER, self.gid))

    def __str__(self) -> str:
        return str(self.stage)


class Phase(msgspec.Struct, frozen=True):
    """Steps that are timed together."""

    name: str
    steps: tuple[Resource | Piece, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be made, in order, what is said of it, and what must be known to wait for the guest and to hand it over.

    `reservations` come first, and may fail with TakenError. `export` lacks the guest's address, and `address` is '' where only a
    DHCP server knows it. `waiting` are the interfaces that are closed until libvirt's DHCP has given them an address, `rooms` see
    to it that it can; `sealed`: beside what it gives there, and `addresses`, the guest has none. `learning` are those that open
    by themselves for what another DHCP server gives them.
    `forwarded` is the number of the interface in QEMU's user network, where that is the way to the guest.
    `instead` is what else must be made for a `domain` that is booted though it was to be restored.
    `given` is what a guest gets that has waited for its job.
    `recorded`: the log at `console` is not written by the hypervisor, but from the console's pty, as long as the guest boots.
    """

    job: Job
    template: str
    reservations: tuple[Resource, ...]
    phases: tuple[Phase, ...]
    domain: Domain
    instead: tuple[Piece, ...]
    xml: bytes
    inbox: str
    export: Export | None
    address: str
    console: str
    recorded: bool
    handover: str
    alias: str
    notes: tuple[str, ...]
    macs: tuple[str, ...]
    addresses: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    learning: tuple[Learning, ...]
    rooms: tuple[Room, ...]
    sealed: bool
    images: tuple[trace.Image, ...]
    delivery: Delivery | None
    console_shell: str
    messages: str
    forwarded: int | None
    given: Content | None = None


def names(job: Job, config: Config, node: str) -> tuple[str, str, str]:
    """Where a start has its own: (spool directory, directory on the share, which other nodes may share, hand-over directory)."""
    return (
        os.path.join(config.spool_directory, job.unique),
        os.path.join(config.share_directory, job.unique_on(node)),
        os.path.join(sshargs.HANDOVER, job.slug),
    )


def member(job: Job, config: Config, node: str, patience: float) -> Member | None:
    """The entry of this node, whose host name is `node`, where the nodes of a job meet; None for a job on one node. NodeError."""
    if job.rank == 0 and len(job.nodes) < 2:
        return None
    if job.rank == 0 and short(job.nodes[0]) != short(node):
        raise NodeError(f"the batch system calls this node {job.nodes[0]}, but its host name is {node}",
                        "the nodes of a job find each other by their host names; give the node one of both", code="VB608")
    return Member(directory=config.meeting, token=job.token, job=job.id, node=node, rank=job.rank,
                  name=hostname(config.guest_hostname, job), others=job.nodes[0 if job.rank else 1:], patience=patience)


def plan(job: Job, template: Template, config: Config, facts: Facts, met: Member | None = None, *, nobody: bool = False) -> Plan:
    """Decides everything; `met` is this node's entry for the job's others. JobError, SiteError, NodeError for what cannot be.

    With `nobody` a guest that is to wait for a job, and nothing that is a job's. Of a job that is `pooled` only that.
    """
    if not nobody:
        check_user(job, config)
    if met is not None and template.console_shell:
        raise JobError(f"jobs on several nodes do not run in queue {job.queue}: its guests cannot reach each other",
                       "ask for one node", code="VB208")
    if template.messages == "SHARE" and not config.share_source and config.share_type.startswith("nfs"):
        raise SiteError("there is no share for guests: [share] source is empty", "set it to SERVER:/PATH in vmbatch.conf",
                        code="VB605")
    hiding = next((tag for tag in template.shares if f"{config.share_mountpoint}/".startswith(f"{tag.target}/")), None)
    if hiding is not None and template.messages == "SHARE":
        raise SiteError(f"{template.path}:{hiding.line}: <vbshare target='{hiding.target}'> would hide [share] mountpoint = "
                        f"{config.share_mountpoint}", "give one of both another place", code="VB605")
    profile = HYPERVISORS.get(template.hypervisor)
    if profile is None:
        raise SiteError(f"{template.path}: no hypervisor {template.hypervisor or '(none)'}",
                        f"write one of {', '.join(HYPERVISORS)} in <vbhypervisor>", code="VB105")
    _check_connection(template, profile, config)
    granted = grant(job, template, config)
    spool, share, handover = names(job, config, facts.node)
    disks = Disks(job, template, profile, spool, config, facts)
    macs = _macs(template, job.token, profile.oui)
    reservations = tuple(Address(os.path.join(config.reservations, address), job.token, job.id, facts.node)
                         for interface in facts.addresses for address in interface)
    nets = network.nets(template.interfaces, macs, facts.addresses or ((),) * len(macs))
    context = Context(job, template, profile, spool, config, facts, nets, disks, party=met is not None, nobody=nobody)
    alias = f"vmbatch-{job.token[:16]}"
    domain = Domain(config.libvirt_uri, f"vmbatch-{job.maker}-{job.token[:8]}", str(uuid.UUID(hex=job.token, version=4)),
                    job.token, os.path.join(spool, "domain.xml"), float(template.lifetime.shutdown))
    console = os.path.join(spool, "console.log")
    keys = os.path.join(spool, "keys")
    place = os.path.join(share, "guest")
    leases = tuple(_leases(template, config, facts, nets))
    guards = _guards(job, template, config, facts, nets, spool, met)
    change = DomainChange(
        name=domain.name, uuid=domain.uuid, job=job.id, token=job.token, user=job.user.name, console=console,
        drivers=tuple(disks.drivers), shell_console=template.console_shell,
        kernel_words=context.kernel_words,
        channel=template.messages == "CHANNEL" or nobody,
        directories=context.directories,
        oem_strings=tuple(oem_strings(facts.credentials)),
        interfaces=tuple(guards.changes),
        disks=(*disks.changes, *context.changes),
        cores=granted.cores, memory=granted.memory,
    )
    xml = domain_xml(template, change)
    resumed = None
    if facts.saved is not None:
        from .resumeplan import resumption

        resumed = resumption(template, profile, disks, spool, xml, change, facts.saved)
        domain = msgspec.structs.replace(domain, restore=resumed.restore)
    texts = ((domain.xml, xml), *(resumed.texts if resumed is not None else ()))
    shared, export = _shared(job, template, config, share) if template.messages == "SHARE" else ((), None)
    watcher = () if not template.lifetime.heartbeat else (Watcher(
        path=os.path.join(spool, "watch"), token=job.token, job=job.id, domain=domain, seconds=float(template.lifetime.heartbeat),
        place=place if template.messages == "SHARE" else "", local=config.share_local, handover=handover,
        log=config.log_directory),)
    own = Keys(keys, job.id)
    meeting = (Introduction(met, keys, job.nodes, job.node_file or ""),) if met is not None else ()
    of_job: tuple[Resource | Piece, ...] = () if nobody else (
        Directory(handover, job.token, 0o711),
        HandoverKeys(keys, handover, alias, template.method != "ROOTSSH", job.user.uid, job.user.group.gid),
        *((StageFile(handover, granted.stage, job.user.group.gid),) if granted.stage and not job.rank else ()),
    )
    phases = (Phase("context", (*of_job, *watcher)),) if job.pooled else (
        Phase("leases", leases),
        Phase("disks", (Directory(spool, job.token, 0o711), *(disks.steps if resumed is None else resumed.steps))),
        Phase("network filter", tuple(guards.steps)),
        Phase("meeting", (own, *meeting) if meeting else ()),
        Phase("context", (
            *(() if meeting else (own,)),
            *context.steps,
            *shared,
            *of_job,
            *(DomainFile(path, text) for path, text in texts),
        )),
        Phase("start", (*(() if nobody else watcher), domain, *guards.ports)),
    )
    notes = (*granted.notes, *disks.notes, *_unguarded(facts), *filter(None, (facts.booted,)))
    given = sum(net.method == "dhcp" for net in nets)
    own_addresses = tuple(address for interface in facts.addresses for address in interface)
    return Plan(job=job, template=template.path, reservations=() if job.pooled else reservations,
                phases=tuple(phase for phase in phases if phase.steps), domain=domain, xml=xml,
                inbox=place, export=export, address=next((net.address4.partition("/")[0] for net in nets if net.address4), ""),
                console=console, recorded=profile.xen, handover=handover, alias=alias,
                instead=() if resumed is None else resumed.instead,
                notes=notes, macs=macs, delivery=context.delivery,
                addresses=(facts.waited, *own_addresses) if job.pooled else own_addresses,
                waiting=() if job.pooled else tuple(guards.waiting), learning=() if job.pooled else tuple(guards.learning),
                rooms=tuple(step for step in leases if isinstance(step, Room)),
                sealed=bool(job.pooled) or (bool(guards.waiting) and len(guards.waiting) == given),
                images=tuple(_traced(template, facts)),
                console_shell=template.console_shell, messages="CHANNEL" if nobody or job.pooled else template.messages,
                forwarded=next((number for number, interface in enumerate(template.root.findall("devices/interface"))
                                if interface.get("type") == "user"), None), given=context.given)


def _leases(template: Template, config: Config, facts: Facts, nets: tuple[Net, ...]) -> Iterator[Resource | Piece]:
    """What becomes of the addresses that libvirt's own DHCP gives the guest."""
    asking: dict[str, tuple[str, ...]] = {}
    for interface, net in zip(template.interfaces, nets, strict=True):
        if net.method == "dhcp" and _served(interface.network, facts):
            asking[interface.network] = (*asking.get(interface.network, ()), net.mac)
    for name, macs in asking.items():
        found = facts.networks[name]
        yield Room(config.libvirt_uri, found, macs, facts.pinned)
        yield from (DhcpLease(config.libvirt_uri, name, found.bridge, found.server, mac) for mac in macs)


def _served(name: str, facts: Facts) -> bool:
    """Whether a network has a DHCP server of libvirt's own."""
    found = facts.networks.get(name)
    return found is not None and found.bridge != "" and found.server != ""


def _shared(job: Job, template: Template, config: Config, share: str) -> tuple[tuple[Resource | Piece, ...], Export | None]:
    """The job's directory on the share, and the guest's in it; how the guest is let in.

    A guest's root may give a file there any mode, and on NFS any owner but root: so either nobody of this node can enter the
    job's directory, or no mode counts there.
    """
    place = os.path.join(share, "guest")
    owner = config.share_owner
    if config.share_export != "none" and not config.share_type.startswith("nfs"):
        raise SiteError(f"[share] export is for NFS, and [share] type = {config.share_type}", "take one of both out",
                        code="VB605")
    if config.share_export == "none" and config.share_type.startswith("nfs"):
        return (Directory(share, job.token, 0o710, owner, distant=True), GuestPlace(place, owner)), None
    if config.share_type == "virtiofs":
        return (Directory(share, job.token, 0o700), Volume(place, job.token, config.share_limit, 0, 0)), None
    if config.share_type == "9p":
        return (Directory(share, job.token, 0o711), Volume(place, job.token, config.share_limit, owner, owner)), None
    if config.share_source.partition(":/")[2] != config.share_directory.removeprefix("/"):
        raise SiteError(f"[share] export shows guests {config.share_directory}, and they would mount {config.share_source}",
                        f"set source to SERVER:{config.share_directory}", code="VB605")
    uid, gid = job.user.uid, job.user.group.gid
    identity = str(uuid.UUID(hex=job.token, version=4))
    return ((Directory(share, job.token, 0o711), Volume(place, job.token, config.share_limit, uid, gid)),
            Export(place, job.token, "", identity, uid, gid))


class _Guards(msgspec.Struct):
    """What each interface of the domain gets, the steps that make the filters, and what is done once the guest runs."""

    changes: list[InterfaceChange] = []
    steps: list[Resource | Piece] = []
    ports: list[BridgePort] = []
    waiting: list[Waiting] = []
    learning: list[Learning] = []


def _guards(job: Job, template: Template, config: Config, facts: Facts, nets: tuple[Net, ...], spool: str,
            met: Member | None) -> _Guards:
    """The guests of one job reach each other."""
    found = _Guards()
    for number, (interface, net) in enumerate(zip(template.interfaces, nets, strict=True)):
        if not (config.network_filter and interface.guarded) or interface.network in facts.around.no_bridge:
            found.changes.append(InterfaceChange(net.mac))
            continue
        dhcp, served = net.method == "dhcp", _served(interface.network, facts)
        static = (net.address4.partition("/")[0],) if net.address4 else ()
        peers = interface.peers or met is not None
        guests = facts.around.guests[number] if facts.around.guests and not peers else ()
        guard = Guard(net.mac, static, net.address6.partition("/")[0], dhcp, facts.around.node,
                      others((*config.network_closed, *guests), facts.around.node), config.network_services,
                      facts.around.replies, learns=dhcp and not served)
        made = NetworkFilter(job.token, number, os.path.join(spool, f"filter-{number}.nft"))
        found.steps += [FilterFile(made.rules, rules(made.port, guard)), made]
        if dhcp and served:
            found.waiting.append(Waiting(config.libvirt_uri, facts.networks[interface.network], guard, made))
        elif dhcp:
            found.learning.append(Learning(guard, made))
        found.ports.append(BridgePort(made.port.interface, isolated=not peers))
        found.changes.append(InterfaceChange(net.mac, made.port.interface, isolated=not peers))
    return found


def _unguarded(facts: Facts) -> list[str]:
    return [f"no filter guards the network {name}: it is no bridge of Linux's" for name in sorted(facts.around.no_bridge)]


def _traced(template: Template, facts: Facts) -> Iterator[trace.Image]:
    """What the disks are made from; of what is downloaded for this job alone, the digest that it must have."""
    for tag in template.disks:
        image, source = facts.images.get(tag.index), facts.wishes.get(tag.index, tag.source)
        if image is not None:
            yield trace.Image(tag.target, image.origin or image.path, image.digest, image.modified)
        elif isinstance(source, ImageSource):
            checksum = source.checksum
            yield trace.Image(tag.target, source.places[0], "" if checksum is None else f"{checksum.function}:{checksum.value}")


def check_user(job: Job, config: Config) -> None:
    """JobError unless this site runs jobs of this user."""
    name = job.user.name
    if job.user.uid < config.users_minimum_uid or name in config.users_deny:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}", "ask the site's admins", code="VB206")
    if config.users_allow and name not in config.users_allow:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}: only those of {', '.join(config.users_allow)}",
                       code="VB206")


def _check_connection(template: Template, profile: Profile, config: Config) -> None:
    """SiteError for a template that is not for the hypervisor of this node."""
    if profile.xen != (config.libvirt_uri.partition(":")[0].partition("+")[0] == "xen"):
        raise SiteError(f"{template.path} is for {profile.name}, and [libvirt] uri = {config.libvirt_uri}",
                        "for Xen's templates it is xen:///system, for QEMU's and KVM's qemu:///system", code="VB105")
    if profile.xen and template.messages == "SHARE" and not config.share_type.startswith("nfs"):
        raise SiteError(f"[share] type = {config.share_type} needs QEMU or KVM, and {template.path} is for {profile.name}",
                        "use type = \"nfs4\" or \"nfs\"", code="VB605")


def _macs(template: Template, token: str, oui: tuple[int, int, int]) -> tuple[str, ...]:
    """A MAC for each interface: the template's own where it has one, else made from the token, in the hypervisor's range."""
    found = []
    for number, interface in enumerate(template.root.findall("devices/interface")):
        fixed = interface.find("mac")
        digest = hashlib.sha256(f"{token}/{number}".encode()).digest()
        made = ":".join(f"{byte:02x}" for byte in (*oui, *digest[:3]))
        found.append((None if fixed is None else fixed.get("address")) or made)
    return tuple(found)


def preview(chosen: Plan) -> list[str]:
    """Every step in words, for people."""
    lines = []
    for phase in (Phase("addresses", chosen.reservations), *chosen.phases) if chosen.reservations else chosen.phases:
        lines.append(f"{phase.name}:")
        lines.extend(f"  {step}" for step in phase.steps)
    lines[0:0] = [f"note: {note}" for note in chosen.notes]
    if chosen.delivery is not None:
        lines.append(f"boot: {chosen.delivery}")
    lines.append("boot: wait for announce, log in as the submitting user, wait for ready")
    lines.append(f"hand over: {chosen.handover}/record")
    return lines
