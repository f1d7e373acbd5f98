"""The members of each family, in plain sight: adding one is a module and a line here."""

from collections.abc import Callable

import msgspec

from .batch import server
from .batch.local import Local
from .batch.openpbs import OpenPBS
from .batch.slurm import Slurm
from .batch.slurm import exit_status as slurm_exit_status
from .batch.system import Call, System
from .batch.torque import Torque, exit_status
from .claim import Claim
from .config import Config
from .exchange.address import Address
from .exchange.export import Export
from .exchange.member import Member
from .exchange.volume import Volume
from .hypervisor import profile
from .hypervisor.domain import Domain
from .hypervisor.lease import DhcpLease
from .hypervisor.netfilter import NetworkFilter
from .hypervisor.profile import Profile
from .hypervisor.watcher import Watcher
from .job import Job
from .resource import Resource
from .spool.directory import Directory
from .spool.first import FirstFill

HYPERVISORS: dict[str, Profile] = {
    each.name: each for each in (profile.QEMU, profile.KVM, profile.XEN, profile.XEN3, profile.XEN4, profile.TEST)
}

BATCH: dict[str, System] = {"torque": Torque(), "openpbs": OpenPBS(), "slurm": Slurm(), "local": Local()}

ASK: dict[str, Callable[[Call, Job, Config], Job]] = {"torque": server.ask}
"""Of batch systems whose server knows more of a job than its hooks are told."""

EXIT_STATUS: dict[str, Callable[[Call], int | None]] = {
    "torque": exit_status, "openpbs": exit_status, "slurm": slurm_exit_status,
}
"""Of batch systems whose epilogue is told how the job ended."""

KINDS: tuple[type[Resource], ...] = (
    Directory, Domain, FirstFill, Address, DhcpLease, Member, NetworkFilter, Volume, Export, Watcher, Claim)

_Kind = Directory | Domain | FirstFill | Address | DhcpLease | Member | NetworkFilter | Volume | Export | Watcher | Claim
_decoder: msgspec.json.Decoder[_Kind] = msgspec.json.Decoder(_Kind)


def resource(record: bytes) -> Resource:
    """A journal line as the resource it stands for. msgspec.DecodeError, msgspec.ValidationError."""
    return _decoder.decode(record)
