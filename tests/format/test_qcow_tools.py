"""What the writers of qcow2 and qcow make, to QEMU's own tools."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmbatch.format import FormatError, Layout, qcow, qcow2

MIB = 1 << 20
SIZES = [512, MIB, 5 * MIB + 512, 3 << 30, 40 << 40]
QCOW_SIZES = [512, 5 * MIB + 512, 3 << 30, 8 << 40]


def put(path: Path, layout: Layout) -> str:
    """The layout as a file."""
    with path.open("xb") as file:
        for offset, data in layout.parts:
            file.seek(offset)
            file.write(data)
        file.truncate(layout.size)
    return str(path)


def image_tool(*arguments: str) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def info(*arguments: str) -> dict[str, Any]:
    return dict(json.loads(image_tool("info", "--output=json", *arguments)))


def disk_io(*arguments: str) -> str:
    done = subprocess.run(["qemu-io", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


def parse(path: str) -> qcow.Qcow:
    with open(path, "rb") as file:
        return qcow.parse(lambda offset, length: os.pread(file.fileno(), length, offset), os.fstat(file.fileno()).st_size)


def options(top: Path, form: str, below: Path) -> str:
    """QEMU's name for an image over a raw one, with nothing left to guess."""
    return "json:" + json.dumps({
        "driver": form, "file": {"driver": "file", "filename": str(top)},
        "backing": {"driver": "raw", "file": {"driver": "file", "filename": str(below)}}})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A raw disk of 4 MiB and a sector, each MiB with its own byte."""
    path = tmp_path / "base.raw"
    path.write_bytes(b"".join(bytes([0x41 + at]) * MIB for at in range(4)) + b"z" * 512)
    return path


@pytest.mark.parametrize("size", [*SIZES, 2 << 50])
def test_blank_qcow2(tmp_path: Path, size: int) -> None:
    path = put(tmp_path / "image", qcow2.blank(size))
    assert "No errors were found" in image_tool("check", "-f", "qcow2", path)
    known = info("-f", "qcow2", path)
    assert (known["virtual-size"], known["cluster-size"], known["format"]) == (size, 65536, "qcow2")
    assert known["format-specific"]["data"]["compat"] == "1.1"
    assert "backing-filename" not in known


@pytest.mark.parametrize("size", SIZES)
def test_qcow2_overlay(tmp_path: Path, base: Path, size: int) -> None:
    path = put(tmp_path / "image", qcow2.overlay(str(base), "raw", size))
    known = info("-f", "qcow2", path)
    assert (known["virtual-size"], known["backing-filename"], known["backing-filename-format"]) == (size, str(base), "raw")
    assert "No errors were found" in image_tool("check", "-f", "qcow2", path)


def test_qcow2_overlay_reads_through_and_keeps_what_is_written(tmp_path: Path, base: Path) -> None:
    before = base.read_bytes()
    path = put(tmp_path / "image", qcow2.overlay(str(base), "raw", len(before)))
    image_tool("compare", "-f", "qcow2", "-F", "raw", path, str(base))
    disk_io("-f", "qcow2", "-c", "read -P 0x42 1M 1M", "-c", "write -P 0x77 1536K 64K", "-c", "read -P 0x42 1M 512K",
            "-c", "read -P 0x77 1536K 64K", "-c", "read -P 0x42 1600K 448K", "-c", "read -P 0x7a 4M 512", path)
    assert base.read_bytes() == before
    assert "No errors were found" in image_tool("check", "-f", "qcow2", path)
    image_tool("convert", "-f", "qcow2", "-O", "raw", path, str(tmp_path / "flat"))
    assert (tmp_path / "flat").read_bytes() == before[:1536 * 1024] + b"\x77" * 65536 + before[1600 * 1024:]


def test_qcow2_overlay_that_is_larger_than_its_base(tmp_path: Path, base: Path) -> None:
    path = put(tmp_path / "image", qcow2.overlay(str(base), "raw", 64 << 40))
    disk_io("-f", "qcow2", "-c", "write -P 1 63T 1M", "-c", "read -P 1 63T 1M", "-c", "read -P 0 5M 1M",
            "-c", "read -P 0x44 3M 1M", path)
    assert "No errors were found" in image_tool("check", "-f", "qcow2", path)


@pytest.mark.parametrize("name", ["a" * 200, "mit Leer zeichen", "ümläut", "nbd:127.0.0.1:10809", "a,b=c", "%41\n"])
def test_qcow2_overlay_on_any_name(tmp_path: Path, base: Path, name: str) -> None:
    below = base.rename(tmp_path / name)
    path = put(tmp_path / "image", qcow2.overlay(str(below), "raw", 4 * MIB + 512))
    assert info("-f", "qcow2", path)["backing-filename"] == str(below)
    disk_io("-f", "qcow2", "-c", "read -P 0x43 2M 1M", path)


def test_qcow2_overlay_with_the_longest_path(tmp_path: Path) -> None:
    below = "/" + "/".join(["x" * 203] * 5) + "/ab"
    assert len(below) == qcow2.PATH_LIMIT
    path = put(tmp_path / "image", qcow2.overlay(below, "qcow2", MIB))
    assert info("-f", "qcow2", path)["backing-filename"] == below


def test_qcow2_overlay_never_probes(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header on a raw base is not believed."""
    base = tmp_path / "base"
    base.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(MIB - 8))
    path = put(tmp_path / "image", qcow2.overlay(str(base), "raw", MIB))
    disk_io("-f", "qcow2", "-c", "read -P 0x51 0 1", path)
    assert info("-f", "qcow2", path)["backing-filename-format"] == "raw"


@pytest.mark.parametrize("make", [qcow.blank, lambda size: qcow.blank(size, xen=True)], ids=["plain", "Xen"])
@pytest.mark.parametrize("size", QCOW_SIZES)
def test_blank_qcow(tmp_path: Path, make: Callable[[int], Layout], size: int) -> None:
    path = put(tmp_path / "image", make(size))
    assert parse(path).size == size
    known = info("-f", "qcow", path)
    assert (known["virtual-size"], known["cluster-size"], known["format"]) == (size, 4096, "qcow")
    end = size - 512
    disk_io("-f", "qcow", "-c", f"write -P 9 {end} 512", "-c", f"read -P 9 {end} 512", path)


@pytest.mark.parametrize("xen", [False, True], ids=["plain", "Xen"])
def test_qcow_overlay(tmp_path: Path, base: Path, xen: bool) -> None:
    before = base.read_bytes()
    top = tmp_path / "image"
    put(top, qcow.overlay(str(base), len(before), xen=xen))
    known = info("-f", "qcow", str(top))
    assert (known["virtual-size"], known["cluster-size"], known["backing-filename"]) == (len(before), 512, str(base))
    whole = options(top, "qcow", base)
    image_tool("convert", "-O", "raw", whole, str(tmp_path / "flat"))
    assert (tmp_path / "flat").read_bytes() == before
    disk_io("-c", "read -P 0x42 1M 1M", "-c", "write -P 0x77 1536K 512", "-c", "read -P 0x42 1M 512K",
            "-c", "read -P 0x77 1536K 512", "-c", "read -P 0x7a 4M 512", whole)
    image_tool("convert", "-O", "raw", whole, str(tmp_path / "changed"))
    assert (tmp_path / "changed").read_bytes() == before[:1536 * 1024] + b"\x77" * 512 + before[1536 * 1024 + 512:]
    assert base.read_bytes() == before


def test_xens_checksum_after_qemu_has_written(tmp_path: Path) -> None:
    """QEMU does not know it, so that the image is refused until it is converted."""
    plain = put(tmp_path / "plain", qcow.blank(8 * MIB))
    xen = put(tmp_path / "xen", qcow.blank(8 * MIB, xen=True))
    for path in (plain, xen):
        disk_io("-f", "qcow", "-c", "write -P 9 1M 64K", path)
    assert parse(plain) == qcow.Qcow(8 * MIB, 12, 9, False)
    with pytest.raises(FormatError, match=r"^has an L1 table that its checksum denies$"):
        parse(xen)
    image_tool("convert", "-f", "qcow", "-O", "qcow", xen, str(tmp_path / "converted"))
    assert parse(str(tmp_path / "converted")) == qcow.Qcow(8 * MIB, 12, 9, False)


def test_qcow_is_laid_out_as_qemu_does(tmp_path: Path, base: Path) -> None:
    image_tool("create", "-q", "-f", "qcow", str(tmp_path / "theirs"), str(3 << 30))
    ours, theirs = (Path(path).read_bytes() for path in (put(tmp_path / "ours", qcow.blank(3 << 30)), tmp_path / "theirs"))
    assert ours.rstrip(b"\0") == theirs.rstrip(b"\0")
    image_tool("create", "-q", "-u", "-f", "qcow", "-b", str(base), "-F", "raw", str(tmp_path / "theirs"), "8M")
    ours, theirs = (Path(path).read_bytes() for path in (
        put(tmp_path / "our overlay", qcow.overlay(str(base), 8 * MIB)), tmp_path / "theirs"))
    assert ours.rstrip(b"\0") == theirs.rstrip(b"\0")
