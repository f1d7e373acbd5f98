"""What the hypervisors take, by the name that `vbhypervisor` gives them."""

import msgspec

from ..format import FormatError

Drivers = dict[str, tuple[str, ...]]
"""The formats that each driver of disks opens, by the driver's name in libvirt's <driver name='...'>."""


class Profile(msgspec.Struct, frozen=True):
    """`type` is the domain's, `drivers` has libvirt's driver type for each format a disk may have, `overlays` are the formats for
    copy-on-write.

    `throwaway` are attributes of <driver> for disks that nobody needs after the job. `driver` opens all formats; `stated` are the
    drivers that a template may name and `here` those of them that today's hypervisor has; empty: `driver` alone is used, whatever
    the template names. `translates`: what is not here is replaced by what is, and said, instead of refused. `no_readonly`
    are drivers that open no disk for reading alone, but a CD. `oui` begins the MACs.
    """

    name: str
    type: str
    driver: str
    drivers: dict[str, str]
    overlays: tuple[str, ...]
    throwaway: dict[str, str]
    stated: Drivers = {}
    here: Drivers = {}
    translates: bool = False
    no_readonly: tuple[str, ...] = ()
    oui: tuple[int, int, int] = (0x52, 0x54, 0x00)

    @property
    def xen(self) -> bool:
        """Whether it is one of Xen's."""
        return self.type == "xen"

    def check_stated(self, stated: str, form: str) -> None:
        """FormatError unless a template for this hypervisor may name this driver with an image of this format."""
        if not self.stated or not stated:
            return
        if stated not in self.stated:
            raise FormatError(f"{self.name} has no disk driver {stated}", f"write one of {', '.join(self.stated)}{self._other()}")
        if form not in self.stated[stated]:
            raise FormatError(f"{self.name}'s disk driver {stated} does not open images in the format {form}",
                              f"it opens {', '.join(self.stated[stated])}{self._other()}")

    def _other(self) -> str:
        return "" if self.translates else f", such as <driver name='{self.driver}' type='raw'/>"

    def chosen(self, stated: str, form: str) -> tuple[str, str]:
        """(driver for a disk whose file has this format, a line for the log where it is not the stated one). FormatError."""
        if not self.here or form in self.here.get(stated, ()):
            return stated if self.here else self.driver, ""
        if form not in self.here[self.driver]:
            raise FormatError(f"no disk driver of today's libxl opens images in the format {form}",
                              "make another one of it, once: qemu-img convert -O qcow2")
        if not stated:
            return self.driver, ""
        why = "does not open that format" if stated in self.here else "is not in today's libxl"
        return self.driver, f"driver {self.driver} with type {self.drivers[form]} opens it: {stated} {why}"

    def device(self, driver: str) -> str:
        """The <disk device='...'> of a disk with <readonly/> for this driver, '' for the template's own."""
        return "cdrom" if driver in self.no_readonly else ""

    def overlay(self, wanted: str) -> tuple[str, str]:
        """(format of an overlay in place of the wanted one, a line for the log if it is another). FormatError."""
        if wanted in self.overlays:
            return wanted, ""
        best = self.overlays[0]
        if not self.translates:
            raise FormatError(f"{self.name} has no overlays in the format {wanted}",
                              f"write format='{best}', or leave format= out")
        return best, f"the overlay is {best}, as driver {self.driver} would not read the image below one in the format {wanted}"

    def blank(self, wanted: str) -> tuple[str, str]:
        """(format of an empty disk in place of the wanted one, a line for the log if it is another)."""
        if not self.translates or wanted in self.here.get(self.driver, ()):
            return wanted, ""
        return self.overlays[0], f"the empty disk is {self.overlays[0]}, as no driver of today's libxl opens {wanted}"


_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vpc", "vhd-fixed": "vpc"}
_THROWAWAY = {"cache": "unsafe", "discard": "unmap"}
"""`unsafe` ignores the guest's flushes: right for what ends with the guest, and the fastest there is."""

QEMU = Profile("QEMU", "qemu", "qemu", _DRIVERS, ("qcow2", "qcow"), _THROWAWAY)
KVM = Profile("KVM", "kvm", "qemu", _DRIVERS, ("qcow2", "qcow"), _THROWAWAY)
TEST = Profile("TEST", "test", "qemu", _DRIVERS, ("qcow2", "qcow", "vhd"), _THROWAWAY)
"""libvirt's test driver: domains that run nothing, for trying VmBatch itself."""

_XEN_TYPES = {**_DRIVERS, "vhd": "vhd", "vhd-fixed": "vhd"}
"""libxlMakeDisk (libvirt, src/libxl/libxl_conf.c) knows a VHD as `vhd`; with `vpc` it starts no guest."""
_RAW = ("raw",)
_LIBXL: Drivers = {"qemu": ("raw", "qcow2", "vhd", "vhd-fixed"), "phy": _RAW, "file": _RAW}
"""Today's: `qemu` and `file` are a process of QEMU's in dom0 (qdisk; Debian's build for Xen has no qcow), `phy` is the kernel.

Xen has removed blktap. A disk with <readonly/> makes QEMU 7.2's qdisk fail ("Block node is read-only"), a CD does not.
"""
_XEN_OUI = (0x00, 0x16, 0x3E)


def _xen(name: str, stated: Drivers, *, translates: bool) -> Profile:
    return Profile(name, "xen", "qemu", _XEN_TYPES, ("qcow2",), {}, stated, _LIBXL, translates, ("qemu", "file"), _XEN_OUI)


XEN = _xen("XEN", _LIBXL, translates=False)
XEN3 = _xen("XEN3", {**_LIBXL, "tap": ("raw", "qcow")}, translates=True)
"""As published for xend with blktap: copy-on-write by Xen's qcow."""
XEN4 = _xen("XEN4", {**_LIBXL, "tap": ("raw", "vhd", "vhd-fixed"), "tap2": ("raw", "vhd", "vhd-fixed")}, translates=True)
"""As published for blktap2: copy-on-write by VHD; the documentation's qcow never worked."""
