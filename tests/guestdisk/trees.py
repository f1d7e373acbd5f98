"""Disks with file systems for the writers, and what is in a tree afterwards."""

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vmbatch.guestdisk.files import File, Item, Link

MIB = 1 << 20
OFFSET = MIB
TREE = {"etc/systemd/system/": "", "etc/hostname": "old\n", "usr/lib/": "", "lib": "-> usr/lib",
        "sbin/init": "-> /usr/lib/systemd/systemd", "usr/lib/systemd/systemd": "ELF", "var/lib/": ""}


def make_tree(directory: Path, tree: Mapping[str, str]) -> Path:
    """Files by name; `-> target` is a link, a name with / at its end a directory."""
    directory.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return directory


def ext(path: Path, tree: Path, *options: str, size: int = 64) -> Path:
    """A disk whose only partition, from 1 MiB on, has an ext file system of `size` MiB."""
    return in_disk(path, _made(path, size, "-d", tree, *options))


def ext_by_kernel(path: Path, tree: Mapping[str, str], *options: str, size: int = 64) -> Path:
    """As `ext`, but filled by this machine's kernel: mkfs looks through a directory for each name that it adds."""
    part, place = _made(path, size, *options), path.with_suffix(".mounted")
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", part, place], check=True)
    try:
        make_tree(place, tree)
    finally:
        subprocess.run(["umount", place], check=True)
    return in_disk(path, part)


def _made(path: Path, size: int, *options: str | Path) -> Path:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.truncate(size * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, part], check=True)
    return part


def in_disk(path: Path, part: Path) -> Path:
    """The disk with a partition; the bytes before and behind it tell if somebody writes there."""
    with path.open("wb") as disk, part.open("rb") as file:
        disk.write(b"\xa5" * OFFSET)
        while piece := file.read(MIB):
            disk.write(piece)
        disk.write(b"\x5a" * 4096)
    part.unlink()
    path.chmod(0o600)
    return path


def unharmed(path: Path) -> bool:
    """Whether nothing was written beside the partition."""
    with path.open("rb") as disk:
        before = disk.read(OFFSET)
        disk.seek(-4096, os.SEEK_END)
        return before == b"\xa5" * OFFSET and disk.read() == b"\x5a" * 4096


def e2fsck(path: Path) -> str:
    """What is wrong with the file system, '' if nothing."""
    done = subprocess.run(["e2fsck", "-fn", f"{path}?offset={OFFSET}"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def debugfs(path: Path, *commands: str, write: bool = False) -> str:
    """What debugfs says, run as root by the test."""
    script = "\n".join(commands)
    options = ["-w"] if write else []
    done = subprocess.run(["debugfs", *options, "-f", "/dev/stdin", f"{path}?offset={OFFSET}"], input=script, text=True,
                          capture_output=True, check=True)
    return done.stdout + done.stderr


def dumped(path: Path, directory: Path) -> Path:
    """The whole tree of an ext file system, with modes and owners."""
    directory.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {directory}", f"{path}?offset={OFFSET}"], check=True, capture_output=True)
    return directory


def put(root: Path, items: tuple[Item, ...]) -> list[str]:
    """What is not as the items say; links above them are followed by the test itself."""
    wrong = []
    for item in items:
        path = root / item.path.lstrip("/")
        status = path.lstat()
        if isinstance(item, Link):
            if not path.is_symlink() or os.readlink(path) != item.target:
                wrong.append(f"{item.path}: no link to {item.target}")
            continue
        content = Path(item.source).read_bytes() if item.source else item.data
        if (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) != (item.mode, 0, 0) or not stat.S_ISREG(status.st_mode):
            wrong.append(f"{item.path}: mode {status.st_mode:o}, owner {status.st_uid}:{status.st_gid}")
        elif path.read_bytes() != content:
            wrong.append(f"{item.path}: other content")
    return wrong


def file(path: str, content: str = "new\n", mode: int = 0o644) -> File:
    return File(path, mode, content.encode())
