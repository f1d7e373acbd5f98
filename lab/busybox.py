"""The small guest: busybox, dropbear and bash on the cloud kernel; boots in seconds under emulation.

A directory with `vmlinux`, `guest.cpio` (the whole guest as initramfs), `disk.raw` (the same tree as an MBR disk with
ext4 in its first partition) and `initrd.cpio` (what starts the disk: root=/dev/vda1).
"""

import re
import shutil
from pathlib import Path

from . import kernel
from .image import MIB, cpio, partitioned_ext4
from .initrd import INPUTS as INITRD_INPUTS
from .initrd import initrd
from .kit import KIT, install_kit
from .package import fetch, resolve, unpack
from .place import CLONE
from .process import run

HERE = CLONE / "lab"
INPUTS = [*INITRD_INPUTS, HERE / "busybox.py", HERE / "image.py", HERE / "tree/busybox", KIT]

DISK_SIZE = 256 * MIB
_PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearconvert", "usr/bin/dropbearkey", "bin/bash")
_EMPTY = (
    *("dev", "proc", "sys", "run", "mnt", "root", "home", "tmp", "var/log", "var/lib"),
    *("etc/dropbear", "etc/ssh", "lib/modules", "usr/lib", "lib64"),
)
MODULES = {
    "bus": ["virtio_pci"],
    "net": ["virtio_net"],
    "block": ["virtio_blk"],
    "console": ["virtio_console"],
    "rng": ["virtio_rng"],
    "scsi": ["virtio_scsi", "sr_mod"],
    "ide": ["ata_piix", "sr_mod"],
    "medium": ["isofs"],
    "nfs": ["nfsv4"],
}


def build(directory: Path) -> None:
    """Fill `directory`; the modes of the images allow reading only, as guests of several labs share them."""
    linux = kernel.kernel()
    packages = directory / "packages"
    tree = directory / "tree"
    packages.mkdir()
    unpack(fetch(resolve(["busybox-static", "dropbear-bin", "bash"])), packages)
    make_tree(packages, tree)
    add_modules(linux, tree / "lib/modules", MODULES)
    install_kit(tree)
    cpio(tree, directory / "guest.cpio")
    partitioned_ext4(tree, directory / "disk.raw", DISK_SIZE)
    initrd(linux, packages / "bin/busybox", directory)
    (directory / "vmlinux").hardlink_to(linux.vmlinux)
    for image in ("guest.cpio", "disk.raw", "initrd.cpio", "vmlinux"):
        (directory / image).chmod(0o444)
    shutil.rmtree(packages)
    shutil.rmtree(tree)


def make_tree(packages: Path, tree: Path) -> None:
    """The guest's file system, but for modules and kit."""
    shutil.copytree(HERE / "tree/busybox", tree, symlinks=True)
    for name in _EMPTY:
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "root").chmod(0o700)
    (tree / "etc/shadow").chmod(0o640)
    install_busybox(packages / "bin/busybox", tree)
    for program in _PROGRAMS:
        install_program(packages, program, tree)


def install_busybox(busybox: Path, tree: Path) -> None:
    """Busybox, and a link for each of its applets at the place that it names."""
    target = tree / "bin/busybox"
    target.parent.mkdir(exist_ok=True)
    shutil.copy2(busybox, target)
    for applet in run([busybox, "--list-full"]).split():
        link = tree / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")


def install_program(packages: Path, program: str, tree: Path) -> None:
    """A program of the unpacked packages, its loader and its libraries."""
    todo = [program]
    while todo:
        name = todo.pop()
        target = tree / name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(packages / name, target)
        said = run(["readelf", "-l", "-d", packages / name])
        todo += re.findall(r"interpreter: /(\S+?)\]", said)
        todo += [_library(packages, needed) for needed in re.findall(r"\(NEEDED\).*\[(\S+)\]", said)]


def _library(packages: Path, name: str) -> str:
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        if (packages / folder / name).exists():
            return f"{folder}/{name}"
    raise FileNotFoundError(f"library {name} is in none of the packages")


def add_modules(linux: kernel.Kernel, target: Path, groups: dict[str, list[str]]) -> None:
    """All modules side by side as NAME.ko, and for each group a file GROUP.order with the names in the order of loading."""
    for group, wanted in groups.items():
        names = []
        for file in linux.files(wanted):
            names.append(kernel.module_name(file.name))
            path = target / f"{names[-1]}.ko"
            if not path.exists():
                kernel.copy_module(file, path)
        (target / f"{group}.order").write_text("".join(f"{name}\n" for name in names))
