"""File systems and partition tables as their own tools make them: the right kernel, byte for byte."""

from pathlib import Path

import pytest

from tests.pure.lvm_sample import SAMPLE
from vmbatch.bootloader import Wish
from vmbatch.bootloader.choice import NothingError
from vmbatch.bootloader.place import places

from .disks import CERNVM, INITRD, KERNEL, MIB, SECTOR, chosen, content, ext, fat, partitioned, patched, tree

PLAIN = "/boot/grub/menu.lst"
EXT = {
    "ext2": ("-t", "ext2"), "ext2 of 1996": ("-t", "ext2", "-r", "0"), "ext3": ("-t", "ext3"), "ext4": ("-t", "ext4"),
    "blocks of 1 KiB": ("-t", "ext4", "-b", "1024"), "pointers, blocks of 1 KiB": ("-t", "ext3", "-b", "1024"),
    "without 64bit": ("-t", "ext4", "-O", "^64bit"), "meta_bg": ("-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"),
    "EL5": ("-t", "ext3", "-I", "128"), "bigger inodes": ("-t", "ext4", "-I", "1024"),
    "large_dir": ("-t", "ext4", "-O", "large_dir"), "mmp": ("-t", "ext4", "-O", "mmp"),
}
FAT = {"FAT12": (8 * MIB, "-F", "12"), "FAT16": (20 * MIB, "-F", "16"), "FAT32": (40 * MIB, "-F", "32", "-s", "1"),
       "FAT32 of big sectors": (300 * MIB, "-F", "32", "-S", "4096")}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("cernvm"), dict(CERNVM))


@pytest.fixture(scope="module")
def ext4(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ext(tmp_path_factory.mktemp("ext4") / "ext4", top, 24 * MIB, "-t", "ext4")


@pytest.fixture(scope="module")
def fat16(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fat(tmp_path_factory.mktemp("fat16") / "fat16", top, 20 * MIB)


def booted(path: Path) -> str:
    """Where its configuration is; kernel and initrd are whole."""
    found = chosen(path)
    assert found.title == "uCernVM 1.18"
    assert found.args == "root=first quiet"
    assert content(found.kernel) == KERNEL
    assert [content(source) for source in found.initrds] == [INITRD]
    return found.where


@pytest.mark.parametrize("options", EXT.values(), ids=EXT)
def test_ext(top: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert booted(ext(tmp_path / "disk", top, 24 * MIB, *options)) == f"the whole disk, {PLAIN}"


@pytest.mark.parametrize("options", FAT.values(), ids=FAT)
def test_fat(top: Path, tmp_path: Path, options: tuple[int, str]) -> None:
    assert booted(fat(tmp_path / "disk", top, *options)) == f"the whole disk, {PLAIN}"


def test_fragments_and_holes(tmp_path: Path) -> None:
    """A sparse kernel in extents, and one of 40 MB by pointers to pointers to pointers."""
    sparse = bytearray(3 * MIB + 5)
    sparse[MIB : MIB + 4], sparse[-4:] = b"here", b"tail"
    files = tree(tmp_path / "files", {"boot/grub/menu.lst": b"title x\nkernel /k\n", "k": b""})
    (files / "k").write_bytes(b"")
    with (files / "k").open("r+b") as file:
        for at in (MIB, len(sparse) - 4):
            file.seek(at)
            file.write(sparse[at : at + 4])
    for kind in ("ext2", "ext4"):
        assert content(chosen(ext(tmp_path / kind, files, 16 * MIB, "-t", kind, "-b", "1024")).kernel) == bytes(sparse)
    large = KERNEL * 234
    (files / "k").write_bytes(large)
    assert content(chosen(ext(tmp_path / "large", files, 96 * MIB, "-t", "ext2", "-b", "1024")).kernel) == large


def test_long_names_on_fat(tmp_path: Path) -> None:
    """Names of several entries, in capitals or not, in a directory of several clusters."""
    names = {f"boot/Vmlinuz-6.1.0-{number:03d}-cloud-amd64.signed.image": b"%d" % number for number in range(200)}
    menu = b"title x\nkernel /BOOT/vmlinuz-6.1.0-177-CLOUD-amd64.signed.image\n"
    files = tree(tmp_path / "files", {**names, "boot/grub/menu.lst": menu})
    assert content(chosen(fat(tmp_path / "disk", files, 8 * MIB)).kernel) == b"177"


def test_large_directory_of_ext(tmp_path: Path) -> None:
    """With an index, whose nodes are not entries."""
    names = {f"boot/a-rather-long-name-so-that-there-are-many-blocks-{number}": b"%d" % number for number in range(3000)}
    files = tree(tmp_path / "files", {**names, "boot/grub/menu.lst": b"title x\nkernel " + sorted(names)[1234].encode() + b"\n"})
    disk = ext(tmp_path / "disk", files, 40 * MIB, "-t", "ext4", "-b", "1024", "-N", "4000")
    assert content(chosen(disk).kernel) == names[sorted(names)[1234]]


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_partitions(tmp_path: Path, ext4: Path, label: str) -> None:
    script = f"label: {label}\nstart=2048, size=8M\nstart=20480, size=30M\n"
    assert booted(partitioned(tmp_path / "disk", script, {20480: ext4})) == f"partition 2, {PLAIN}"


def test_logical_partition(tmp_path: Path, ext4: Path) -> None:
    script = ("label: dos\nstart=2048, size=8M, type=83\nstart=20480, size=80M, type=5\n"
              "start=22528, size=8M, type=83\nstart=43008, size=30M, type=83\n")
    assert booted(partitioned(tmp_path / "disk", script, {43008: ext4}, 128 * MIB)) == f"partition 6, {PLAIN}"


def test_active_partition_first(tmp_path: Path, ext4: Path, fat16: Path) -> None:
    script = "label: dos\nstart=2048, size=24M\nstart=61440, size=30M, bootable\n"
    assert booted(partitioned(tmp_path / "disk", script, {2048: fat16, 61440: ext4})) == f"partition 2, {PLAIN}"


def test_cernvm_as_a_disk(tmp_path: Path, fat16: Path) -> None:
    """CernVM's hdd image: a FAT right behind the MBR."""
    assert booted(partitioned(tmp_path / "disk", "label: dos\nstart=1, size=40960, type=e, bootable\n", {1: fat16})) == (
        f"partition 1, {PLAIN}")


def entry(kind: int, start: int, count: int, flag: int = 0x80) -> bytes:
    return bytes((flag, 0, 0, 0, kind, 0, 0, 0)) + start.to_bytes(4, "little") + count.to_bytes(4, "little")


BOOT_CODE = {
    "boot code": {446: b"\x0e\x1f\xbe\x77\x7c\xac\x22\xc0\x74\x0b\x56\xb4\x0e\xbb\x07\x00" * 4},
    "a plausible table": {446: entry(0x83, 2048, 20480) + entry(0, 0, 0, 0) * 3},
    "a table of the whole": {446: entry(0x0E, 0, 40960) + entry(0, 0, 0, 0) * 3},
    "a table beyond the end": {446: entry(0x83, 2048, 1 << 30) + entry(0, 0, 0, 0) * 3},
    "a protective MBR": {446: entry(0xEE, 1, 40959, 0) + entry(0, 0, 0, 0) * 3},
    "an extended partition": {446: entry(0x05, 64, 4096, 0) + entry(0, 0, 0, 0) * 3},
}


@pytest.mark.parametrize("crafted", BOOT_CODE.values(), ids=BOOT_CODE)
def test_fat_that_looks_like_a_partition_table(tmp_path: Path, fat16: Path, crafted: dict[int, bytes]) -> None:
    """The signature 0x55AA is there in both. What stands at 446 is boot code, or meant to deceive."""
    disk = tmp_path / "disk"
    disk.write_bytes(fat16.read_bytes())
    assert disk.read_bytes()[510:512] == b"\x55\xaa"
    assert booted(patched(disk, crafted)) == f"the whole disk, {PLAIN}"


@pytest.mark.parametrize("old", ["parameters", "tables and directory", "all"])
def test_partition_table_that_looks_like_a_fat(tmp_path: Path, fat16: Path, ext4: Path, old: str) -> None:
    """A FAT from before the disk was partitioned: its boot sector, with more or less of the rest."""
    disk = partitioned(tmp_path / "disk", "label: dos\nstart=20480, size=30M\n", {20480: ext4})
    kept = {"parameters": 62, "tables and directory": 440, "all": 440}[old]
    before = fat16.read_bytes()
    patched(disk, {0: before[:kept]} | ({} if old == "parameters" else {SECTOR: before[SECTOR : 200 * SECTOR]}))
    if old == "all":
        patched(disk, {200 * SECTOR: before[200 * SECTOR : 20000 * SECTOR]})
    assert booted(disk) == f"partition 1, {PLAIN}"


def test_old_superblock_before_partitions(tmp_path: Path, ext4: Path, fat16: Path) -> None:
    """An ext from before, whose superblock nobody has wiped."""
    disk = partitioned(tmp_path / "disk", "label: dos\nstart=61440, size=24M\n", {61440: fat16})
    assert booted(patched(disk, {1024: ext4.read_bytes()[1024 : 60000 * SECTOR]})) == f"partition 1, {PLAIN}"


def test_whole_disk_if_nothing_known_is_in_a_partition(tmp_path: Path, fat16: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(fat16.read_bytes())
    patched(disk, BOOT_CODE["a plausible table"])
    fd = disk.open("rb")
    found = places(lambda at, length: (fd.seek(at), fd.read(length))[1], 20 * MIB).found
    assert [(place.number, place.kind) for place in found] == [(0, "vfat"), (1, "")]
    fd.close()


@pytest.mark.parametrize("start", [0, 2048])
def test_logical_volume(tmp_path: Path, top: Path, start: int) -> None:
    """In two segments, on the whole disk or in a partition; other volumes of the group are on another disk, or striped."""
    root = ext(tmp_path / "root", top, 12 * MIB, "-t", "ext4").read_bytes()
    physical = tmp_path / "physical"
    physical.write_bytes(SAMPLE.ljust(64 * MIB, b"\0"))
    patched(physical, {MIB: root[: 8 * MIB], 13 * MIB: root[8 * MIB :]})
    disk = partitioned(tmp_path / "disk", "label: gpt\nstart=2048, size=64M\n", {start: physical}) if start else physical
    assert booted(disk) == f"the logical volume vg0/root, {PLAIN}"


def test_separate_boot_partition(tmp_path: Path) -> None:
    """grub.cfg searches its root by uuid, and kernels are named from there."""
    uuid = "a1b2c3d4-0000-4000-8000-00000000abcd"
    config = (f"set default=0\nmenuentry 'Debian' {{\n set root='hd0,msdos7'\n search --no-floppy --fs-uuid --set=root {uuid}\n"
              " linux /vmlinuz root=/dev/xvda2 ro\n initrd /initrd.img\n}\n").encode()
    boot = ext(tmp_path / "boot", tree(tmp_path / "b", {"vmlinuz": KERNEL, "initrd.img": INITRD}), 8 * MIB, "-U", uuid)
    root = ext(tmp_path / "root", tree(tmp_path / "r", {"boot/grub/grub.cfg": config}), 8 * MIB)
    disk = partitioned(tmp_path / "disk", "label: gpt\nstart=2048, size=8M\nstart=20480, size=8M\n", {2048: root, 20480: boot})
    found = chosen(disk)
    assert (found.where, found.args) == ("partition 1, /boot/grub/grub.cfg", "root=/dev/xvda2 ro")
    assert (content(found.kernel), content(found.initrds[0])) == (KERNEL, INITRD)


def test_links_stay_in_the_guest(tmp_path: Path) -> None:
    files = tree(tmp_path / "files", {
        "etc/grub.conf": "../boot/grub/grub.conf", "boot/grub/menu.lst": "./grub.conf", "boot/boot": ".",
        "boot/grub/grub.conf": b"title x\nkernel /boot/boot/vmlinuz\ninitrd /../../../l1\n",
        "boot/vmlinuz": "/usr/lib/vm", "usr/lib/vm": "../../../../real", "real": KERNEL,
        "l1": "/" + "/".join(["boot/boot"] * 8) + "/../real",
    })
    found = chosen(ext(tmp_path / "disk", files, 8 * MIB, "-t", "ext4"))
    assert content(found.kernel) == content(found.initrds[0]) == KERNEL


def test_nothing_to_boot(tmp_path: Path, fat16: Path) -> None:
    """All that was tried is said."""
    empty = ext(tmp_path / "empty", tree(tmp_path / "e", {"etc/fstab": b""}), 8 * MIB)
    script = "label: dos\nstart=2048, size=8M\nstart=20480, size=8M, type=82\nstart=40960, size=8M\nstart=61440, size=4M\n"
    xfs = tmp_path / "xfs"
    xfs.write_bytes(b"XFSB" + (4096).to_bytes(4) + (1024).to_bytes(8) + bytes(496))
    disk = partitioned(tmp_path / "disk", script, {2048: empty, 40960: xfs})
    with pytest.raises(NothingError) as caught:
        chosen(disk)
    assert caught.value.what == "has nothing that can be booted"
    assert caught.value.detail == (
        "partition 1 (ext2) has no boot configuration that can be used",
        "partition 2 has no file system that is known here",
        "partition 3 has a file system that cannot be read here: xfs",
        "partition 4 has no file system that is known here",
    )


def test_the_kernel_that_the_toolstack_names(fat16: Path) -> None:
    found = chosen(fat16, Wish(kernel="/cernvm/initrd.img", ramdisk="/cernvm/vmlinuz.gzip"))
    assert (content(found.kernel), content(found.initrds[0]), found.args) == (INITRD, KERNEL, "")
    with pytest.raises(NothingError) as caught:
        chosen(fat16, Wish(kernel="/nowhere"))
    assert caught.value.detail == ("the whole disk (vfat) has no '/nowhere'",)
