"""FAT: written by mtools as nobody, judged by fsck.vfat."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vmbatch.errors import NodeError
from vmbatch.format import FormatError
from vmbatch.guestdisk.fat import Fat
from vmbatch.guestdisk.files import File, Item, Link
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline

from . import trees
from .trees import MIB, OFFSET, file

SECONDS = 60.0


def fat(path: Path, bits: int = 32, size: int = 64, *more: str) -> Path:
    part = path.with_suffix(".part")
    with part.open("wb") as opened:
        opened.truncate(size * MIB + 512)  # no whole number of tracks
    subprocess.run(["mkfs.vfat", "-F", str(bits), *more, part], check=True, capture_output=True)
    return trees.in_disk(path, part)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return fat(tmp_path / "disk.raw")


def write(disk: Path, items: Sequence[Item]) -> None:
    with view(str(disk), "raw", "nobody", Deadline(SECONDS)) as seen:
        Fat(seen, OFFSET, str(disk.parent), Deadline(SECONDS)).write(items, Deadline(SECONDS))


def refused(disk: Path, items: Sequence[Item]) -> str:
    with pytest.raises(FormatError) as caught:
        write(disk, items)
    assert trees.unharmed(disk)
    return caught.value.what


def content(disk: Path, path: str) -> bytes:
    return subprocess.run(["mtype", "-i", f"{disk}@@{OFFSET}", f"::{path}"], check=True, capture_output=True,
                          env={"MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8", "PATH": os.defpath}).stdout


def fsck(disk: Path) -> str:
    part = disk.with_suffix(".check")
    data = disk.read_bytes()
    part.write_bytes(data[OFFSET:-4096])
    done = subprocess.run(["fsck.vfat", "-n", part], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout


@pytest.mark.parametrize(("bits", "size"), [(32, 64), (16, 32), (12, 8)])
def test_all_is_there(tmp_path: Path, bits: int, size: int) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(2 * MIB + 1))
    big.chmod(0o600)
    disk = fat(tmp_path / "disk.raw", bits, size)
    items = [file("/vmbatch/job/script", "#!/bin/sh\n", 0o700), file("/vmbatch/tar/list", ""), file("/top.txt", "x"),
             File("/vmbatch/tar/0.tar", 0o600, source=str(big)), file("/Long name, ü & $(x) 'q'/a.b.c", "odd")]
    for _ in range(2):
        write(disk, items)
        assert fsck(disk) == ""
    assert trees.unharmed(disk)
    assert [content(disk, item.path) for item in items] == [b"#!/bin/sh\n", b"", b"x", big.read_bytes(), b"odd"]


@pytest.mark.parametrize(("items", "what"), [
    ([Link("/x", "y")], "has a FAT file system, which cannot have the symbolic link /x"),
    ([file("/a:b")], "has a FAT file system, which cannot have a file '/a:b'"),
    ([file("/dot./x")], "has a FAT file system, which cannot have a file '/dot./x'"),
    ([file("/x ")], "has a FAT file system, which cannot have a file '/x '"),
    ([file("/x/A"), file("/x/a")], "has a FAT file system, which cannot tell apart names by their capitals"),
    ([File("/big", 0o600, bytes([1]) * 70 * MIB)], "has a FAT file system without enough room left for the context"),
])
def test_what_fat_cannot_have(disk: Path, items: list[Item], what: str) -> None:
    assert refused(disk, items) == what


def test_directory_in_the_way(disk: Path) -> None:
    write(disk, [file("/vmbatch/job/script/x")])
    assert refused(disk, [file("/vmbatch/job/script")]).startswith("has a FAT file system that mtools cannot work on: ")
    assert fsck(disk) == ""


def test_file_in_the_way(disk: Path) -> None:
    write(disk, [file("/vmbatch")])
    assert refused(disk, [file("/vmbatch/job/script")]).startswith("has a FAT file system that mtools cannot work on: ")
    assert content(disk, "/vmbatch") == b"new\n"


def test_reads(disk: Path) -> None:
    write(disk, [file("/a/b", "text")])
    with view(str(disk), "raw", "nobody", Deadline(SECONDS)) as seen:
        guest = Fat(seen, OFFSET, str(disk.parent), Deadline(SECONDS))
        real = [guest.real(path) for path in ("/a", "/a/b", "/none", "/none/x", "/a/b/c", "/x:y")]
        assert real == ["/a", "/a/b", "", "", "", ""]
        assert [guest.read(path) for path in ("/a/b", "/none", "/a")] == ["text", "", ""]


@pytest.mark.parametrize(("at", "data"), [(11, b"\0\0"), (13, b"\0"), (16, b"\0"), (36, b"\xff\xff\xff\xff")])
def test_broken(disk: Path, at: int, data: bytes) -> None:
    with disk.open("r+b") as opened:
        opened.seek(OFFSET + at)
        opened.write(data)
    assert re.match("has a FAT file system that mtools cannot work on: ", refused(disk, [file("/x")]))


@pytest.mark.error("VB503")
def test_sources(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(NodeError, match=re.escape(f"{tmp_path}/none cannot be read: No such file or directory")):
        write(disk, [File("/x", 0o600, source=f"{tmp_path}/none")])
