"""VHD images against QEMU and libvhdi: what we write they read, what they write we read."""

import itertools
import json
import os
import struct
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from vmbatch.format import Layout, vhd

from . import BASE, CHILD, MIDDLE, NOW, SECTOR, Sectors, filled, written

MIB, GIB = 1 << 20, 1 << 30
PYVHDI = """
import json, sys, pyvhdi
files = []
for path in sys.argv[2:]:
    file = pyvhdi.file()
    file.open(path)
    if files:
        file.set_parent(files[-1])
    files.append(file)
last = files[-1]
with open(sys.argv[1], "wb") as out:
    while piece := last.read_buffer(1 << 20):
        out.write(piece)
json.dump([[file.media_size, file.disk_type, file.identifier, file.parent_identifier, file.parent_filename]
           for file in files], sys.stdout)
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def put(path: Path, layout: Layout | bytes) -> Path:
    if isinstance(layout, bytes):
        path.write_bytes(layout)
    else:
        with path.open("wb") as file:
            file.truncate(layout.size)
            for offset, part in layout.parts:
                os.pwrite(file.fileno(), part, offset)
    return path


def merge(out: Path, *paths: Path, base: vhd.Vhd | None = None) -> bytes:
    """The disk of a chain, base first; read and written with real files."""
    files = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        chain = []
        for number, file in enumerate(files):
            def read(offset: int, length: int, file: int = file) -> bytes:
                return os.pread(file, length, offset)

            chain.append((base if base and number == 0 else vhd.parse(read, os.fstat(file).st_size), read))
        with out.open("wb") as disk:
            disk.truncate(chain[-1][0].size)
            for offset, data in vhd.extents(chain):
                os.pwrite(disk.fileno(), data, offset)
    finally:
        for file in files:
            os.close(file)
    return out.read_bytes()


def read(path: Path) -> vhd.Vhd:
    with path.open("rb") as file:
        return vhd.parse(lambda offset, length: os.pread(file.fileno(), length, offset), path.stat().st_size)


def libvhdi(out: Path, *paths: Path) -> list[list[Any]]:
    """What libvhdi says of each image; the last one's disk is in `out`."""
    described: list[list[Any]] = json.loads(run("/usr/bin/python3", "-c", PYVHDI, str(out), *map(str, paths)))
    return described


def info(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("qemu-img", "info", "-f", "vpc", "--output=json", str(path)))
    return found


def sectors(mark: int, *numbers: int) -> Sectors:
    return {number: bytes([mark]) * SECTOR for number in numbers}


@pytest.mark.parametrize("write", [vhd.fixed, vhd.dynamic])
@pytest.mark.parametrize("size", [1, 40 * MIB, 5 * GIB, 2040 * GIB])
def test_qemu_sees_the_size(tmp_path: Path, write: Any, size: int) -> None:
    """Not the geometry's, which is another: QEMU trusts the size of `tap` (block/vpc.c, vpc_open)."""
    image = put(tmp_path / "image", write(size, BASE, NOW))
    assert info(image)["virtual-size"] == vhd.rounded(size)
    assert info(image)["format"] == "vpc"


def test_qemu_probes_it(tmp_path: Path) -> None:
    image = put(tmp_path / "image", vhd.dynamic(2 * MIB, BASE, NOW))
    assert json.loads(run("qemu-img", "info", "--output=json", str(image)))["format"] == "vpc"


@pytest.mark.parametrize("write", [vhd.fixed, vhd.dynamic])
def test_fresh_ones_are_empty(tmp_path: Path, write: Any) -> None:
    image, empty = put(tmp_path / "image", write(5 * MIB, BASE, NOW)), tmp_path / "empty"
    with empty.open("wb") as file:
        file.truncate(6 * MIB)
    assert "Images are identical." in run("qemu-img", "compare", "-f", "vpc", "-F", "raw", str(image), str(empty))
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(image), str(tmp_path / "raw"))
    assert (tmp_path / "raw").read_bytes() == bytes(6 * MIB) == merge(tmp_path / "merged", image)
    kind = {"fixed": 2, "dynamic": 3}[read(image).kind]
    assert libvhdi(tmp_path / "vhdi", image) == [[6 * MIB, kind, str(BASE), None, None]]
    assert (tmp_path / "vhdi").read_bytes() == bytes(6 * MIB)


def test_qemu_cannot_check_them(tmp_path: Path) -> None:
    """So nobody but our reader looks through a block table."""
    image = put(tmp_path / "image", vhd.dynamic(2 * MIB, BASE, NOW))
    done = subprocess.run(["qemu-img", "check", "-f", "vpc", str(image)], check=False, capture_output=True, text=True)
    assert done.returncode == 63
    assert "does not support checks" in done.stderr


@pytest.mark.parametrize("size", [8 * MIB, 40 * MIB, 127 * MIB, 300 * MIB, 600 * MIB, 5 * GIB, 127 * GIB, 1000 * GIB])
def test_geometry_is_qemus(tmp_path: Path, size: int) -> None:
    """QEMU makes the size that of a geometry, as far as one reaches; of that size ours is the same."""
    image = tmp_path / "image"
    run("qemu-img", "create", "-f", "vpc", "-o", "subformat=dynamic", str(image), str(size))
    real, cylinders, heads, track = struct.unpack_from(">QHBB", image.read_bytes(), 48)
    assert vhd.geometry(real) == (cylinders, heads, track)
    assert cylinders * heads * track * SECTOR == min(real, 65535 * 16 * 255 * SECTOR)
    assert read(image).size == real


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("force_size", ["on", "off"])
def test_made_and_written_by_qemu(tmp_path: Path, subformat: str, force_size: str) -> None:
    """Blocks out of order, and one at the disk's end."""
    image, disk = tmp_path / "image", tmp_path / "raw"
    run("qemu-img", "create", "-f", "vpc", "-o", f"subformat={subformat},force_size={force_size}", str(image), str(9 * MIB))
    size = read(image).size
    assert size == info(image)["virtual-size"]
    run("qemu-io", "-f", "vpc", "-c", "write -P 7 5M 3k", "-c", "write -P 8 1536k 1M", "-c", f"write -P 9 {size - 512} 512",
        str(image))
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(image), str(disk))
    found = merge(tmp_path / "merged", image)
    assert found == disk.read_bytes()
    assert found[5 * MIB : 5 * MIB + 3072] == b"\7" * 3072
    assert found[1536 << 10 : 2560 << 10] == b"\10" * MIB
    assert found[-512:] == b"\11" * 512
    libvhdi(tmp_path / "vhdi", image)
    assert (tmp_path / "vhdi").read_bytes() == found


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_converted_by_qemu(tmp_path: Path, subformat: str) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    content = bytearray(12 * MIB)
    for at in range(0, 12 * MIB, 700 * 1024):
        content[at : at + 9000] = os.urandom(9000)
    disk.write_bytes(content)
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={subformat},force_size=on", str(disk), str(image))
    assert read(image).kind == subformat
    assert merge(tmp_path / "merged", image) == content


def test_ours_filled_and_read_by_the_others(tmp_path: Path) -> None:
    image = put(tmp_path / "image", filled(written(vhd.dynamic(6 * MIB, BASE, NOW)),
                                           {2: sectors(5, *range(4096)), 0: sectors(6, *range(4096))}))
    expected = b"\6" * 2 * MIB + bytes(2 * MIB) + b"\5" * 2 * MIB
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(image), str(tmp_path / "raw"))
    libvhdi(tmp_path / "vhdi", image)
    assert (tmp_path / "raw").read_bytes() == (tmp_path / "vhdi").read_bytes() == expected == merge(tmp_path / "merged", image)


def chain(directory: Path) -> tuple[list[Path], bytes]:
    """Three images, and the disk they make; 0xEE where no bit is set. Runs end with a byte of the bitmap, for libvhdi's sake."""
    size = 8 * MIB
    for name in ("base", "middle", "child"):
        (directory / name).mkdir()
    paths = [directory / name / f"{name}.vhd" for name in ("base", "middle", "child")]
    put(paths[0], filled(written(vhd.dynamic(size, BASE, NOW)), {3: sectors(1, *range(8), 4095), 0: sectors(1, *range(4096))}))
    middle = vhd.differencing(size, MIDDLE, NOW, read(paths[0]), str(paths[0]), str(paths[1]), NOW)
    put(paths[1], filled(written(middle), {0: sectors(2, 14, 15, *range(99, 104)), 3: sectors(2, *range(3, 8))}))
    child = vhd.differencing(size, CHILD, NOW, read(paths[1]), str(paths[1]), str(paths[2]), NOW)
    put(paths[2], filled(written(child), {3: sectors(0, 5, 6, 7), 1: sectors(3, 4095), 0: sectors(3, 15, 4094, 4095)}))
    marks = [1] * 4096 + [0] * 8192 + [1] * 3 + [2] * 2 + [0] * 4090 + [1]
    marks[14], marks[99:104] = 2, [2] * 5
    marks[15] = marks[4094] = marks[4095] = marks[8191] = 3
    return paths, b"".join(bytes([mark]) * SECTOR for mark in marks)


def test_a_chain_of_three_as_libvhdi_reads_it(tmp_path: Path) -> None:
    paths, expected = chain(tmp_path)
    assert libvhdi(tmp_path / "vhdi", *paths) == [
        [8 * MIB, 3, str(BASE), None, None],
        [8 * MIB, 4, str(MIDDLE), str(BASE), "base.vhd"],
        [8 * MIB, 4, str(CHILD), str(MIDDLE), "middle.vhd"],
    ]
    assert merge(tmp_path / "merged", *paths) == expected
    assert (tmp_path / "vhdi").read_bytes() == expected


def test_libvhdi_takes_bits_behind_a_set_one_for_set(tmp_path: Path) -> None:
    """Within a byte (libvhdi_block_descriptor_read_sector_bitmap_data shifts and does not mask); libvhd looks at each bit.

    When this fails, the chain above need no longer respect it.
    """
    base, child = tmp_path / "base", tmp_path / "child"
    put(base, filled(written(vhd.dynamic(2 * MIB, BASE, NOW)), {0: sectors(1, *range(4096))}))
    layout = vhd.differencing(2 * MIB, CHILD, NOW, read(base), str(base), str(child), NOW)
    put(child, filled(written(layout), {0: sectors(2, 1, 4)}))
    libvhdi(tmp_path / "vhdi", base, child)
    ours, theirs = (list(data[::SECTOR]) for data in (merge(tmp_path / "merged", base, child), (tmp_path / "vhdi").read_bytes()))
    assert ours == [1, 2, 1, 1, 2] + [1] * 4091
    assert theirs == [1, 2, 0xEE, 0xEE, 2, 0xEE, 0xEE, 0xEE] + [1] * 4088


def test_the_locators_lead_to_the_parents(tmp_path: Path) -> None:
    """From the child's directory, as libvhd looks them up (vhd_find_parent)."""
    paths, _ = chain(tmp_path)
    for parent, child in itertools.pairwise(paths):
        found = read(child).parent
        assert found is not None
        assert found.paths == (f"../{parent.stem}/{parent.name}", *(2 * [f"./../{parent.stem}/{parent.name}"]))
        assert all((child.parent / path).samefile(parent) for path in found.paths)


def test_a_fixed_base_made_by_qemu(tmp_path: Path) -> None:
    """Not of a multiple of 2 MiB; its child has just its size."""
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    run("qemu-img", "create", "-f", "vpc", "-o", "subformat=fixed", str(base), str(3 * MIB))
    run("qemu-io", "-f", "vpc", "-c", "write -P 7 0 1M", str(base))
    found = read(base)
    assert found.size % (2 * MIB)
    last = found.size // SECTOR - 1
    layout = vhd.differencing(found.size, CHILD, NOW, found, str(base), str(child), NOW)
    put(child, filled(written(layout), {0: sectors(3, 7), 1: sectors(4, last - 4096)}))
    expected = bytearray(b"\7" * MIB + bytes(found.size - MIB))
    expected[7 * SECTOR : 8 * SECTOR], expected[-SECTOR:] = b"\3" * SECTOR, b"\4" * SECTOR
    assert merge(tmp_path / "merged", base, child) == expected
    libvhdi(tmp_path / "vhdi", base, child)
    assert (tmp_path / "vhdi").read_bytes() == expected


def test_a_raw_base(tmp_path: Path) -> None:
    """For libvhdi, which knows no raw parents, the same as a fixed image of no identity."""
    base, child = tmp_path / "base.img", tmp_path / "child.vhd"
    base.write_bytes(b"\7" * 4 * MIB)
    put(child, filled(written(vhd.differencing(4 * MIB, CHILD, NOW, None, str(base), str(child), NOW)), {1: sectors(3, 7)}))
    expected = b"\7" * (2 * MIB + 7 * SECTOR) + b"\3" * SECTOR + b"\7" * (2 * MIB - 8 * SECTOR)
    assert merge(tmp_path / "merged", base, child, base=vhd.raw(4 * MIB)) == expected
    ((_, footer),) = vhd.fixed(4 * MIB, uuid.UUID(int=0), NOW).parts
    fixed = put(tmp_path / "fixed.vhd", base.read_bytes() + footer)
    libvhdi(tmp_path / "vhdi", fixed, child)
    assert (tmp_path / "vhdi").read_bytes() == expected


def test_qemu_ignores_the_parent(tmp_path: Path) -> None:
    """Why a differencing image is never QEMU's to open: no error, no warning, no backing file, and another disk."""
    paths, expected = chain(tmp_path)
    paths[0].unlink()
    paths[1].unlink()
    done = subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(paths[2]), str(tmp_path / "raw")],
                          check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert "backing-filename" not in info(paths[2])
    wrong = (tmp_path / "raw").read_bytes()
    assert len(wrong) == len(expected)
    assert wrong != expected
    assert wrong[2 * MIB : 4 * MIB - 512] == b"\xee" * (2 * MIB - 512), "nor does it look at the bitmaps"
    assert wrong[4 * MIB : 6 * MIB] == bytes(2 * MIB)


@pytest.mark.parametrize("mib", [8, 4096])
def test_qemus_first_block_shows_nothing_of_the_old_end(tmp_path: Path, mib: int) -> None:
    """QEMU puts it where the image's end was; the guest must read zeros where it has not written."""
    path = tmp_path / "new.vhd"
    put(path, written(vhd.dynamic(mib << 20, BASE, NOW)))
    subprocess.run(["qemu-io", "-f", "vpc", "-c", "write -P 0x5a 1M 512", path], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", path, tmp_path / "raw"], check=True)
    with (tmp_path / "raw").open("rb") as raw:
        block = raw.read(2 << 20)
    assert block == bytes(1 << 20) + b"\x5a" * 512 + bytes((1 << 20) - 512)
