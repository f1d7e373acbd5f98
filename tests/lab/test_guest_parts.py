"""The parts of building guests: apt's answer, kernels inside bzImages, partition tables, LVM, disks, digests of inputs."""

import io
import lzma
import os
import re
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest

from lab import disk, lvm, partition
from lab.base import base_files
from lab.cache import digest
from lab.disk import KINDS, assemble, cmdline, lvm_segments, make_filesystem, xfs_prototype
from lab.image import MIB, mbr
from lab.kernel import extract
from lab.package import Package, parse_simulation
from lab.partition import GPT_ESP, GPT_LINUX, LINUX, LVM, Partition, gpt, unique
from lab.stock import enabled

ELF = b"\x7fELF" + b"kernel" * 100


def test_apt_answer_names_what_would_be_installed() -> None:
    text = (
        "Reading package lists...\n"
        "Inst libtinfo6 (6.4-4 Debian:12.13/oldstable [amd64])\n"
        "Inst bash [5.1] (5.2.15-2+b13 Debian:12.13/oldstable [amd64]) []\n"
        "Inst busybox-static (1:1.35.0-4+deb12u1+b1 Debian:12.13/oldstable, Debian-Security:12/oldstable-security [amd64])\n"
        "Conf bash (5.2.15-2+b13 Debian:12.13/oldstable [amd64])\n"
    )
    packages = parse_simulation(text)
    assert packages == [
        Package("libtinfo6", "6.4-4", "amd64"),
        Package("bash", "5.2.15-2+b13", "amd64"),
        Package("busybox-static", "1:1.35.0-4+deb12u1+b1", "amd64"),
    ]
    assert packages[2].file.name == "busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb"


def bzimage(payload: bytes, setup_sectors: int = 3) -> bytes:
    start = (setup_sectors + 1) * 512
    offset = 64
    image = bytearray(start + offset) + payload + struct.pack("<I", len(ELF)) + b"behind the payload"
    image[0x1F1] = setup_sectors
    struct.pack_into("<II", image, 0x248, offset, len(payload) + 4)
    return bytes(image)


def test_kernel_is_taken_out_of_its_bzimage() -> None:
    assert extract(bzimage(lzma.compress(ELF, lzma.FORMAT_XZ))) == ELF


@pytest.mark.parametrize("payload", [b"\x1f\x8bgzip, say", lzma.compress(b"not ELF", lzma.FORMAT_XZ)])
def test_other_kernels_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"unknown way|not an ELF"):
        extract(bzimage(payload))


def test_mbr_has_one_partition_up_to_the_end() -> None:
    sector = mbr(256 * MIB)
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    flag, _, kind, _, first, count = struct.unpack_from("<B3sB3sII", sector, 446)
    assert (flag, kind, first * 512, (first + count) * 512) == (0x80, 0x83, MIB, 256 * MIB)
    assert sector[462:510] == bytes(48)


def test_digest_sees_names_contents_and_the_executable_bit(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    file = tree / "file"
    file.write_text("text")
    seen = {digest([tree])}
    file.write_text("texT")
    seen.add(digest([tree]))
    file.chmod(0o755)
    seen.add(digest([tree]))
    file.rename(tree / "other")
    seen.add(digest([tree]))
    assert len(seen) == 4
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__/x.pyc").write_text("")
    assert digest([tree]) in seen


def test_mbr_of_several_partitions() -> None:
    sector = partition.mbr([Partition(1, MIB, 4 * MIB, LINUX), Partition(3, 5 * MIB, 2 * MIB, LVM)])
    assert (len(sector), sector[510:]) == (512, b"\x55\xaa")
    entries = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * number) for number in range(4)]
    assert entries == [(0x80, 0x83, 2048, 8192), (0, 0, 0, 0), (0, 0x8E, 10240, 4096), (0, 0, 0, 0)]


def test_gpt_and_its_copy_agree() -> None:
    size = 16 * MIB
    begin, end = gpt(size, [Partition(1, MIB, 4 * MIB, GPT_LINUX, "root"), Partition(15, 5 * MIB, MIB, GPT_ESP)], "x")
    assert (len(begin), len(end)) == (34 * 512, 33 * 512)
    assert begin[510:512] == b"\x55\xaa"
    assert struct.unpack_from("<B3xB3xII", begin, 446) == (0, 0xEE, 1, size // 512 - 1)
    entries = begin[1024:]
    assert end[:-512] == entries
    seen = []
    for head in (begin[512:1024], end[-512:]):
        fields = struct.unpack_from("<8sIIIIQQQQ16sQIII", head)
        assert fields[0] == b"EFI PART"
        assert zlib.crc32(head[:16] + bytes(4) + head[20:92]) == fields[3]
        assert (fields[7], fields[8], fields[9]) == (34, size // 512 - 34, unique("x").bytes_le)
        assert (fields[11], fields[12], fields[13]) == (128, 128, zlib.crc32(entries))
        seen.append((fields[5], fields[6], fields[10]))
    last = size // 512 - 1
    assert seen == [(1, last, 2), (last, 1, last - 32)]
    assert struct.unpack_from("<16s16sQQ8x8s", entries) == (
        *(GPT_LINUX.bytes_le, unique("x-1").bytes_le, 2048, 10239),
        "root".encode("utf-16-le"),
    )
    assert struct.unpack_from("<16s16sQQ", entries, 14 * 128)[2:] == (10240, 12287)
    assert entries[128 : 14 * 128] == bytes(13 * 128)


def lvm_crc(data: bytes) -> int:
    """Bit by bit, from LVM's own start value."""
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


def test_physical_volume_is_found_by_label_and_checksums() -> None:
    size = lvm.START + 10 * lvm.EXTENT
    head = lvm.header(size, "guest", {"root": [lvm.Segment(4, 3), lvm.Segment(0, 2)]})
    assert len(head) == MIB
    label = head[512:1024]
    magic, sector, checksum, offset, kind = struct.unpack_from("<8sQII8s", label)
    assert (magic, sector, offset, kind, checksum) == (b"LABELONE", 1, 32, b"LVM2 001", lvm_crc(label[20:]))
    name, length, *areas = struct.unpack_from("<32sQ8Q", label, 32)
    assert (length, areas) == (size, [MIB, 0, 0, 0, 4096, MIB - 4096, 0, 0])
    area = head[4096:]
    assert area[4:20] == b" LVM2 x[5A%r0N*>"
    assert struct.unpack_from("<I", area)[0] == lvm_crc(area[4:512])
    at, count, checksum = struct.unpack_from("<QQI", area, 40)
    text = area[at : at + count]
    assert lvm_crc(text) == checksum
    assert text.endswith(b"\0")
    metadata = text.decode()
    assert metadata.startswith("guest {\n")
    assert name.decode() in [found.replace("-", "") for found in re.findall(r'id = "(\w{6}(?:-\w{4}){5}-\w{6})"', metadata)]
    assert re.findall(r"\bpe_start = (\d+)|\bpe_count = (\d+)|\bextent_size = (\d+)", metadata) == [
        *(("", "", "8192"), ("2048", "", ""), ("", "10", "")),
    ]
    pieces = re.findall(r'start_extent = (\d+)\nextent_count = (\d+).*?"pv0", (\d+)', metadata, re.DOTALL)
    assert pieces == [("0", "3", "4"), ("3", "2", "0")]
    assert metadata.count("{") == metadata.count("}")


@pytest.mark.parametrize("name", ["lvm", "lvmsplit", "lvmxfs"])
def test_segments_hold_the_file_system_and_do_not_overlap(name: str) -> None:
    kind = KINDS[name]
    segments = lvm_segments(kind)
    used = [extent for segment in segments for extent in range(segment.first, segment.first + segment.extents)]
    assert len(used) == len(set(used)) == kind.size // lvm.EXTENT
    assert max(used) < kind.size // lvm.EXTENT + 4
    assert (segments[0].first > segments[-1].first) == (name == "lvmsplit")


def small_tree(directory: Path) -> Path:
    tree = directory / "tree"
    (tree / "sbin").mkdir(parents=True)
    (tree / "sbin/init").write_bytes(os.urandom(3 * MIB))
    (tree / "sbin/init").chmod(0o4755)
    (tree / "etc").symlink_to("sbin")
    return tree


@pytest.mark.parametrize(("container", "pieces"), [
    ("whole", [(0, 0, 16)]),
    ("mbr", [(0, 1, 16)]),
    ("gpt", [(0, 1, 16)]),
    ("two", [(0, 1, 16)]),
    ("lvm", [(0, 1 + 1 + 8, 16)]),
    ("lvmsplit", [(0, 1 + 1 + 12, 8), (8, 1 + 1, 8)]),
])
def test_file_system_lies_where_the_tables_say(container: str, pieces: list[tuple[int, int, int]], tmp_path: Path) -> None:
    """Places and sizes in MiB: in the file system, on the disk."""
    kind = disk.Kind("ext4", 16 * MIB, container, "/dev/vda1")
    content, target = tmp_path / "content", tmp_path / "disk"
    make_filesystem(kind, small_tree(tmp_path), content)
    assemble(kind, content, target)
    whole, parts = content.read_bytes(), target.read_bytes()
    for at, place, length in pieces:
        assert parts[place * MIB : (place + length) * MIB] == whole[at * MIB : (at + length) * MIB]
    assert target.stat().st_blocks * 512 < len(parts)
    if container != "whole":
        assert parts[510:512] == b"\x55\xaa"
    if container == "two":
        second = Path(tmp_path / "second")
        second.write_bytes(parts[17 * MIB :])
        said = subprocess.run(["dumpe2fs", "-h", second], capture_output=True, text=True, check=True).stdout
        assert re.search(r"volume name: +JOB\n", said)
        assert struct.unpack_from("<B3xB3xII", parts, 462) == (0, 0x83, 17 * 2048, 64 * 2048)


@pytest.mark.parametrize(("filesystem", "size", "magic"), [
    ("ext2", 16, (1080, b"\x53\xef")),
    ("ext4", 16, (1080, b"\x53\xef")),
    ("xfs", 320, (0, b"XFSB")),
    ("btrfs", 256, (0x10040, b"_BHRfS_M")),
    ("vfat", 64, (510, b"\x55\xaa")),
])
def test_file_systems_are_made_without_mounting(filesystem: str, size: int, magic: tuple[int, bytes], tmp_path: Path) -> None:
    target = tmp_path / "content"
    make_filesystem(disk.Kind(filesystem, size * MIB, "whole", "/dev/vda"), small_tree(tmp_path), target)
    with open(target, "rb") as file:
        file.seek(magic[0])
        assert file.read(len(magic[1])) == magic[1]
    assert target.stat().st_size == size * MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content", "tree"]


def test_xfs_prototype_names_modes_links_and_ends_of_directories(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    (tree / "sbin").chmod(0o2750)
    assert xfs_prototype(tree).splitlines() == [
        *("/stand/none", "0 0", "d--755 0 0"),
        *("etc l--777 0 0 sbin", "sbin d-g750 0 0", f"init -u-755 0 0 {tree}/sbin/init", "$", "$"),
    ]


def test_kernel_lines_of_disks() -> None:
    assert cmdline("lvmxfs") == "root=/dev/guest/root rootfstype=xfs rw"
    assert cmdline("whole") == "root=/dev/vda rootfstype=ext4 rw"


def deb(path: Path, script: str | None) -> Path:
    """A package with nothing but a maintainer script, or not even that."""
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w:gz") as tar:
        for name, text in {"./control": "Package: x\nVersion: 1\nArchitecture: all\n", "./postinst": script}.items():
            if text is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
    members = {"debian-binary": b"2.0\n", "control.tar.gz": control.getvalue()}
    archive = b"!<arch>\n"
    for name, data in members.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(archive)
    return path


def test_units_that_a_new_machine_enables(tmp_path: Path) -> None:
    script = """\
#!/bin/sh
if deb-systemd-helper --quiet was-enabled 'a.service'; then
\t\t# Enables the unit on first installation, creates new
\t\t# symlinks on upgrades if the unit file has changed.
\t\tdeb-systemd-helper enable 'a.service' >/dev/null || true
fi
if deb-systemd-helper debian-installed 'b.socket'; then
\t\t# Create new symlinks, if any.
\t\tdeb-systemd-helper enable 'b.socket' >/dev/null || true
fi
"""
    assert enabled([deb(tmp_path / "a.deb", script), deb(tmp_path / "b.deb", None)]) == ["a.service"]


def test_base_files_completes_a_tree(tmp_path: Path) -> None:
    for name in ("var/run", "var/spool", "usr/share/base-files", "usr/bin", "root", "etc"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("dot.profile", "dot.bashrc", "profile", "motd"):
        (tmp_path / "usr/share/base-files" / name).write_text(name)
    base_files(tmp_path)
    assert os.readlink(tmp_path / "var/run") == "/run"
    assert (tmp_path / "etc/profile").read_text() == "profile"
    assert (tmp_path / "usr/local/sbin").is_dir()
