"""From a template's method and the facts to how a guest gets its context: media, files in its disk, or root's ssh."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from . import network
from .config import Config
from .context import kernelline
from .context.access import access
from .context.content import Content
from .context.medium import Medium
from .context.parameters import parameters, share_tag
from .diskplan import Disks
from .facts import Facts
from .hypervisor.profile import Profile
from .job import Job
from .network import Net
from .resource import Piece
from .template import LABELS, DiskChange, MediumTag, NodeDirectory, Template

if TYPE_CHECKING:
    from .guestdisk.inject import Target
    from .host.rootssh import RootAccess

_TAG = "vmbatch"
"""By which a guest mounts its own directory of a share that has no server."""


class Delivery(msgspec.Struct, frozen=True):
    """A context that goes into the running guest; `address` is '' where libvirt must say it."""

    content: Content
    access: RootAccess
    address: str

    def __str__(self) -> str:
        return f"send the context by root's ssh to {self.address or 'the address that libvirt knows'} ({self.content})"


class Context:
    """`steps` before the guest starts, in their order, and `changes` for its domain; `given` is for one that has waited.

    SiteError for what cannot be.
    """

    def __init__(self, job: Job, template: Template, profile: Profile, spool: str, config: Config, facts: Facts,
                 nets: tuple[Net, ...], disks: Disks, *, party: bool = False, nobody: bool = False) -> None:
        """With `nobody` of a guest that is to wait until it is somebody's; one that has waited gets `given`."""
        self.steps: list[Piece] = []
        self.changes: list[DiskChange] = []
        self._template = template
        self._profile = profile
        self._spool = spool
        self._nets = nets
        self._facts = facts
        by_qemu = config.share_type in ("virtiofs", "9p")
        source = _TAG if by_qemu else f"{config.share_source.rstrip('/')}/{job.unique_on(facts.node)}/guest"
        if template.messages != "SHARE":
            source = ""
        self.directories = tuple(NodeDirectory(share.kind, share.source, share_tag(number), share.readonly)
                                 for number, share in enumerate(template.shares) if share.of_node)
        if by_qemu and source:
            place = os.path.join(config.share_directory, job.unique_on(facts.node), "guest")
            self.directories += (NodeDirectory(config.share_type, place, _TAG, False),)
        self._content = Content(
            parameters=parameters(job, template, config, source, nobody=nobody) | network.parameters(nets),
            keys=os.path.join(spool, "keys"), host_key=template.method != "ROOTSSH" and not job.pooled,
            script=job.script, node_file=job.node_file, archives=template.archives, scripts=facts.scripts,
            party=party, seed=facts.saved is not None, kit=not job.pooled, nobody=nobody)
        self.given = self._content if job.pooled else None
        self.delivery: Delivery | None = None
        self.kernel_words = ""
        if template.kernel_line:
            self.kernel_words = " ".join((kernelline.kernel_words(self._content.parameters), *network.kernel_words(nets)))
        if template.rootssh is not None:
            self.kernel_words = f"vbcontext=ssh {self.kernel_words}".strip()
        if template.method == "CDROM":
            self._media(disks)
        if template.method == "DISK":
            self._injection(config, disks)
        if template.rootssh is not None:
            own = next((address for net in nets for address in (net.address4, net.address6) if address), "")
            self.delivery = Delivery(self._content, access(template.rootssh), own.partition("/")[0])

    def _media(self, disks: Disks) -> None:
        for tag in self._template.disks:
            if tag.medium is not None:
                path = os.path.join(self._spool, tag.medium.name)
                label = tag.medium.label or LABELS[tag.medium.form]
                self.steps.append(Medium(path, label, self._in_form(tag.medium, label)))
                self.changes.append(DiskChange(tag.index, path, "raw", None, driver=disks.driver(tag, "raw"),
                                               device=disks.device(tag, "raw")))

    def _injection(self, config: Config, disks: Disks) -> None:
        from .guestdisk.inject import Injection

        root, jobs = (self._target(name, disks) for name in ("rootdisk", "jobdisk"))
        if root is not None:
            tags = self._template.guest_disks
            device = f"/dev/{tags['jobdisk'].device}" if jobs is not None else ""
            self.steps.append(Injection(self._content, root, jobs, device, tags["rootdisk"].init, self._spool,
                                        config.images_account, config.guest_appliance, self._template.type != "kvm"))

    def _target(self, name: str, disks: Disks) -> Target | None:
        from .guestdisk.inject import Target

        tag = self._template.guest_disks.get(name)
        if tag is None:
            return None
        path, form, backing = disks.made[tag.index]
        return Target(path, form, backing, tag.partition, tag.volume, tag.trusted and tag.index not in self._facts.wishes,
                      f"{self._template.path}:{tag.line}: {name} {tag.device}{tag.volume and ' ' + tag.volume}")

    def _in_form(self, medium: MediumTag, label: str) -> Content:
        """The content with what the medium's form adds."""
        if medium.form == "vmbatch":
            return self._content
        from .context import forms

        more = forms.entries(medium.form, self._content.parameters, label, self._nets, self._facts.user_data.get(medium.name))
        return msgspec.structs.replace(self._content, more=more)
