"""The full guest: Debian with systemd, OpenSSH, NFS client and Python, on the cloud kernel.

A directory with `vmlinux`, `initrd.cpio` and `disk.raw` (MBR, ext4 in the first partition: root=/dev/vda1). The packages are
only unpacked: what their maintainer scripts would have done, as far as the guest needs it, is done here.
"""

import shutil
import tomllib
from pathlib import Path
from typing import Any

from . import kernel
from .image import MIB, partitioned_ext4
from .initrd import INPUTS as INITRD_INPUTS
from .initrd import boot_files
from .kit import KIT, install_kit
from .package import fetch, resolve, unpack
from .place import CLONE
from .process import run

HERE = CLONE / "lab"
CONTENT = HERE / "debian-guest.toml"
INPUTS = [*INITRD_INPUTS, HERE / "debian.py", CONTENT, HERE / "tree/debian", KIT]
DISK_SIZE = 768 * MIB


def build(directory: Path) -> None:
    """Fill `directory`."""
    linux = kernel.kernel()
    content = tomllib.loads(CONTENT.read_text())
    tree = directory / "tree"
    make_tree(tree, content)
    add_modules(linux, content["modules"], tree)
    install_kit(tree)
    partitioned_ext4(tree, directory / "disk.raw", DISK_SIZE)
    boot_files(linux, directory)
    for image in ("disk.raw", "initrd.cpio", "vmlinux"):
        (directory / image).chmod(0o444)
    shutil.rmtree(tree)


def make_tree(tree: Path, content: dict[str, Any]) -> None:
    """The guest's file system, but for modules and kit."""
    merge_usr(tree)
    unpack(fetch(resolve(content["packages"])), tree)
    unpack(fetch(found for found in resolve(content["launcher"]) if found.name in content["launcher"]), tree)
    for junk in content["junk"]:
        shutil.rmtree(tree / junk, ignore_errors=True)
    shutil.copytree(HERE / "tree/debian", tree, dirs_exist_ok=True)
    make_accounts(tree, content["users"], content["groups"])
    arrange_units(tree / "etc/systemd/system", content["enabled"], content["masked"])
    (tree / "etc/fstab").write_text("")
    (tree / "etc/machine-id").write_text("")  # a new one at each boot
    (tree / "usr/bin/awk").symlink_to("mawk")
    run(["ldconfig", "-r", tree])
    compile_python(tree)


def merge_usr(tree: Path) -> None:
    """The directories that are links into /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")


def compile_python(tree: Path) -> None:
    """What Debian's maintainer scripts would have done: under emulation it takes long where each program has to do it."""
    run(["/usr/bin/python3", "-m", "compileall", "-q", "-j", "0", "-s", tree, "-p", "/", tree / "usr/lib/python3.11"])


def make_accounts(tree: Path, users: dict[str, tuple[int, int]], groups: dict[str, int]) -> None:
    """Debian's base accounts and those of the packages (uid and gid; gid): nobody has a password or a key."""
    masters = tree / "usr/share/base-passwd"
    accounts = [line.split(":") for line in (masters / "passwd.master").read_text().splitlines()]
    accounts += [[name, "", str(uid), str(gid), "", "/nonexistent", "/usr/sbin/nologin"] for name, (uid, gid) in users.items()]
    group = (masters / "group.master").read_text().replace(":*:", ":x:")
    (tree / "etc/group").write_text(group + "".join(f"{name}:x:{gid}:\n" for name, gid in groups.items()))
    (tree / "etc/passwd").write_text("".join(":".join([account[0], "x", *account[2:]]) + "\n" for account in accounts))
    (tree / "etc/shadow").write_text("".join(f"{account[0]}:*:19000:0:99999:7:::\n" for account in accounts))
    (tree / "etc/shadow").chmod(0o640)


def arrange_units(system: Path, enabled: dict[str, list[str]], masked: list[str]) -> None:
    """What systemd starts (link targets by the target that wants them), and what it does not."""
    (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for target, units in enabled.items():
        wants = system / f"{target}.wants"
        wants.mkdir(exist_ok=True)
        for unit in units:
            (wants / unit.rsplit("/", 1)[-1]).symlink_to(unit)
    for unit in masked:
        (system / unit).symlink_to("/dev/null")


def add_modules(linux: kernel.Kernel, names: list[str], tree: Path) -> None:
    """Only the modules that the guest can use, with the index that modprobe reads."""
    target = tree / "usr/lib/modules" / linux.version
    for file in linux.files(names):
        kernel.copy_module(file, target / file.relative_to(linux.modules))
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy2(linux.modules / index, target / index)
    run(["depmod", "-b", tree, linux.version])
