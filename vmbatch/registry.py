"""The members of each family, in plain sight: adding one is a module and a line here."""

import msgspec

from .batch.system import System
from .batch.torque import Torque
from .exchange.address import Address
from .hypervisor import profile
from .hypervisor.domain import Domain
from .hypervisor.profile import Profile
from .resource import Resource
from .spool.directory import Directory
from .spool.first import FirstFill

HYPERVISORS: dict[str, Profile] = {"QEMU": profile.QEMU, "KVM": profile.KVM, "TEST": profile.TEST}

BATCH: dict[str, System] = {"torque": Torque()}

KINDS: tuple[type[Resource], ...] = (Directory, Domain, FirstFill, Address)

_Kind = Directory | Domain | FirstFill | Address
_decoder: msgspec.json.Decoder[_Kind] = msgspec.json.Decoder(_Kind)


def resource(record: bytes) -> Resource:
    """A journal line as the resource it stands for. msgspec.DecodeError, msgspec.ValidationError."""
    return _decoder.decode(record)
