"""From job, template, configuration and facts to everything that will be done, decided and refused beforehand."""

import hashlib
import os
import uuid

import msgspec

from . import network, sshargs
from .config import Config
from .context.credentials import oem_strings
from .context.keys import HandoverKeys, Keys
from .context.parameters import hostname
from .contextplan import Context, Delivery
from .diskplan import Disks
from .errors import JobError, NodeError, SiteError
from .exchange.address import Address
from .exchange.meeting import Introduction
from .exchange.member import Member, short
from .exchange.place import GuestPlace
from .facts import Facts
from .grant import grant
from .host import file
from .hypervisor.domain import Domain
from .hypervisor.profile import Profile
from .job import Job
from .registry import HYPERVISORS
from .resource import Piece, Resource
from .spool.directory import Directory
from .staging import RECORD, Stage
from .template import DomainChange, Template, domain_xml


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


class StageFile(Piece, frozen=True, tag="stage-file"):
    """What the job's shell is to send and to fetch, in the hand-over `directory`, for the group `gid`."""

    directory: str
    stage: Stage
    gid: int

    def make(self, work: object) -> None:
        """Writes the file."""
        file.write_new(os.path.join(self.directory, RECORD), msgspec.json.encode(self.stage), 0o440, (0, self.gid))

    def __str__(self) -> str:
        return str(self.stage)


class Phase(msgspec.Struct, frozen=True):
    """Steps that are timed together."""

    name: str
    steps: tuple[Resource | Piece, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be made, in order, what is said of it, and what must be known to wait for the guest and to hand it over.

    `recorded`: the log at `console` is not written by the hypervisor, but from the console's pty, as long as the guest boots.
    """

    job: Job
    template: str
    phases: tuple[Phase, ...]
    domain: Domain
    xml: bytes
    inbox: str
    console: str
    recorded: bool
    handover: str
    alias: str
    notes: tuple[str, ...]
    macs: tuple[str, ...]
    delivery: Delivery | None
    console_shell: str
    messages: str


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
                        "the nodes of a job find each other by their host names; give the node one of both")
    return Member(directory=config.meeting, token=job.token, job=job.id, node=node, rank=job.rank,
                  name=hostname(config.guest_hostname, job), others=job.nodes[0 if job.rank else 1:], patience=patience)


def plan(job: Job, template: Template, config: Config, facts: Facts, met: Member | None = None) -> Plan:
    """Decides everything; `met` is this node's entry for the job's others. JobError, SiteError, NodeError for what cannot be."""
    check_user(job, config)
    if met is not None and template.console_shell:
        raise JobError(f"jobs on several nodes do not run in queue {job.queue}: its guests cannot reach each other",
                       "ask for one node")
    if template.messages == "SHARE" and not config.share_source and config.share_type.startswith("nfs"):
        raise SiteError("there is no share for guests: [share] source is empty", "set it to SERVER:/PATH in vmbatch.conf")
    hiding = next((tag for tag in template.shares if f"{config.share_mountpoint}/".startswith(f"{tag.target}/")), None)
    if hiding is not None and template.messages == "SHARE":
        raise SiteError(f"{template.path}:{hiding.line}: <vbshare target='{hiding.target}'> would hide [share] mountpoint = "
                        f"{config.share_mountpoint}", "give one of both another place")
    profile = HYPERVISORS.get(template.hypervisor)
    if profile is None:
        raise SiteError(f"{template.path}: no hypervisor {template.hypervisor or '(none)'}",
                        f"write one of {', '.join(HYPERVISORS)} in <vbhypervisor>")
    _check_connection(template, profile, config)
    granted = grant(job, template, config)
    spool, share, handover = names(job, config, facts.node)
    disks = Disks(job, template, profile, spool, config, facts)
    macs = _macs(template, job.token, profile.oui)
    addresses = tuple(Address(os.path.join(config.reservations, address), job.token, job.id, facts.node)
                      for interface in facts.addresses for address in interface)
    nets = network.nets(template.interfaces, macs, facts.addresses or ((),) * len(macs))
    context = Context(job, template, profile, spool, config, facts, nets, disks, party=met is not None)
    alias = f"vmbatch-{job.token[:16]}"
    domain = Domain(config.libvirt_uri, f"vmbatch-{job.slug}-{job.token[:8]}", str(uuid.UUID(hex=job.token, version=4)),
                    job.token, os.path.join(spool, "domain.xml"))
    console = os.path.join(spool, "console.log")
    keys = os.path.join(spool, "keys")
    place = os.path.join(share, "guest")
    xml = domain_xml(template, DomainChange(
        name=domain.name, uuid=domain.uuid, job=job.id, token=job.token, user=job.user.name, console=console,
        drivers=tuple(disks.drivers), shell_console=template.console_shell,
        kernel_words=context.kernel_words,
        channel=template.messages == "CHANNEL",
        directories=context.directories,
        oem_strings=tuple(oem_strings(facts.credentials)),
        macs=macs,
        disks=(*disks.changes, *context.changes),
        cores=granted.cores, memory=granted.memory,
    ))
    shared: tuple[Resource | Piece, ...] = ()
    if template.messages == "SHARE":
        owner = 0 if config.share_type == "virtiofs" else config.share_owner
        shared = (Directory(share, job.token, 0o711), GuestPlace(place, owner))
    own = Keys(keys, job.id)
    meeting = (Introduction(met, keys, job.nodes, job.node_file or ""),) if met is not None else ()
    phases = (
        Phase("addresses", addresses),
        Phase("disks", (Directory(spool, job.token, 0o711), *disks.steps)),
        Phase("meeting", (own, *meeting) if meeting else ()),
        Phase("context", (
            *(() if meeting else (own,)),
            *context.steps,
            *shared,
            Directory(handover, job.token, 0o711),
            HandoverKeys(keys, handover, alias, template.method != "ROOTSSH", job.user.uid, job.user.group.gid),
            *((StageFile(handover, granted.stage, job.user.group.gid),) if granted.stage and not job.rank else ()),
            DomainFile(domain.xml, xml),
        )),
        Phase("start", (domain,)),
    )
    return Plan(job=job, template=template.path, phases=tuple(phase for phase in phases if phase.steps), domain=domain, xml=xml,
                inbox=place, console=console, recorded=profile.xen, handover=handover, alias=alias,
                notes=(*granted.notes, *disks.notes), macs=macs, delivery=context.delivery,
                console_shell=template.console_shell, messages=template.messages)


def check_user(job: Job, config: Config) -> None:
    """JobError unless this site runs jobs of this user."""
    name = job.user.name
    if job.user.uid < config.users_minimum_uid or name in config.users_deny:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}", "ask the site's admins")
    if config.users_allow and name not in config.users_allow:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}: only those of {', '.join(config.users_allow)}")


def _check_connection(template: Template, profile: Profile, config: Config) -> None:
    """SiteError for a template that is not for the hypervisor of this node."""
    if profile.xen != (config.libvirt_uri.partition(":")[0].partition("+")[0] == "xen"):
        raise SiteError(f"{template.path} is for {profile.name}, and [libvirt] uri = {config.libvirt_uri}",
                        "for Xen's templates it is xen:///system, for QEMU's and KVM's qemu:///system")
    if profile.xen and template.messages == "SHARE" and not config.share_type.startswith("nfs"):
        raise SiteError(f"[share] type = {config.share_type} needs QEMU or KVM, and {template.path} is for {profile.name}",
                        "use type = \"nfs4\" or \"nfs\"")


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
    for phase in chosen.phases:
        lines.append(f"{phase.name}:")
        lines.extend(f"  {step}" for step in phase.steps)
    lines[0:0] = [f"note: {note}" for note in chosen.notes]
    if chosen.delivery is not None:
        lines.append(f"boot: {chosen.delivery}")
    lines.append("boot: wait for announce, log in as the submitting user, wait for ready")
    lines.append(f"hand over: {chosen.handover}/record")
    return lines
