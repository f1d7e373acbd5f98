"""A job, a template, a configuration and facts to plan with."""

import msgspec

from vmbatch import config, template
from vmbatch.config import Config
from vmbatch.facts import Facts, Image
from vmbatch.image.terms import terms
from vmbatch.job import Group, Job, Script, User
from vmbatch.template import ImageSource, Template

TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105
OTHER_TOKEN = "fedcba9876543210fedcba9876543210"  # noqa: S105
ALICE = User("alice", 1500, Group("alice", 1500), (Group("physics", 1600), Group("grid", 1700)), "/home/alice", "/bin/bash")
SCRIPT = Script("/var/spool/torque/mom_priv/jobs/42.vm.SC", 1, 2, 3)
JOB = Job(
    id="42.vm",
    token=TOKEN,
    user=ALICE,
    name="first",
    queue="vm",
    account="",
    resources="nodes=1",
    script=SCRIPT,
    node_file="/var/spool/torque/aux//42.vm",
)
BASE = "/srv/images/base.raw"
GIB = 1 << 30
TEMPLATE = f"""<domain type='kvm'>
  <name>sample</name>
  <vbconfig><vbhypervisor>KVM</vbhypervisor></vbconfig>
  <memory unit='MiB'>512</memory>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='{BASE}' copy_method='cow'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <vbpreparecdrom source='context.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <interface type='network'><source network='default'/></interface>
    <interface type='network'><source network='default'/></interface>
  </devices>
</domain>
"""


def form(text: str = TEMPLATE) -> Template:
    return template.parse(text.encode(), "/etc/vmbatch/domains/sample.xml")


def settings(**changed: object) -> Config:
    return msgspec.structs.replace(config.parse(b"[share]\nsource = 'server:/share'\n", "vmbatch.conf"), **changed)


def job(**changed: object) -> Job:
    return msgspec.structs.replace(JOB, **changed)


def user(**changed: object) -> User:
    return msgspec.structs.replace(ALICE, **changed)


def facts(free: int = 100 * GIB, size: int = 2 * GIB, text: str = TEMPLATE, **changed: object) -> Facts:
    """The facts of a node on which every image of the template is there, with `size` bytes."""
    images = {
        tag.index: Image(tag.source.places[0], tag.source.format, size, size)
        for tag in form(text).disks
        if isinstance(tag.source, ImageSource) and not tag.source.remote
    }
    known = Facts(wishes={}, images=images, first={}, spool_free=free, scripts=(), programs={}, terms=terms(settings()))
    return msgspec.structs.replace(known, **changed)
