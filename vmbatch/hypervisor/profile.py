"""What the hypervisors take, by the name that `vbhypervisor` gives them."""

import msgspec


class Profile(msgspec.Struct, frozen=True):
    """`overlay` is the format of copy-on-write images, `formats` are those a disk may have."""

    name: str
    overlay: str
    formats: tuple[str, ...]


QEMU = Profile("QEMU", "qcow2", ("raw", "qcow2"))
KVM = Profile("KVM", "qcow2", ("raw", "qcow2"))
TEST = Profile("TEST", "qcow2", ("raw", "qcow2"))
"""libvirt's test driver: domains that run nothing, for trying VmBatch itself."""
