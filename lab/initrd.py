"""The small initrd of the guests that have a root disk: loads virtio_blk, mounts root= (ext4) and hands over."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from .image import cpio
from .kernel import Kernel, copy_module
from .package import fetch, resolve, unpack
from .place import CLONE

HERE = CLONE / "lab"
INPUTS = [HERE / name for name in ("initrd.py", "image.py", "kernel.py", "package.py", "tree/initrd")]


def boot_files(linux: Kernel, directory: Path) -> None:
    """Write what such a guest boots by: `initrd.cpio` and `vmlinux`."""
    programs = directory / "programs"
    programs.mkdir()
    unpack(fetch(package for package in resolve(["busybox-static"]) if package.name == "busybox-static"), programs)
    initrd(linux, programs / "bin/busybox", directory)
    shutil.rmtree(programs)
    (directory / "vmlinux").hardlink_to(linux.vmlinux)


def initrd(linux: Kernel, busybox: Path, directory: Path, modules: Iterable[str] = ("virtio_pci", "virtio_blk")) -> None:
    """Write `initrd.cpio` into the directory; `busybox` is the static program, `modules` are what the root disk needs."""
    tree = directory / "initrd"
    shutil.copytree(HERE / "tree/initrd", tree)
    for name in ("bin", "dev", "proc", "root"):
        (tree / name).mkdir()
    shutil.copy2(busybox, tree / "bin/busybox")
    for applet in ("sh", "cat", "insmod", "mount", "sleep", "switch_root"):
        (tree / "bin" / applet).symlink_to("busybox")
    copy_modules(linux, modules, tree / "modules")
    cpio(tree, directory / "initrd.cpio")
    shutil.rmtree(tree)


def copy_modules(linux: Kernel, names: Iterable[str], target: Path) -> None:
    """The modules and all they need, and a file `order` with their file names in the order of loading."""
    modules = linux.files(names)
    for module in modules:
        copy_module(module, target / module.name)
    (target / "order").write_text("".join(f"{module.name}\n" for module in modules))
