"""The small guest as its maker would give it away: busybox's init with boot scripts as Buildroot has them, and no product's kit.

A directory with `vmlinux`, `guest.cpio`, `disk.raw` (MBR, ext4 in the first partition: root=/dev/vda1) and `initrd.cpio`, as
`busybox` has them; and `tree.tar`, from which `disk` makes the same guest on other disks. It has a host key from its first
login on, and root's key if the kernel's command line has lab.rootkey=BASE64 (of an ed25519 key).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from . import busybox, kernel
from .busybox import DISK_SIZE, HERE
from .image import cpio, partitioned_ext4
from .initrd import initrd
from .kit import KIT
from .package import fetch, resolve, unpack
from .process import run

_SAY = HERE / "tree/debian/usr/local/sbin/lab-say"
_BASE = [path for path in busybox.INPUTS if path != KIT]
INPUTS = [*_BASE, HERE / "bare.py", HERE / "tree/bare", _SAY]
LVM_PACKAGES = ["busybox-static", "lvm2"]
"""Of the initrd of this guest on LVM: see `disk`."""
MODULES = [
    "virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "virtio_scsi", "sr_mod", "ata_piix", "isofs",
    "vfat", "nls_cp437", "nls_ascii", "nfsv3", "nfsv4", "virtiofs", "dmi_sysfs", "qemu_fw_cfg",
]


def build(directory: Path) -> None:
    """Fill `directory`. Disks may be made in the node, which has no way to a mirror: what they need more is fetched here."""
    fetch(resolve(LVM_PACKAGES))
    kernel.generic()
    linux = kernel.kernel()
    packages, tree = directory / "packages", directory / "tree"
    packages.mkdir()
    unpack(fetch(resolve(["busybox-static", "dropbear-bin", "bash"])), packages)
    make_tree(packages, tree)
    add_modules(linux, tree)
    cpio(tree, directory / "guest.cpio")
    partitioned_ext4(tree, directory / "disk.raw", DISK_SIZE)
    run(["tar", "-C", tree, "--sort=name", "-cf", directory / "tree.tar", "."])
    initrd(linux, packages / "bin/busybox", directory)
    (directory / "vmlinux").hardlink_to(linux.vmlinux)
    for image in ("guest.cpio", "disk.raw", "initrd.cpio", "tree.tar", "vmlinux"):
        (directory / image).chmod(0o444)
    shutil.rmtree(packages)
    shutil.rmtree(tree)


def make_tree(packages: Path, tree: Path) -> None:
    """As that of the busybox guest, but for the way it boots."""
    busybox.make_tree(packages, tree)
    for theirs in ("init", "sbin/init"):
        (tree / theirs).unlink()
    shutil.copytree(HERE / "tree/bare", tree, symlinks=True, dirs_exist_ok=True)
    (tree / "sbin/init").symlink_to("/bin/busybox")
    for phase in ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d"):  # else ifup complains
        (tree / "etc/network" / phase).mkdir()
    (tree / "var/run").symlink_to("../run")
    shutil.copy2(_SAY, tree / "usr/sbin/lab-say")


def add_modules(linux: kernel.Kernel, tree: Path, names: Sequence[str] = MODULES) -> None:
    """With the index that modprobe reads, so that the kernel loads what a mount asks for."""
    target = tree / "lib/modules" / linux.version
    for file in linux.files(names):
        kernel.copy_module(file, target / file.relative_to(linux.modules))
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy2(linux.modules / index, target / index)
    run(["depmod", "-b", tree, linux.version])
