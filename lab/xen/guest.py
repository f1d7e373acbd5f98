"""What PV guests boot from: the busybox guest with Xen's drivers, on Debian's cloud kernel, as it is in dom0.

A directory with `disk.raw`, dom0's disk /srv/vmbatch/images, in which `busybox/` has `vmlinux`, `guest.cpio`, `initrd.cpio` and
`disk.raw` as the lab's other guests have them; `boot.raw` has kernel, initrd and GRUB's menu as well, `pvgrub` is GRUB for Xen.
"""

import shutil
from pathlib import Path

from .. import busybox, kernel
from ..image import MIB, cpio, partitioned_ext4
from ..initrd import initrd
from ..kit import install_kit
from ..package import fetch, resolve, unpack
from ..place import CLONE
from .dom0 import disk

INPUTS = [*busybox.INPUTS, *(CLONE / "lab/xen" / name for name in ("guest.py", "dom0.py"))]
MODULES = {
    "bus": ["xen_netfront", "xen_blkfront"],
    "medium": ["isofs"],
    "nfs": ["nfsv4"],
}
MENU = """set timeout=0
set default="0"
menuentry 'The kernel of the disk' {
	linux /boot/vmlinux root=/dev/xvda1 rw console=hvc0 quiet mitigations=off lab.menu=yes
	initrd /boot/initrd.cpio
}
"""
GUEST_SIZE, BOOT_SIZE = 128 * MIB, 256 * MIB
SPARE_MIB = 768
"""Room for what tests put beside the images."""


def build(directory: Path) -> None:
    """Fill `directory`."""
    linux = kernel.kernel()
    packages, tree, images = directory / "packages", directory / "tree", directory / "images"
    packages.mkdir()
    unpack(fetch(resolve(["busybox-static", "dropbear-bin", "bash"])), packages)
    busybox.make_tree(packages, tree)
    busybox.add_modules(linux, tree / "lib/modules", MODULES)
    install_kit(tree)
    guest = images / "busybox"
    guest.mkdir(parents=True)
    cpio(tree, guest / "guest.cpio")
    partitioned_ext4(tree, guest / "disk.raw", GUEST_SIZE)
    initrd(linux, packages / "bin/busybox", guest, ["xen_blkfront"])
    shutil.copy2(linux.vmlinux, guest / "vmlinux")
    bootable(tree, guest)
    pvgrub(guest / "pvgrub", directory / "grub")
    for path in guest.iterdir():
        path.chmod(0o444)
    used = sum(path.stat().st_size for path in guest.iterdir())
    disk(images, directory / "disk.raw", used + SPARE_MIB * MIB)
    for scratch in (packages, tree, images):
        shutil.rmtree(scratch)


def bootable(tree: Path, guest: Path) -> None:
    """The disk with what a boot loader looks for."""
    boot = tree / "boot"
    (boot / "grub").mkdir(parents=True)
    for name in ("vmlinux", "initrd.cpio"):
        shutil.copy2(guest / name, boot / name)
    (boot / "grub/grub.cfg").write_text(MENU)
    partitioned_ext4(tree, guest / "boot.raw", BOOT_SIZE)


def pvgrub(target: Path, scratch: Path) -> None:
    """Debian's image of GRUB for 64-bit PV guests."""
    scratch.mkdir()
    unpack(fetch(found for found in resolve(["grub-xen-host"]) if found.name == "grub-xen-host"), scratch)
    shutil.copy2(scratch / "usr/lib/grub-xen/grub-x86_64-xen.bin", target)
    shutil.rmtree(scratch)
