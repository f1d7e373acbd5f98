"""From job, template, configuration and facts to everything that will be done, decided and refused beforehand."""

import hashlib
import os
import uuid

import msgspec

from . import sshargs
from .config import Config
from .context.keys import HandoverKeys, Keys
from .context.medium import Medium
from .context.parameters import parameters
from .disk.duplicate import Duplicate
from .disk.image import Image
from .disk.overlay import Overlay
from .errors import JobError, NodeError, SiteError
from .exchange.place import GuestPlace
from .hypervisor.domain import Domain
from .job import Job
from .registry import HYPERVISORS
from .resource import Piece, Resource
from .spool.directory import Directory
from .template import DiskChange, DiskTag, DomainChange, ImageSource, Template, domain_xml
from .units import format_size


class Facts(msgspec.Struct, frozen=True):
    """What planning must know of the node: images by path, bytes free in the spool, the site's scripts (name, path)."""

    images: dict[str, Image]
    spool_free: int
    scripts: tuple[tuple[str, str], ...]


class DomainFile(Piece, frozen=True, tag="domain-file"):
    """The exact XML for libvirt, kept at `path`."""

    path: str
    xml: bytes

    def make(self, deadline: object) -> None:
        """Writes the file."""
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(self.xml)

    def __str__(self) -> str:
        return f"domain XML {self.path} ({len(self.xml)} bytes)"


class Phase(msgspec.Struct, frozen=True):
    """Steps that are timed together."""

    name: str
    steps: tuple[Resource | Piece, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be made, in order, and what must be known to wait for the guest and to hand it over."""

    job: Job
    template: str
    phases: tuple[Phase, ...]
    domain: Domain
    xml: bytes
    inbox: str
    console: str
    handover: str
    alias: str


def names(job: Job, config: Config) -> tuple[str, str, str]:
    """Where a start has its own: (spool directory, directory on the share, hand-over directory)."""
    return (
        os.path.join(config.spool_directory, job.unique),
        os.path.join(config.share_directory, job.unique),
        os.path.join(sshargs.HANDOVER, job.slug),
    )


def plan(job: Job, template: Template, config: Config, facts: Facts) -> Plan:
    """Decides everything. JobError, SiteError, NodeError for what cannot be."""
    _check_user(job, config)
    if not config.share_source:
        raise SiteError("there is no share for guests: [share] source is empty", "set it to SERVER:/PATH in vmbatch.conf")
    profile = HYPERVISORS.get(template.hypervisor)
    if profile is None:
        raise SiteError(f"{template.path}: no hypervisor {template.hypervisor or '(none)'}",
                        f"write one of {', '.join(HYPERVISORS)} in <vbhypervisor>")
    spool, share, handover = names(job, config)
    disks = [_disk(tag, tag.source, spool, facts) for tag in template.disks if tag.source is not None]
    _check_space([piece for _, piece in disks if piece is not None], config, facts)
    medium = next(tag for tag in template.disks if tag.medium is not None)
    medium_path = os.path.join(spool, medium.medium or "")
    alias = f"vmbatch-{job.token[:16]}"
    domain = Domain(config.libvirt_uri, f"vmbatch-{job.slug}-{job.token[:8]}", str(uuid.UUID(hex=job.token, version=4)),
                    job.token, os.path.join(spool, "domain.xml"))
    console = os.path.join(spool, "console.log")
    keys = os.path.join(spool, "keys")
    place = os.path.join(share, "guest")
    xml = domain_xml(template, DomainChange(
        name=domain.name, uuid=domain.uuid, job=job.id, token=job.token, user=job.user.name, console=console,
        macs=_macs(template, job.token),
        disks=(*(change for change, _ in disks), DiskChange(medium.index, medium_path, "raw", None)),
    ))
    source = f"{config.share_source.rstrip('/')}/{job.unique}/guest"
    phases = (
        Phase("disks", (Directory(spool, job.token, 0o711), *(piece for _, piece in disks if piece is not None))),
        Phase("context", (
            Keys(keys, job.id),
            Medium(medium_path, parameters(job, config, source), keys,
                   job.script, job.node_file, template.archives, facts.scripts),
            Directory(share, job.token, 0o711), GuestPlace(place, config.share_owner),
            Directory(handover, job.token, 0o711),
            HandoverKeys(keys, handover, alias, job.user.uid, job.user.group.gid),
            DomainFile(domain.xml, xml),
        )),
        Phase("start", (domain,)),
    )
    return Plan(job=job, template=template.path, phases=phases, domain=domain, xml=xml, inbox=place, console=console,
                handover=handover, alias=alias)


def _check_user(job: Job, config: Config) -> None:
    name = job.user.name
    if job.user.uid < config.users_minimum_uid or name in config.users_deny:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}", "ask the site's admins")
    if config.users_allow and name not in config.users_allow:
        raise JobError(f"jobs of {name} do not run in queue {job.queue}: only those of {', '.join(config.users_allow)}")


def _disk(tag: DiskTag, source: ImageSource, spool: str, facts: Facts) -> tuple[DiskChange, Piece | None]:
    """What becomes of a disk, and what has to be made for it; nothing for an image that jobs share read-only."""
    image = facts.images[source.path]
    path = os.path.join(spool, f"{tag.target}.{'qcow2' if source.method == 'cow' else source.format}")
    if source.method == "cow":
        change = DiskChange(tag.index, path, "qcow2", (source.path, source.format))
        return change, Overlay(path, source.path, source.format, image.size)
    if source.method == "copy":
        return DiskChange(tag.index, path, source.format, None), Duplicate(source.path, path)
    return DiskChange(tag.index, source.path, source.format, None, shared=True), None


def _check_space(pieces: list[Piece], config: Config, facts: Facts) -> None:
    needed = sum(facts.images[piece.source].file_size for piece in pieces if isinstance(piece, Duplicate))
    if needed > config.spool_job_limit:
        raise SiteError(f"the copies of the job's images take {format_size(needed)}, "
                        f"more than [spool] job_limit = {format_size(config.spool_job_limit)}", "use copy_method='cow'")
    if needed + config.spool_keep_free > facts.spool_free:
        raise NodeError(f"the spool {config.spool_directory} has {facts.spool_free >> 20} MiB free; the job's disks take "
                        f"{needed >> 20} MiB, and {config.spool_keep_free >> 20} MiB must remain")


def _macs(template: Template, token: str) -> tuple[str, ...]:
    """A MAC for each interface: the template's own where it has one, else made from the token, in QEMU's range."""
    found = []
    for number, interface in enumerate(template.root.findall("devices/interface")):
        fixed = interface.find("mac")
        digest = hashlib.sha256(f"{token}/{number}".encode()).digest()
        made = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *digest[:3]))
        found.append((None if fixed is None else fixed.get("address")) or made)
    return tuple(found)


def preview(chosen: Plan) -> list[str]:
    """Every step in words, for people."""
    lines = []
    for phase in chosen.phases:
        lines.append(f"{phase.name}:")
        lines.extend(f"  {step}" for step in phase.steps)
    lines.append("boot: wait for announce, log in as the submitting user, wait for ready")
    lines.append(f"hand over: {chosen.handover}/record")
    return lines
