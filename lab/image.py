"""Trees into what a machine boots from: initramfs archives, ext4 file systems, partitioned disks."""

import struct
from pathlib import Path

from .process import run, run_bytes

MIB = 1 << 20
_EXT4 = ("-q", "-F", "-m", "0", "-L", "root", "-O", "^metadata_csum", "-E")
_FAST = "lazy_itable_init=0,lazy_journal_init=1,nodiscard"


def cpio(tree: Path, target: Path) -> None:
    """An initramfs, not packed, as the guest would spend longer on unpacking than the host on reading."""
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    archive = run_bytes(["cpio", "-o", "-H", "newc", "--quiet", "-R", "+0:+0"], stdin="\n".join(names).encode(), cwd=tree)
    target.write_bytes(archive)


def ext4(tree: Path, target: Path, size: int) -> None:
    """A whole-disk file system of `size` bytes, sparse."""
    with open(target, "xb") as file:
        file.truncate(size)
    run(["mkfs.ext4", *_EXT4, _FAST, "-d", tree, target])


def partitioned_ext4(tree: Path, target: Path, size: int) -> None:
    """A disk of `size` bytes with an MBR and one Linux partition from 1 MiB to its end, sparse."""
    with open(target, "xb") as file:
        file.truncate(size)
        file.write(mbr(size))
    run(["mkfs.ext4", *_EXT4, f"{_FAST},offset={MIB}", "-d", tree, target, f"{(size - MIB) // 1024}k"])


def mbr(size: int) -> bytes:
    """The first sector of a disk of `size` bytes: one bootable partition of type 0x83 behind the first MiB."""
    first = MIB // 512
    beyond_chs = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, beyond_chs, 0x83, beyond_chs, first, size // 512 - first)
    return bytes(440) + b"VMB\0" + bytes(2) + entry + bytes(48) + b"\x55\xaa"
