"""Empty disks: what is in them, the space they take, and the tools that make them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.work import work
from vmbatch.disk.blank import Blank
from vmbatch.disk.overlay import Overlay
from vmbatch.errors import NodeError
from vmbatch.format.name import Form

MIB = 1 << 20


def blank(path: Path, form: str = "raw", *, size: int = 8 * MIB, reserve: bool = False) -> Blank:
    return Blank(str(path), Form("", form), "", size, "", "", "", reserve)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(("form", "driver"), [("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc"),
                                              ("vhd-fixed", "vpc")])
@pytest.mark.parametrize("reserve", [False, True])
def test_space_and_content(tmp_path: Path, form: str, driver: str, reserve: bool) -> None:
    """What an earlier file left on the disk is not in it, whether its space is taken at once or not."""
    earlier = tmp_path / "earlier"
    earlier.write_bytes(b"secret" * (16 * MIB // 6))
    os.sync()
    earlier.unlink()
    path = tmp_path / "disk"
    blank(path, form, reserve=reserve).make(work())
    assert (path.stat().st_blocks * 512 >= 8 * MIB) == reserve
    assert path.stat().st_mode & 0o777 == 0o600
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", driver, "-O", "raw", path, raw], check=True)
    assert raw.stat().st_size == 8 * MIB
    assert not raw.read_bytes().strip(b"\0")


def test_space_that_is_not_there(small: Path) -> None:
    with pytest.raises(NodeError) as caught:
        blank(small / "disk", reserve=True).make(work())
    assert caught.value.what == f"8 MiB for the disk {small}/disk are not there: No space left on device"
    assert list(small.iterdir()) == []
    blank(small / "disk").make(work())


def test_never_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        blank(tmp_path / "disk").make(work())
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A program that writes down how it was called."""
    path = tmp_path / "tool"
    path.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/said\n: > {tmp_path}/disk\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("form", "said"), [
    (Form("vhd-util", "vhd"), "create -n {0}/disk -s 8"),
    (Form("vhd-util", "vhd-fixed"), "create -n {0}/disk -s 8 -r"),
    (Form("qcow-create", "qcow"), "8 {0}/disk"),
    (Form("qemu-img", "qcow2"), "create -q -f qcow2 {0}/disk 8388608"),
    (Form("qemu-img", "vhd"), "create -q -f vpc -o subformat=dynamic,force_size=on {0}/disk 8388608"),
])
def test_a_tool_makes_it(tmp_path: Path, tool: Path, form: Form, said: str) -> None:
    """As the tools' own sources have it: vhd-util and qcow-create are in no Debian any more."""
    Blank(f"{tmp_path}/disk", form, str(tool), 8 * MIB, "", "", "", False).make(work())
    assert (tmp_path / "said").read_text() == said.format(tmp_path) + "\n"


@pytest.mark.parametrize(("form", "backing", "said"), [
    (Form("vhd-util", "vhd"), "vhd", "snapshot -n {0}/disk -p /base"),
    (Form("vhd-util", "vhd"), "raw", "snapshot -n {0}/disk -p /base -m"),
    (Form("qcow-create", "qcow"), "raw", "8 {0}/disk /base"),
    (Form("qemu-img", "qcow2"), "vhd", "create -q -u -f qcow2 -F vpc -b /base {0}/disk 8388608"),
])
def test_a_tool_makes_an_overlay(tmp_path: Path, tool: Path, form: Form, backing: str, said: str) -> None:
    Overlay(f"{tmp_path}/disk", form, str(tool), "/base", backing, 8 * MIB).make(work())
    assert (tmp_path / "said").read_text() == said.format(tmp_path) + "\n"


def test_a_tool_of_the_node(tmp_path: Path) -> None:
    Blank(f"{tmp_path}/disk", Form("qemu-img", "qcow2"), "/usr/bin/qemu-img", 8 * MIB, "", "", "", False).make(work())
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", tmp_path / "disk"], check=True)
