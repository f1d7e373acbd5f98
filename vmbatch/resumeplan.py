"""The part of the plan that is about saved guests: how a job's guest goes on from one, and how one is made."""

import os
import uuid

import msgspec

from .config import Config
from .context.credentials import oem_strings
from .context.waiting import WaitingMedium
from .disk.overlay import Overlay
from .disk.rebase import Rebase
from .diskplan import Disks
from .facts import Facts
from .format.name import Form
from .hypervisor.domain import Domain, Restore
from .hypervisor.profile import Profile
from .image.saved import Frozen, Saved, Shape, place
from .job import Job
from .resource import Piece, Resource
from .spool.directory import Directory
from .template import LABELS, DiskChange, DomainChange, InterfaceChange, Template, added_xml, domain_xml, resumed_xml

_FORM = Form("", "qcow2")


class Resumption(msgspec.Struct, frozen=True):
    """How a guest goes on from a saved one: `steps` make its disks, `texts` are files for `restore`, by their paths.

    `instead` is what a guest that is booted after all needs in place of `steps`' last ones.
    """

    steps: tuple[Resource | Piece, ...]
    texts: tuple[tuple[str, bytes], ...]
    restore: Restore
    instead: tuple[Piece, ...]


def resumption(template: Template, profile: Profile, disks: Disks, spool: str, xml: bytes, change: DomainChange,
               saved: Saved) -> Resumption:
    """Of a job's guest, which booted would have the domain `xml`, made by `change`."""
    frozen = {disk.index: disk for disk in saved.record.disks}
    changes = {disk.index: disk for disk in change.disks if template.disks[disk.index].medium is None}
    overlays: list[Piece] = []
    for index, disk in frozen.items():
        target = template.disks[index].target
        below = disks.hold(saved.disk(disk), f"{target}.saved")
        path = os.path.join(spool, f"{target}.resumed.qcow2")
        overlays.append(Overlay(path, _FORM, "", below, disk.format, disk.size))
        changes[index] = msgspec.structs.replace(
            changes[index], path=path, format=profile.drivers["qcow2"], backing=(below, profile.drivers[disk.format]),
            deeper=changes[index].backing)
    instead = tuple(disks.own[index] for index in frozen)
    texts = {os.path.join(spool, "resumed.xml"): resumed_xml(saved.record.domain, template, change, tuple(changes.values()))}
    added = added_xml(xml, template, saved.record.places)
    for number, device in enumerate(added):
        texts[os.path.join(spool, f"device-{number}.xml")] = device
    paths = tuple(texts)
    return Resumption(
        steps=(*(step for step in disks.steps if step not in instead), *overlays), texts=tuple(texts.items()),
        restore=Restore(saved.memory, paths[0], paths[1:]), instead=instead)


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """How a guest is saved: `directory` is the start's own, in which `made` becomes the saved guest with its `disks`.

    `layout` is the domain with all devices, which never runs. `after` it was saved its overlays are told that an image of the
    store is beside them, as it will be for each job: the name that this start gives it goes with the start.
    """

    directory: Directory
    made: str
    steps: tuple[Resource | Piece, ...]
    layout: bytes
    domain: Domain
    console: str
    after: tuple[Piece, ...]
    disks: tuple[Frozen, ...]
    ready: str


def saving(job: Job, template: Template, profile: Profile, config: Config, facts: Facts, shape: Shape) -> Saving:
    """SiteError, NodeError for what cannot be."""
    ready = place(config.images_directory, shape.key)
    making = f"{ready}.making"
    made, console = os.path.join(making, "guest"), os.path.join(making, "console.log")
    disks = Disks(job, template, profile, made, config, facts)
    medium = next(tag for tag in template.disks if tag.medium is not None)
    iso = os.path.join(making, "waiting.iso")
    domain = Domain(config.libvirt_uri, f"vmbatch-{job.slug}-{job.token[:8]}", str(uuid.UUID(hex=job.token, version=4)),
                    job.token, os.path.join(making, "domain.xml"))
    count = len(template.root.findall("devices/interface"))
    layout = domain_xml(template, DomainChange(
        name=domain.name, uuid=domain.uuid, job=job.id, token=job.token, user=job.user.name, console=console,
        drivers=tuple(disks.drivers), shell_console=template.console_shell, kernel_words="",
        channel=template.messages == "CHANNEL", directories=(), oem_strings=tuple(oem_strings(facts.credentials)),
        interfaces=tuple(InterfaceChange(_mac(profile, job.token, number)) for number in range(count)),
        disks=(*disks.changes, DiskChange(medium.index, iso, "raw", None, driver=disks.driver(medium, "raw")))))
    frozen = tuple(Frozen(index, os.path.basename(path), form, disks.sizes[index]) for index, (path, form, _below)
                   in disks.made.items() if index in disks.own)
    return Saving(
        directory=Directory(making, job.token, 0o711), made=made,
        steps=(*disks.steps, WaitingMedium(iso, LABELS["vmbatch"], job.token)),
        layout=layout, domain=domain, console=console, after=tuple(
            Rebase(path, template.disks[index].target, profile.drivers[below[1]])
            for index, (path, form, below) in disks.made.items() if below and form == "qcow2" and facts.images[index].stored),
        disks=frozen, ready=ready)


def _mac(profile: Profile, token: str, number: int) -> str:
    """Of an interface that is only laid out."""
    return ":".join(f"{byte:02x}" for byte in (*profile.oui, *bytes.fromhex(token)[:2], number))
