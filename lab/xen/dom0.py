"""The outer machine's disk and kernels: Xen, and a Debian dom0 with libvirt's Xen driver, an NFS server and DHCP.

A directory with `xen.elf`, `vmlinux` and `initrd.cpio` (what QEMU loads), `disk.raw` (dom0's ext4 root) and `key` (root's way in
by ssh; `host_key.pub` is the other side's). As in the lab's guests the packages are only unpacked.
"""

import gzip
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

from .. import kernel
from ..base import base_files
from ..debian import add_modules, compile_python, make_accounts, merge_usr
from ..image import MIB, cpio
from ..init import GROUPS, USERS, append
from ..initrd import copy_modules
from ..package import fetch, resolve, unpack
from ..place import CLONE
from ..process import run

HERE = CLONE / "lab"
CONTENT = HERE / "xen/dom0.toml"
INPUTS = [
    *(HERE / name for name in ("base.py", "debian.py", "image.py", "initrd.py", "kernel.py", "package.py")),
    HERE / "xen/dom0.py", CONTENT, HERE / "tree/dom0", HERE / "tree/initrd-dom0",
]
DISK_SIZE = 2048 * MIB
_DRIVERS = Path("usr/lib/x86_64-linux-gnu/libvirt/connection-driver")
_EMPTY = (
    *("dev", "proc", "sys", "run", "tmp", "root/.ssh", "var/log/libvirt", "var/log/xen/console", "var/lib/nfs/v4recovery"),
    *("var/lib/nfs/sm", "var/lib/xen", "var/lib/libvirt", "var/tmp", "etc/exports.d", "srv/vmbatch/share", "srv/vmbatch/images"),
    *("srv/vmbatch/software", "etc/vmbatch", "var/spool/torque"),
)


def build(directory: Path) -> None:
    """Fill `directory`."""
    content = tomllib.loads(CONTENT.read_text())
    linux = kernel.generic()
    tree = directory / "tree"
    make_tree(tree, content)
    add_modules(linux, content["modules"], tree)
    make_keys(directory, tree)
    disk(tree, directory / "disk.raw")
    make_initrd(linux, content["initrd_modules"], directory)
    hypervisor(content["hypervisor"], directory)
    (directory / "vmlinux").hardlink_to(linux.vmlinux)
    shutil.rmtree(tree)


def make_tree(tree: Path, content: dict[str, Any]) -> None:
    """Dom0's file system, but for modules and keys."""
    merge_usr(tree)
    unpack(fetch(resolve(content["packages"])), tree)
    base_files(tree)
    for junk in content["junk"]:
        shutil.rmtree(tree / junk, ignore_errors=True)
    for driver in content["drivers"]:
        (tree / _DRIVERS / f"libvirt_driver_{driver}.so").unlink(missing_ok=True)
    for name in _EMPTY:
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    shutil.copytree(HERE / "tree/dom0", tree, dirs_exist_ok=True)
    (tree / "etc/mtab").symlink_to("../proc/self/mounts")  # without it rpc.mountd dies at the first request
    make_accounts(tree, content["users"], content["groups"])
    add_people(tree)
    run(["ldconfig", "-r", tree])
    compile_python(tree)


def add_people(tree: Path) -> None:
    """Who submits jobs, as in the lab's node."""
    for user, uid in USERS.items():
        append(f"{tree}/etc/passwd", f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash\n")
        append(f"{tree}/etc/group", f"{user}:x:{uid}:\n")
        append(f"{tree}/etc/shadow", f"{user}:*:19000:0:99999:7:::\n")
        home = tree / "home" / user
        home.mkdir(mode=0o700, parents=True)
        os.chown(home, uid, uid)
    append(f"{tree}/etc/group", GROUPS)


def make_keys(directory: Path, tree: Path) -> None:
    """The lab's way into dom0: root's key, and the host key by which it is known."""
    for name in ("key", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name])
    (tree / "root/.ssh").chmod(0o700)
    shutil.copy2(directory / "key.pub", tree / "root/.ssh/authorized_keys")
    (directory / "host_key").rename(tree / "etc/ssh/ssh_host_ed25519_key")


def disk(tree: Path, target: Path, size: int = DISK_SIZE) -> None:
    """A disk with a file system for a machine that is never used twice: without a journal."""
    with open(target, "xb") as file:
        file.truncate(size)
    options = ["-q", "-F", "-m", "0", "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"]
    run(["mkfs.ext4", *options, "-d", tree, target])
    target.chmod(0o444)


def make_initrd(linux: kernel.Kernel, modules: list[str], directory: Path) -> None:
    """What mounts the root disk."""
    programs, tree = directory / "programs", directory / "initrd"
    programs.mkdir()
    unpack(fetch(package for package in resolve(["busybox-static"]) if package.name == "busybox-static"), programs)
    shutil.copytree(HERE / "tree/initrd-dom0", tree)
    for name in ("bin", "dev", "proc", "root"):
        (tree / name).mkdir()
    shutil.copy2(programs / "bin/busybox", tree / "bin/busybox")
    for applet in ("sh", "insmod", "mount", "sleep", "switch_root"):
        (tree / "bin" / applet).symlink_to("busybox")
    copy_modules(linux, modules, tree / "modules")
    cpio(tree, directory / "initrd.cpio")
    shutil.rmtree(tree)
    shutil.rmtree(programs)


def hypervisor(package: str, directory: Path) -> None:
    """Xen as QEMU loads it: the multiboot image, unpacked."""
    tree = directory / "hypervisor"
    tree.mkdir()
    unpack(fetch(found for found in resolve([package]) if found.name == package), tree)
    (image,) = (path for path in (tree / "boot").glob("xen-*.gz") if not path.is_symlink())
    (directory / "xen.elf").write_bytes(gzip.decompress(image.read_bytes()))
    shutil.rmtree(tree)
