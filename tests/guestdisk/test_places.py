"""Partition tables and file systems as sfdisk and the mkfs programs make them."""

import os
import subprocess
from pathlib import Path

import pytest

from vmbatch.format import FormatError, Read
from vmbatch.format.filesystem import identify
from vmbatch.format.table import Extent, partitions

MIB = 1 << 20
SIZE = 64 * MIB


def tool(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def empty(path: Path, size: int = SIZE) -> Read:
    with open(path, "wb") as disk:
        disk.truncate(size)

    def read(offset: int, length: int) -> bytes:
        with open(path, "rb") as disk:
            return os.pread(disk.fileno(), length, offset)

    return read


SCRIPTS = {
    "mbr": "label: dos\nstart=2048, size=8192\nstart=20480, size=4096, type=82\n",
    "logical": "label: dos\nsize=8M\nsize=40M, type=5\n5: size=8M\n6: size=8M\n7: size=4M\n",
    "logical behind a gap": "label: dos\n4: start=2048, size=4096\n2: start=8192, size=60000, type=f\n5: start=10240, size=2048\n"
                            "6: start=16384, size=2048\n",
    "gpt": "label: gpt\nsize=8M\n5: size=16M\n128: size=4M\n",
    "small gpt": "label: gpt\ntable-length: 4\nsize=8M\nsize=16M\n",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_what_sfdisk_writes(tmp_path: Path, script: str) -> None:
    path = tmp_path / "disk"
    read = empty(path)
    tool("sfdisk", "--quiet", str(path), stdin=script)
    told = {}
    for line in tool("sfdisk", "--dump", str(path)).splitlines():
        name, _, words = line.partition(" : ")
        fields = dict(word.strip().partition("=")[::2] for word in words.split(","))
        if "start" in fields and fields["type"] not in ("5", "f"):
            told[int(name.removeprefix(str(path)))] = Extent(int(fields["start"]) * 512, int(fields["size"]) * 512)
    assert len(told) >= 2
    assert partitions(read, SIZE) == told


def test_an_order_of_its_own(tmp_path: Path) -> None:
    """Logical partitions in the order of their chain, which is not that of their places."""
    path = tmp_path / "disk"
    read = empty(path)
    tool("sfdisk", "--quiet", str(path),
         stdin="label: dos\n1: start=2048, size=120000, type=5\n5: start=40960, size=2048\n6: start=8192, size=2048\n")
    assert partitions(read, SIZE) == {5: Extent(40960 * 512, MIB), 6: Extent(8192 * 512, MIB)}


def test_a_truncated_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    read = empty(path)
    tool("sfdisk", "--quiet", str(path), stdin=SCRIPTS["gpt"])
    os.truncate(path, SIZE // 2)
    with pytest.raises(FormatError, match=r"^has a GPT for the sectors 2048 to 131038, and ends at sector 65536$"):
        partitions(read, SIZE // 2)


MAKERS = {
    "ext2": ("ext2", 64, ("mkfs.ext2", "-q", "-F")),
    "ext2 without features": ("ext2", 64, ("mke2fs", "-q", "-F", "-r", "0")),
    "ext3": ("ext3", 64, ("mkfs.ext3", "-q", "-F")),
    "ext4": ("ext4", 64, ("mkfs.ext4", "-q", "-F")),
    "ext4 without journal": ("ext4", 64, ("mkfs.ext4", "-q", "-F", "-O", "^has_journal")),
    "ext4 of 32 bits": ("ext4", 64, ("mkfs.ext4", "-q", "-F", "-O", "^64bit,^metadata_csum")),
    "xfs": ("xfs", 320, ("mkfs.xfs", "-q", "-f")),
    "btrfs": ("btrfs", 128, ("mkfs.btrfs", "-q", "-f")),
    "fat12": ("vfat", 4, ("mkfs.vfat", "-F", "12")),
    "fat16": ("vfat", 32, ("mkfs.vfat", "-F", "16")),
    "fat32": ("vfat", 64, ("mkfs.vfat", "-F", "32")),
    "swap": ("swap", 16, ("mkswap", "-q")),
    "swap of large pages": ("swap", 16, ("mkswap", "-q", "-p", "65536")),
}


@pytest.mark.parametrize(("name", "size", "argv"), MAKERS.values(), ids=MAKERS)
def test_what_mkfs_makes(tmp_path: Path, name: str, size: int, argv: tuple[str, ...]) -> None:
    read = empty(tmp_path / "disk", size * MIB)
    assert identify(read, 0, size * MIB) == ""
    tool(*argv, str(tmp_path / "disk"))
    assert identify(read, 0, size * MIB) == name
    with pytest.raises(FormatError) as caught:
        identify(read, 0, size * MIB - 65536)
    assert caught.value.what == f"has a file system ({name}) of {size * MIB} bytes in a place of {size * MIB - 65536}"


@pytest.mark.parametrize("first", [maker for maker in MAKERS if maker != "xfs"])
@pytest.mark.parametrize("then", ["ext4", "btrfs", "swap"])
def test_one_after_another(tmp_path: Path, first: str, then: str) -> None:
    """Makers remove what was there, or so much of it that it is not taken for two."""
    size = max(MAKERS[first][1], MAKERS[then][1]) * MIB
    read = empty(tmp_path / "disk", size)
    tool(*MAKERS[first][2], str(tmp_path / "disk"))
    tool(*MAKERS[then][2], str(tmp_path / "disk"))
    assert identify(read, 0, size) == MAKERS[then][0]
