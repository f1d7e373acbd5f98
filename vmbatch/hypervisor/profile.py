"""What the hypervisors take, by the name that `vbhypervisor` gives them."""

import msgspec


class Profile(msgspec.Struct, frozen=True):
    """`drivers` has libvirt's driver type for each format a disk may have, `overlays` are the formats for copy-on-write.

    `throwaway` are attributes of <driver> for disks that nobody needs after the job.
    """

    name: str
    driver: str
    drivers: dict[str, str]
    overlays: tuple[str, ...]
    throwaway: dict[str, str]


_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vpc", "vhd-fixed": "vpc"}
_THROWAWAY = {"cache": "unsafe", "discard": "unmap"}
"""`unsafe` ignores the guest's flushes: right for what ends with the guest, and the fastest there is."""

QEMU = Profile("QEMU", "qemu", _DRIVERS, ("qcow2", "qcow"), _THROWAWAY)
KVM = Profile("KVM", "qemu", _DRIVERS, ("qcow2", "qcow"), _THROWAWAY)
TEST = Profile("TEST", "qemu", _DRIVERS, ("qcow2", "qcow", "vhd"), _THROWAWAY)
"""libvirt's test driver: domains that run nothing, for trying VmBatch itself."""
