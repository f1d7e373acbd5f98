"""Disks that somebody made to do harm: each ends in a clear error, within the limits, and nothing is left."""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbatch.bootloader import TEXT_LIMIT, Wish, bls, choice, grub, legacy, syslinux
from vmbatch.bootloader.load import boot_of
from vmbatch.errors import JobError
from vmbatch.format import FormatError
from vmbatch.units import Deadline

from .disks import CERNVM, KERNEL, MIB, SECTOR, chosen, content, ext, fat, patched, run, tree
from .world import World

KIB = 1024
GRUB = "/boot/grub/grub.cfg"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("hostile") / "files", {**CERNVM, "isolinux/syslinux.cfg": b"# none\n"})


@pytest.fixture(scope="module")
def ext4(top: Path) -> bytes:
    return ext(top.parent / "ext4", top, 16 * MIB, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit").read_bytes()


@pytest.fixture(scope="module")
def ext2(top: Path) -> bytes:
    return ext(top.parent / "ext2", top, 16 * MIB, "-t", "ext2", "-b", "1024").read_bytes()


@pytest.fixture(scope="module")
def fat16(top: Path) -> bytes:
    return fat(top.parent / "fat", top, 9 * MIB, "-F", "16", "-s", "2").read_bytes()


def refused(disk: Path) -> str:
    """All that is said, by the way that root takes."""
    directory = disk.parent / "out"
    directory.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(disk, os.O_RDONLY)
    try:
        with pytest.raises(JobError) as caught:
            boot_of(fd, str(directory), Wish(), account="nobody", deadline=Deadline(60))
    finally:
        os.close(fd)
    assert not list(directory.iterdir())
    return "\n".join(caught.value.lines())


def inode_at(image: Path, path: str) -> int:
    """Where an inode lies (debugfs(8), imap)."""
    match = re.search(r"located at block ([0-9]+), offset (0x[0-9a-f]+)", run("debugfs", "-R", f"imap {path}", str(image)))
    assert match
    return int(match[1]) * KIB + int(match[2], 16)


KERNEL_PATH = "/cernvm/vmlinuz.gzip"


def extents(depth: int, *entries: bytes, magic: int = 0xF30A, count: int | None = None) -> bytes:
    head = struct.pack("<HHHHI", magic, len(entries) if count is None else count, 4, depth, 0)
    return (head + b"".join(entries)).ljust(60, b"\0")


def leaf(first: int, length: int, block: int) -> bytes:
    return struct.pack("<IHHI", first, length, block >> 32, block & 0xFFFFFFFF)


def index(first: int, block: int) -> bytes:
    return struct.pack("<IIHH", first, block, 0, 0)


MAPS = {
    "extents that overlap": (extents(0, leaf(0, 200, 3000), leaf(100, 200, 5000)),
                             "a file whose extents overlap, or lie behind its end"),
    "extents in the wrong order": (extents(0, leaf(100, 2, 3000), leaf(0, 2, 5000)), "a tree of extents that is out of order"),
    "an extent beyond the end": (extents(0, leaf(0, 300, 16300)), "of 16384 blocks that uses block 16300"),
    "an extent of 2^47": (extents(0, leaf(0, 300, 1 << 47)), f"of 16384 blocks that uses block {1 << 47}"),
    "a tree that is its own leaf": (extents(1, index(0, 8300)), "a file with a damaged tree of extents"),
    "a tree of many levels": (extents(9, index(0, 8300)), "a tree of extents that is too deep, or in a circle"),
    "more entries than fit": (extents(0, leaf(0, 1, 3000), count=500), "a file with a damaged tree of extents"),
    "no tree": (extents(0, magic=1), "a file with a damaged tree of extents"),
}


@pytest.mark.parametrize(("blocks", "what"), MAPS.values(), ids=MAPS)
def test_extents(tmp_path: Path, ext4: bytes, blocks: bytes, what: str) -> None:
    """The kernel's file has a good name and a bad map: found when it is copied."""
    disk = tmp_path / "disk"
    disk.write_bytes(ext4)
    patched(disk, {inode_at(disk, KERNEL_PATH) + 40: blocks})
    assert re.fullmatch(rf"the disk has .*{re.escape(what)} \(check the image\)", refused(disk))


def test_a_tree_of_extents_in_a_circle(tmp_path: Path, ext4: bytes) -> None:
    """A block of extents that names itself."""
    disk = tmp_path / "disk"
    disk.write_bytes(ext4)
    circle = struct.pack("<HHHHI", 0xF30A, 1, 84, 1, 0) + index(0, 8300)
    patched(disk, {inode_at(disk, KERNEL_PATH) + 40: extents(2, index(0, 8300)), 8300 * KIB: circle})
    with pytest.raises(FormatError, match="too deep, or in a circle"):
        content(chosen(disk).kernel)


def test_pointers_in_a_circle(tmp_path: Path, ext2: bytes) -> None:
    """The block of pointers of the third level is full of itself: as much is read as the file is long."""
    disk = tmp_path / "disk"
    disk.write_bytes(ext2)
    at = inode_at(disk, KERNEL_PATH)
    block = 9000
    patched(disk, {at + 40: struct.pack("<15I", *[0] * 12, block, block, block),
                   block * KIB: struct.pack("<256I", *[block] * 256), at + 4: struct.pack("<I", 100 * MIB)})
    assert len(content(chosen(disk).kernel)) == 100 * MIB
    patched(disk, {block * KIB: struct.pack("<256I", *[1 << 30] * 256)})
    assert "of 16384 blocks that uses block 1073741824" in refused(disk)


SIZES = {"0": 0, "129 MiB": 129 * MIB, "4 GiB": (4 << 30) - 1, "2^56": 1 << 56}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_size_bombs(tmp_path: Path, ext4: bytes, size: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(ext4)
    at = inode_at(disk, KERNEL_PATH)
    patched(disk, {at + 4: struct.pack("<I", size & 0xFFFFFFFF), at + 108: struct.pack("<I", size >> 32)})
    assert f"names a file of {size} bytes, not of 1 to 134217728: '/cernvm/vmlinuz.gzip'" in refused(disk)


def test_a_file_of_holes(tmp_path: Path) -> None:
    """128 MiB of nothing is a kernel that no one can boot, and still only that."""
    files = tree(tmp_path / "files", {"boot/grub/menu.lst": b"title a\nkernel /k\n", "k": b""})
    os.truncate(files / "k", 128 * MIB)
    disk = ext(tmp_path / "disk", files, 4 * MIB, "-t", "ext4")
    assert chosen(disk).kernel.node.size == 128 * MIB
    assert sum(map(len, chosen(disk).kernel.system.content(chosen(disk).kernel.node))) == 128 * MIB


def test_initrds_that_are_too_much_together(tmp_path: Path) -> None:
    config = b"menuentry a {\nlinux /k\ninitrd " + b"/i " * 10 + b"\n}\n"
    files = tree(tmp_path / "files", {"boot/grub/grub.cfg": config, "k": KERNEL, "i": b""})
    os.truncate(files / "i", 100 * MIB)
    assert "has initrds of 1048576000 bytes, more than 536870912" in refused(ext(tmp_path / "disk", files, 8 * MIB, "-t", "ext4"))


LINKS: dict[str, tuple[dict[str, bytes | str], str]] = {
    "a circle": ({"k": "l", "l": "k"}, "has more than 40 symbolic links on the way to /k"),
    "itself": ({"k": "k/k/k/k"}, "has more than 40 symbolic links on the way to /k"),
    "a directory": ({"k/x": b""}, "names a file that is not there: '/k'"),
    "nothing": ({"k": "nowhere"}, "names a file that is not there: '/k'"),
    "the node's files": ({"k": "/etc/passwd"}, "names a file that is not there: '/k'"),
    "a doubled way": ({"k": "a/b9", "a/x": b"", **{f"a/b{n}": f"{'../a/' * 60}b{n - 1}" for n in range(1, 10)}, "a/b0": "../no"},
                      "has a path of more than 1000 names: /k"),
}


@pytest.mark.parametrize(("links", "what"), LINKS.values(), ids=LINKS)
def test_links(tmp_path: Path, links: dict[str, bytes | str], what: str) -> None:
    files = tree(tmp_path / "files", {"boot/grub/menu.lst": b"title a\nkernel /k\n", **links})
    assert what in refused(ext(tmp_path / "disk", files, 8 * MIB, "-t", "ext4"))


@pytest.mark.parametrize(("at", "value", "what"), [
    (1024 + 24, struct.pack("<I", 60), "has an ext file system with blocks of 2^70 bytes, not of 2^10 to 2^16"),
    (1024 + 88, struct.pack("<H", 3), "inodes of 3 bytes"), (1024 + 40, bytes(4), "a superblock that makes no sense"),
    (1024 + 32, bytes(4), "a superblock that makes no sense"), (1024 + 96, b"\xff" * 4, "the journal of an ext file system"),
    (1024 + 96, struct.pack("<I", 0x1), "features that are not known here: 0x1"),
    (2048 + 8, b"\xff" * 4, "of 16384 blocks that uses block 4294967295"), (1024 + 4, b"\xff" * 4, "in a place of 16777216"),
])
def test_superblocks(tmp_path: Path, ext4: bytes, at: int, value: bytes, what: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(ext4)
    assert what in refused(patched(disk, {at: value}))


def test_directories_of_ext(tmp_path: Path, ext4: bytes) -> None:
    """Entries of no length, and a directory of an exabyte."""
    disk = tmp_path / "disk"
    disk.write_bytes(ext4)
    block = int(run("debugfs", "-R", "bmap / 0", str(disk)))
    assert "has a damaged directory" in refused(patched(disk, {block * KIB + 4: b"\0\0"}))
    disk.write_bytes(ext4)
    patched(disk, {inode_at(disk, "/") + 4: b"\xff" * 4})
    assert "has a directory of 4294967295 bytes, more than 16777216" in refused(disk)


def fat_places(image: bytes) -> tuple[int, int]:
    """(first table, top directory), in bytes."""
    reserved, fats, files, sectors = (*struct.unpack_from("<HBH", image, 14), struct.unpack_from("<H", image, 22)[0])
    assert files
    return reserved * SECTOR, (reserved + fats * sectors) * SECTOR


@pytest.mark.parametrize(("size", "options", "what"), [
    (20 * MIB, ("-F", "16"), "has a directory of more than 2097152 bytes"),
    (MIB, ("-F", "12", "-s", "1"), "has a FAT file system with a chain of clusters that goes in a circle"),
])
def test_directory_in_a_circle(tmp_path: Path, size: int, options: tuple[str, ...], what: str) -> None:
    """The first cluster, a directory's, is full of deleted entries and followed by itself."""
    disk = fat(tmp_path / "disk", tree(tmp_path / "files", {"boot/grub/menu.lst": b"title a\nkernel /k\n"}), size, *options)
    image = disk.read_bytes()
    table, top_at = fat_places(image)
    first = top_at + int.from_bytes(image[17:19], "little") * 32
    loop = b"\x02\x00" if options[1] == "16" else b"\x02\xf0"
    patched(disk, {table + 4 if options[1] == "16" else table + 3: loop, first: b"\xe5" * image[13] * SECTOR})
    assert what in refused(disk)


@pytest.mark.parametrize(("value", "what"), [(0xFFF7, "clusters that uses cluster 65527"), (0, "clusters that uses cluster 0")])
def test_clusters_outside(tmp_path: Path, fat16: bytes, value: int, what: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(fat16)
    kernel = content_start(fat16, b"VMLINU~1GZI")
    table, _ = fat_places(fat16)
    patched(disk, {table + 2 * kernel: struct.pack("<H", value)})
    assert what in refused(disk)


def content_start(image: bytes, short: bytes) -> int:
    """The first cluster of a file by its short name."""
    return int.from_bytes(image[image.index(short) + 26 :][:2], "little")


def test_file_longer_than_its_chain(tmp_path: Path, fat16: bytes) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(fat16)
    at = fat16.index(b"VMLINU~1GZI") + 28
    patched(disk, {at: struct.pack("<I", 100 * MIB)})
    with pytest.raises(FormatError, match="has a file that is longer than its chain of clusters"):
        content(chosen(disk).kernel)


def test_extended_partitions_in_a_circle(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    run("truncate", "-s", "64M", str(disk))
    entry = struct.pack("<B3xB3xII", 0, 5, 2048, 100000)
    link = struct.pack("<B3xB3xII", 0, 5, 0, 100000)
    patched(disk, {446: entry, 510: b"\x55\xaa", 2048 * SECTOR + 446: link, 2048 * SECTOR + 510: b"\x55\xaa"})
    assert "the disk has a chain of logical partitions that comes back to sector 2048" in refused(disk)


SCRIPTS = {
    "a loop": ("while true; do true; done", "takes more than 50000 steps"),
    "a word that doubles": ("a=xx; " + "a=$a$a; " * 40, "has a word of more than 65536 characters"),
    "many braces": ("menuentry a { " * 60, "is nested deeper than 50 levels"),
    "a function of itself": ("function f { f; }\nf", "is nested deeper than 40 levels"),
    "a file of itself": ("source /boot/grub/grub.cfg", "is nested deeper than|reads more than 8 further files"),
    "a menu of itself": ("submenu a { submenu a { submenu a { submenu a { submenu a { submenu a { submenu a { submenu a { "
                         "submenu a { submenu a { linux /k; } } } } } } } } } }", "has submenus deeper than 8 levels"),
    "many entries": ("for i in 1 2 3; do for j in " + "1 " * 900 + "; do menuentry a { b; }; done; done",
                     "has more than 2000 menu entries"),
    "many variables": ("\n".join(f"v{n}=1" for n in range(3000)), "has more than 2000 variables"),
    "many words": ("a " * 210_000, "has more than 200000 words"),
    "a long command": ("a=" + "x" * 60_000 + "\nb $a $a", "has a command of more than 65536 characters"),
}


@pytest.mark.parametrize(("text", "what"), SCRIPTS.values(), ids=SCRIPTS)
def test_scripts(text: str, what: str) -> None:
    with pytest.raises(FormatError, match=what):
        grub.parse(text, GRUB, World({GRUB: text}), "")


def test_deep_conditions(tmp_path: Path) -> None:
    """What is deeper than Python goes is refused, too."""
    text = ("if [ " + "( " * 10_000 + "a" + " )" * 10_000 + " ]; then true; fi\n").encode()
    disk = ext(tmp_path / "disk", tree(tmp_path / "files", {"boot/grub/grub.cfg": text}), 8 * MIB)
    assert "has a boot configuration or a file system that is too deep or too large" in refused(disk)


def test_large_configuration(tmp_path: Path) -> None:
    files = tree(tmp_path / "files", {"boot/grub/grub.cfg": b"#" * (TEXT_LIMIT + 1)})
    assert f"has a file /boot/grub/grub.cfg of {TEXT_LIMIT + 1} bytes, more than {TEXT_LIMIT}" in refused(
        ext(tmp_path / "disk", files, 8 * MIB))


@pytest.mark.parametrize(("parse", "text", "what"), [
    (legacy.parse, "title a\n" * 1001, "has more than 1000 menu entries"),
    (syslinux.parse, "label a\n" * 1001, "has more than 1000 menu entries"),
    (syslinux.parse, "include x.cfg\n", "includes more than 16 files in its boot configuration"),
])
def test_large_menus(parse: Callable[..., object], text: str, what: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(text, "/x.cfg", World({"/x.cfg": text}), "")
    assert caught.value.what == what


def test_many_entries_of_systemd_boot() -> None:
    world = World({f"/loader/entries/{n}.conf": "linux /k" for n in range(300)})
    with pytest.raises(FormatError, match="has more than 200 files in /loader/entries"):
        bls.parse("", "/loader/loader.conf", world, "")


def judged(data: bytes) -> None:
    """Anything may be said of a damaged disk, as a FormatError."""
    try:
        found = choice.choose(lambda at, length: data[at : at + max(0, length)], len(data), Wish())
        for source in (found.kernel, *found.initrds):
            assert sum(map(len, source.system.content(source.node))) == source.node.size
    except FormatError:
        pass


DAMAGE = st.lists(st.tuples(st.integers(0, 400_000), st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF])), min_size=1, max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAMAGE)
def test_damaged_ext(ext4: bytes, damage: list[tuple[int, int]]) -> None:
    data = bytearray(ext4)
    for at, value in damage:
        data[at] = value
    judged(bytes(data))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAMAGE)
def test_damaged_fat(fat16: bytes, damage: list[tuple[int, int]]) -> None:
    data = bytearray(fat16)
    for at, value in damage:
        data[at % 120_000] = value
    judged(bytes(data))


WORDS = st.lists(st.sampled_from([
    "if", "then", "else", "fi", "[", "]", "(", ")", "!", "-a", "menuentry", "submenu", "{", "}", "\n", ";", "$a", '"${b}', "'",
    "\\", "linux", "initrd", "/k", "set", "a=1", "function", "f", "return", "while", "do", "done", "for", "in", "source",
    "blscfg", "title", "kernel", "label", "default", "root", "(hd0,0)", "append", "include", "configfile", "search", "--set=a",
    "1>2", "load_env", "\0", "é", "module", "xen.gz", "mboot.c32", "---", "menu", "options", "break",
]), max_size=40).map(" ".join)


@settings(max_examples=300)
@given(WORDS, st.sampled_from([grub.parse, legacy.parse, syslinux.parse, bls.parse]), st.sampled_from(["", "0", "1>0", "f"]))
def test_any_words(text: str, parse: Callable[..., object], wanted: str) -> None:
    try:
        parse(text, GRUB, World({"/k": text, "/loader/entries/a.conf": text, "/boot/grub/grubenv": text}), wanted)
    except FormatError as error:
        assert error.what.isprintable()
