"""The small initrd of the guests that have a root disk: loads virtio_blk, mounts root= (ext4) and hands over."""

import shutil
from pathlib import Path

from .image import cpio
from .kernel import Kernel, copy_module
from .place import CLONE

HERE = CLONE / "lab"
INPUTS = [HERE / name for name in ("initrd.py", "image.py", "kernel.py", "package.py", "tree/initrd")]


def initrd(linux: Kernel, busybox: Path, directory: Path) -> None:
    """Write `initrd.cpio` into the directory; `busybox` is the static program."""
    tree = directory / "initrd"
    shutil.copytree(HERE / "tree/initrd", tree)
    for name in ("bin", "dev", "proc", "root"):
        (tree / name).mkdir()
    shutil.copy2(busybox, tree / "bin/busybox")
    for applet in ("sh", "cat", "insmod", "mount", "sleep", "switch_root"):
        (tree / "bin" / applet).symlink_to("busybox")
    modules = linux.files(["virtio_pci", "virtio_blk"])
    for module in modules:
        copy_module(module, tree / "modules" / module.name)
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    cpio(tree, directory / "initrd.cpio")
    shutil.rmtree(tree)
