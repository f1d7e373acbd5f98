"""What PV guests boot from: the busybox guest with Xen's drivers, on Debian's cloud kernel, as it is in dom0.

A directory with `disk.raw`, dom0's disk /srv/vmbatch/images, in which `busybox/` has `vmlinux`, `guest.cpio`, `initrd.cpio` and
`disk.raw` as the lab's other guests have them.
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
GUEST_SIZE = 128 * MIB
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
    for path in guest.iterdir():
        path.chmod(0o444)
    used = sum(path.stat().st_size for path in guest.iterdir())
    disk(images, directory / "disk.raw", used + SPARE_MIB * MIB)
    for scratch in (packages, tree, images):
        shutil.rmtree(scratch)
