"""The pure parts of building guests: apt's answer, kernels inside bzImages, partition tables, digests of inputs."""

import lzma
import struct
from pathlib import Path

import pytest

from lab.cache import digest
from lab.image import MIB, mbr
from lab.kernel import extract
from lab.package import Package, parse_simulation

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
