"""Guests' disks, made by the tools that everybody makes them with."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vmbatch.bootloader import Wish, choice

SECTOR = 512
MIB = 1 << 20
KERNEL = hashlib.shake_128(b"kernel").digest(300_001)
INITRD = hashlib.shake_128(b"initrd").digest(500_003)
MENU = """default 0
title uCernVM 1.18
\troot (hd0)
\tkernel /cernvm/vmlinuz.gzip root=first quiet
\tinitrd /cernvm/initrd.img
"""
CERNVM = {
    "cernvm/vmlinuz.gzip": KERNEL, "cernvm/initrd.img": INITRD, "boot/grub/menu.lst": MENU.encode(),
    "isolinux/syslinux.cfg": b"label normal\n kernel /cernvm/vmlinuz.xz\n append initrd=/cernvm/initrd.img root=first\n",
}
"""As in CernVM's FAT image: the configuration of SYSLINUX names a kernel that is only in the other images."""


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLS_SKIP_CHECK": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(top: Path, files: Mapping[str, bytes | str]) -> Path:
    """Bytes are files, texts are symbolic links."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return top


def fat(path: Path, top: Path, size: int, *options: str) -> Path:
    path.write_bytes(b"")
    os.truncate(path, size)
    run("mkfs.vfat", *options, str(path))
    run("mcopy", "-s", "-i", str(path), *map(str, sorted(top.iterdir())), "::")
    return path


def ext(path: Path, top: Path, size: int, *options: str) -> Path:
    path.write_bytes(b"")
    os.truncate(path, size)
    run("mke2fs", "-q", "-F", "-d", str(top), *options, str(path))
    return path


def partitioned(path: Path, script: str, parts: dict[int, Path], size: int = 96 * MIB) -> Path:
    """By sfdisk(8); each of `parts` begins at a sector."""
    path.write_bytes(b"")
    os.truncate(path, size)
    run("sfdisk", "-q", str(path), stdin=script)
    with path.open("r+b") as disk:
        for start, part in parts.items():
            disk.seek(start * SECTOR)
            disk.write(part.read_bytes())
    return path


def patched(path: Path, parts: dict[int, bytes]) -> Path:
    with path.open("r+b") as disk:
        for at, data in parts.items():
            disk.seek(at)
            disk.write(data)
    return path


def chosen(path: Path, wish: Wish | None = None) -> choice.Choice:
    fd = os.open(path, os.O_RDONLY)  # stays open for what is chosen
    return choice.choose(lambda at, length: os.pread(fd, length, at), os.fstat(fd).st_size, wish or Wish())


def content(source: choice.Source) -> bytes:
    return b"".join(source.system.content(source.node))
