"""The guest `bare` on disks of every sort that a job may meet, and disks for data.

Each kind is a directory in the cache with `disk.raw`; those with a guest have `vmlinux` and `initrd.cpio` too, and start with
`cmdline(kind)` on the kernel's command line besides what the console needs. Partitions begin at 1 MiB.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import bare, busybox, guest, kernel, lvm
from .cache import built
from .image import MIB, cpio
from .kernel import copy_module
from .package import fetch, resolve, unpack
from .partition import GPT_LINUX, LINUX, LVM, VFAT, Partition, gpt, mbr
from .place import CLONE
from .process import run

HERE = CLONE / "lab"
INPUTS = [*bare.INPUTS, *(HERE / name for name in ("disk.py", "lvm.py", "partition.py", "tree/initrd-other"))]
GROUP = "guest"
"""The volume group of the guests on LVM; their volume is `root`."""


class Kind(NamedTuple):
    """A file system (and its size), what it lies in, and where the guest finds it; without `root` it is a disk for data only."""

    filesystem: str
    size: int
    container: str
    root: str
    linux: Callable[[], kernel.Kernel] = kernel.kernel


KINDS = {
    "mbr": Kind("ext4", 192 * MIB, "mbr", "/dev/vda1"),
    "gpt": Kind("ext4", 192 * MIB, "gpt", "/dev/vda1"),
    "whole": Kind("ext4", 192 * MIB, "whole", "/dev/vda"),
    "ext2": Kind("ext2", 192 * MIB, "mbr", "/dev/vda1"),
    "ext3": Kind("ext3", 192 * MIB, "mbr", "/dev/vda1"),
    "xfs": Kind("xfs", 320 * MIB, "mbr", "/dev/vda1"),
    "btrfs": Kind("btrfs", 256 * MIB, "mbr", "/dev/vda1"),
    "lvm": Kind("ext4", 192 * MIB, "lvm", f"/dev/{GROUP}/root"),
    "lvmsplit": Kind("ext4", 192 * MIB, "lvmsplit", f"/dev/{GROUP}/root"),
    "lvmxfs": Kind("xfs", 320 * MIB, "lvm", f"/dev/{GROUP}/root"),
    "generic": Kind("ext4", 192 * MIB, "mbr", "/dev/vda1", kernel.generic),
    "two": Kind("ext4", 192 * MIB, "two", "/dev/vda1"),
    "vfat": Kind("vfat", 64 * MIB, "mbr", ""),
    "data": Kind("ext4", 64 * MIB, "whole", ""),
}
"""Not told by its name: `lvmsplit` has its volume in two segments, the second one first; `generic` has Debian's kernel for all
machines, with 9p, a watchdog and the power button; `two` has an empty ext4 `JOB` behind root; `vfat` and `data` are empty too."""
_MODULES = {"xfs": ["xfs"], "btrfs": ["blake2b_generic", "xxhash_generic", "btrfs"]}
_EXT = ("-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=1,nodiscard")


def make(kind: str) -> Path:
    """The directory of a disk, made first if need be."""
    return built(f"disk.{kind}", INPUTS, lambda directory: build(KINDS[kind], directory))


def cmdline(kind: str) -> str:
    """What its guest's kernel must be told."""
    return f"root={KINDS[kind].root} rootfstype={KINDS[kind].filesystem} rw"


def build(kind: Kind, directory: Path) -> None:
    """Fill `directory`."""
    images = guest.directory("bare")
    tree, content = directory / "tree", directory / "content"
    tree.mkdir()
    if kind.root:
        run(["tar", "-C", tree, "-xf", images / "tree.tar"])
        linux = kind.linux()
        if linux.version != kernel.kernel().version:
            shutil.rmtree(tree / "lib/modules")
            bare.add_modules(linux, tree, [*bare.MODULES, "9p", "9pnet_virtio", "i6300esb", "button", "evdev"])
        initrd(kind, linux, directory)
        (directory / "vmlinux").hardlink_to(linux.vmlinux)
    make_filesystem(kind, tree, content)
    assemble(kind, content, directory / "disk.raw")
    content.unlink()
    shutil.rmtree(tree)
    for image in directory.iterdir():
        image.chmod(0o444)


def make_filesystem(kind: Kind, tree: Path, target: Path) -> None:
    """The file system alone, with the tree in it."""
    with open(target, "xb") as file:
        file.truncate(kind.size)
    if kind.filesystem == "xfs":
        prototype = target.with_name("prototype")
        prototype.write_text(xfs_prototype(tree))
        run(["mkfs.xfs", "-q", "-L", "root", "-p", prototype, target])
        prototype.unlink()
    elif kind.filesystem == "btrfs":
        run(["mkfs.btrfs", "-q", "-L", "root", "--rootdir", tree, target])
    elif kind.filesystem == "vfat":
        run(["mkfs.vfat", "-n", "JOB", target])
    else:
        run([f"mkfs.{kind.filesystem}", *_EXT, "-L", "root" if kind.root else "JOB", "-d", tree, target])


def xfs_prototype(tree: Path) -> str:
    """What `mkfs.xfs -p` reads (mkfs.xfs(8)): directories, files and links, all root's; it knows no sticky bit."""

    def mode(path: Path) -> str:
        bits = path.lstat().st_mode
        return ("u" if bits & 0o4000 else "-") + ("g" if bits & 0o2000 else "-") + f"{bits & 0o777:03o}"

    def entries(directory: Path) -> list[str]:
        lines = []
        for path in sorted(directory.iterdir()):
            if path.is_symlink():
                lines.append(f"{path.name} l--777 0 0 {os.readlink(path)}")
            elif path.is_dir():
                lines += [f"{path.name} d{mode(path)} 0 0", *entries(path), "$"]
            else:
                lines.append(f"{path.name} -{mode(path)} 0 0 {path}")
        return lines

    return "\n".join(["/stand/none", "0 0", "d--755 0 0", *entries(tree), "$", ""])


def assemble(kind: Kind, content: Path, target: Path) -> None:
    """The disk around a file system."""
    if kind.container == "whole":
        return _write(target, kind.size, {}, content, [(0, kind.size, 0)])
    first = Partition(1, MIB, kind.size, VFAT if kind.filesystem == "vfat" else LINUX)
    if kind.container == "mbr":
        return _write(target, MIB + kind.size, {0: mbr([first])}, content, [(0, kind.size, MIB)])
    if kind.container == "gpt":
        size = kind.size + 2 * MIB
        begin, end = gpt(size, [first._replace(type=GPT_LINUX, name="root")], "gpt")
        return _write(target, size, {0: begin, size - len(end): end}, content, [(0, kind.size, MIB)])
    if kind.container == "two":
        second = Partition(2, MIB + kind.size, 64 * MIB, LINUX)
        _write(target, second.start + second.size, {0: mbr([first, second])}, content, [(0, kind.size, MIB)])
        place = f"{_EXT[-1]},offset={second.start}"
        run(["mkfs.ext4", *_EXT[:-1], place, "-L", "JOB", target, f"{second.size // 1024}k"])
        return None
    segments = lvm_segments(kind)
    volume = lvm.START + kind.size + 4 * lvm.EXTENT
    head = lvm.header(volume, GROUP, {"root": segments})
    table = mbr([Partition(1, MIB, volume, LVM)])
    extents, done = [], 0
    for segment in segments:
        size = segment.extents * lvm.EXTENT
        extents.append((done, size, MIB + lvm.START + segment.first * lvm.EXTENT))
        done += size
    return _write(target, MIB + volume, {0: table, MIB: head}, content, extents)


def lvm_segments(kind: Kind) -> list[lvm.Segment]:
    """Where the root volume lies: in one piece behind two free extents, or in two with the second one in front."""
    count = kind.size // lvm.EXTENT
    if kind.container == "lvm":
        return [lvm.Segment(2, count)]
    return [lvm.Segment(count // 2 + 1, count - count // 2), lvm.Segment(0, count // 2)]


def _write(target: Path, size: int, pieces: dict[int, bytes], content: Path, extents: Sequence[tuple[int, int, int]]) -> None:
    """A sparse disk of `size` bytes: `pieces` by their place, and `extents` of `content`: from, size, to."""
    with open(target, "xb") as disk, open(content, "rb") as source:
        disk.truncate(size)
        for place, data in pieces.items():
            os.pwrite(disk.fileno(), data, place)
        for begin, length, to in extents:
            at = begin
            while (found := _data(source.fileno(), at)) is not None and found[0] < begin + length:
                at = min(found[1], begin + length)
                os.pwrite(disk.fileno(), os.pread(source.fileno(), at - found[0], found[0]), to + found[0] - begin)


def _data(file: int, at: int) -> tuple[int, int] | None:
    """The next piece of a sparse file that is not a hole."""
    try:
        first = os.lseek(file, at, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole up to the end
        return None
    return first, os.lseek(file, first, os.SEEK_HOLE)


def initrd(kind: Kind, linux: kernel.Kernel, directory: Path) -> None:
    """`initrd.cpio` with the drivers of the kind, and with LVM's own program where it is needed."""
    tree, packages = directory / "initrd", directory / "packages"
    packages.mkdir()
    with_lvm = kind.container.startswith("lvm")
    unpack(fetch(resolve(bare.LVM_PACKAGES if with_lvm else ["busybox-static"])), packages)
    shutil.copytree(HERE / "tree/initrd-other", tree)
    for name in ("bin", "dev", "proc", "sys", "root", "run", "etc", "lib64"):
        (tree / name).mkdir(exist_ok=True)
    shutil.copy2(packages / "bin/busybox", tree / "bin/busybox")
    for applet in ("sh", "cat", "insmod", "mount", "sleep", "switch_root", "umount"):
        (tree / "bin" / applet).symlink_to("busybox")
    names = ["virtio_pci", "virtio_blk", "crc32c_generic", *_MODULES.get(kind.filesystem, ["ext4"])]
    if with_lvm:
        busybox.install_program(packages, "sbin/lvm", tree)
        names.append("dm_mod")
    modules = linux.files(names)
    for module in modules:
        copy_module(module, tree / "modules" / module.name)
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    cpio(tree, directory / "initrd.cpio")
    shutil.rmtree(packages)
    shutil.rmtree(tree)
