"""The guest of today's clouds, as its distributor gives it away: Debian with cloud-init, netplan and OpenSSH, nothing of ours.

A directory with `vmlinux`, `initrd.cpio` and `disk.raw`, partitioned as Debian's genericcloud image: GPT, root (ext4, labelled
`root`) in partition 1 behind GRUB's own (14) and the EFI system partition (15); the kernel comes from outside (root=/dev/vda1).
It has no user, no key, no password and no machine-id. The packages are only unpacked; what their maintainer scripts would have
done is done by the guest's own programs: accounts by systemd-sysusers, units by systemctl, Python's compiled modules.
"""

import io
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import kernel
from .base import base_files
from .debian import HERE, add_modules, make_accounts, merge_usr
from .image import MIB
from .initrd import INPUTS as INITRD_INPUTS
from .initrd import boot_files
from .package import fetch, resolve, unpack
from .partition import GPT_BIOS_BOOT, GPT_ESP, GPT_ROOT, Partition, gpt, unique
from .process import run, run_bytes

CONTENT = HERE / "stock-guest.toml"
_FILES = ("base.py", "debian.py", "stock.py", "partition.py", "stock-guest.toml", "tree/stock")
INPUTS = [*INITRD_INPUTS, *(HERE / name for name in _FILES)]
DISK_SIZE = 1024 * MIB
PARTITIONS = (
    Partition(14, MIB, 3 * MIB, GPT_BIOS_BOOT),
    Partition(15, 4 * MIB, 124 * MIB, GPT_ESP),
    Partition(1, 128 * MIB, DISK_SIZE - 129 * MIB, GPT_ROOT),
)
FSTAB = f"""\
PARTUUID={unique("stock-1")} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID={unique("stock-15")} /boot/efi vfat defaults 0 0
"""
_ENABLED = re.compile(r"# Enables the unit on first installation.*\n(?:\s*#.*\n)*\s*deb-systemd-helper enable '([^']+)'")
"""As dh_installsystemd(1) writes it into maintainer scripts."""
_PYTHON = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/netplan")


def build(directory: Path) -> None:
    """Fill `directory`."""
    linux = kernel.kernel()
    content = tomllib.loads(CONTENT.read_text())
    tree = directory / "tree"
    make_tree(tree, content)
    add_modules(linux, content["modules"], tree)
    write_disk(tree, directory / "disk.raw")
    boot_files(linux, directory)
    for image in ("disk.raw", "initrd.cpio", "vmlinux"):
        (directory / image).chmod(0o444)
    shutil.rmtree(tree)


def make_tree(tree: Path, content: dict[str, Any]) -> None:
    """The guest's file system, but for modules."""
    merge_usr(tree)
    without = tuple(content["without"])
    debs = fetch(package for package in resolve(content["packages"]) if not package.name.startswith(without))
    unpack(debs, tree)
    base_files(tree)
    shutil.copytree(HERE / "tree/stock", tree, dirs_exist_ok=True)
    make_accounts(tree, content["users"], content["groups"])
    shutil.copy2(tree / "usr/share/libc-bin/nsswitch.conf", tree / "etc/nsswitch.conf")
    shutil.copy2(tree / "usr/share/openssh/sshd_config", tree / "etc/ssh/sshd_config")
    for empty in ("hostname", "machine-id"):
        (tree / "etc" / empty).write_text("")
    (tree / "etc/fstab").write_text(FSTAB)
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (tree / "boot/efi").mkdir(parents=True, exist_ok=True)
    run(["ldconfig", "-r", tree])
    run(["chroot", tree, "systemd-sysusers"])
    run(["chroot", tree, "systemctl", "enable", "--quiet", *content["units"], *enabled(debs)])
    for name, (user, group, mode) in content["owners"].items():
        run(["chroot", tree, "chown", f"{user}:{group}", name])
        (tree / name).chmod(mode)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda modules: run(["chroot", tree, "python3", "-m", "compileall", "-q", modules]), _PYTHON))


def enabled(debs: Iterable[Path]) -> list[str]:
    """The units that the packages' maintainer scripts enable on a new machine."""
    units: dict[str, None] = {}
    for deb in debs:
        with tarfile.open(fileobj=io.BytesIO(run_bytes(["dpkg-deb", "--ctrl-tarfile", deb]))) as control:
            script = control.extractfile("./postinst") if "./postinst" in control.getnames() else None
            if script:
                units.update(dict.fromkeys(_ENABLED.findall(script.read().decode())))
    return list(units)


def write_disk(tree: Path, target: Path) -> None:
    """The whole disk, sparse."""
    begin, end = gpt(DISK_SIZE, PARTITIONS, "stock")
    _, efi, root = PARTITIONS
    with open(target, "xb") as file:
        file.truncate(DISK_SIZE)
        file.write(begin)
        file.seek(-len(end), 2)
        file.write(end)
    fast = f"lazy_itable_init=0,lazy_journal_init=1,nodiscard,offset={root.start}"
    run(["mkfs.ext4", "-q", "-F", "-L", "root", "-E", fast, "-d", tree, target, f"{root.size // 1024}k"])
    run(["mkfs.vfat", "-F", "16", "-n", "EFI", "--offset", str(efi.start // 512), target, str(efi.size // 1024)])
