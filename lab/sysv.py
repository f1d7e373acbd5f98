"""The guest with SysV init: Debian with sysvinit-core, insserv, ifupdown, OpenSSH and an NFS client; no udev, no Python.

A directory with `vmlinux`, `initrd.cpio`, `disk.raw` (MBR, ext4 in the first partition: root=/dev/vda1) without the product's
kit, and `kit.raw`, the same disk with it. As in `debian`, what the maintainer scripts would have done is done here; boot scripts
are ordered by the guest's own insserv. The guest has no key, but for root's if the kernel's command line has lab.rootkey=BASE64.
"""

import shutil
import tomllib
from pathlib import Path
from typing import Any

from . import kernel
from .base import base_files
from .debian import HERE, add_modules, make_accounts, merge_usr
from .image import MIB, partitioned_ext4
from .initrd import INPUTS as INITRD_INPUTS
from .initrd import boot_files
from .kit import KIT, install_kit
from .package import fetch, resolve, unpack
from .process import run

CONTENT = HERE / "sysv-guest.toml"
_FILES = ("base.py", "debian.py", "sysv.py", "sysv-guest.toml", "tree/sysv", "tree/debian")
INPUTS = [*INITRD_INPUTS, *(HERE / name for name in _FILES), KIT]
DISK_SIZE = 512 * MIB
_SHARED = ("etc/hostname", "etc/hosts", "etc/nsswitch.conf", "etc/pam.d", "etc/shells", "etc/ssh", "usr/local/sbin")
"""What the guest has as the full guest has it."""


def build(directory: Path) -> None:
    """Fill `directory`."""
    linux = kernel.kernel()
    content = tomllib.loads(CONTENT.read_text())
    tree = directory / "tree"
    make_tree(tree, content)
    add_modules(linux, content["modules"], tree)
    partitioned_ext4(tree, directory / "disk.raw", DISK_SIZE)
    install_kit(tree)
    partitioned_ext4(tree, directory / "kit.raw", DISK_SIZE)
    boot_files(linux, directory)
    for image in ("disk.raw", "kit.raw", "initrd.cpio", "vmlinux"):
        (directory / image).chmod(0o444)
    shutil.rmtree(tree)


def make_tree(tree: Path, content: dict[str, Any]) -> None:
    """The guest's file system, but for modules and kit."""
    merge_usr(tree)
    without = tuple(content["without"])
    unpack(fetch(package for package in resolve(content["packages"]) if not package.name.startswith(without)), tree)
    base_files(tree)
    for shared in _SHARED:
        _copy(HERE / "tree/debian" / shared, tree / shared)
    shutil.copytree(HERE / "tree/sysv", tree, dirs_exist_ok=True)
    make_accounts(tree, content["users"], content["groups"])
    shutil.copy2(tree / "usr/share/sysvinit/inittab", tree / "etc/inittab")
    (tree / "etc/mtab").symlink_to("../proc/self/mounts")
    run(["ldconfig", "-r", tree])
    enable_scripts(tree, content["enabled"])


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def enable_scripts(tree: Path, names: list[str]) -> None:
    """The runlevels' links and the dependencies that startpar reads, made of a script's header as by `update-rc.d NAME defaults`.

    The scripts that are not to run are removed: insserv takes what they provide for provided.
    """
    for script in (tree / "etc/init.d").iterdir():
        if script.name not in names and not script.is_symlink():
            script.unlink()
    run(["chroot", tree, "insserv", "-d", *names])
