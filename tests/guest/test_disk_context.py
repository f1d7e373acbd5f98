"""The context written into file systems of every sort, in real guests that boot from them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import appliance, disk, place
from lab.mom import Ended, Mom

from . import matrix
from .conftest import CONFIG
from .test_context_matrix import archive, check, run

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]


def template(kind: str, layout: str, more: str = "") -> str:
    """The bare guest on a disk of that kind, with this <vbdisk> and these further disks."""
    images = place.IMAGES / disk.make(kind).name
    text = matrix.template("busybox", "DISK", "dhcp")
    text = re.sub(r"<kernel>.*</kernel>", f"<kernel>{images}/vmlinux</kernel>", text)
    text = re.sub(r"<initrd>.*</initrd>", f"<initrd>{images}/initrd.cpio</initrd>", text)
    text = re.sub(r"source='[^']*/disk.raw'", f"source='{images}/disk.raw'", text)
    text = text.replace("root=/dev/vda1 rw", disk.cmdline(kind)).replace("<interface", f"{more}<interface", 1)
    return re.sub(r"<vbdisks>.*</vbdisks>", f"<vbdisks>{layout}</vbdisks>", text)


def job(mom: Mom, kind: str, layout: str, more: str = "") -> Ended:
    return run(mom, template(kind, layout, more))


@pytest.mark.parametrize(("kind", "layout"), [
    ("gpt", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"),
    ("whole", "<vbdisk name='rootdisk' dev='vda' init='busybox'/>"),
    ("ext2", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"),
    ("ext3", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"),
    ("lvm", "<vbdisk name='rootdisk' dev='vda' partition='vda1' volume='guest/root'/>"),
    ("xfs", "<vbdisk name='rootdisk' dev='vda' partition='vda1' trusted='yes'/>"),
    ("btrfs", "<vbdisk name='rootdisk' dev='vda' partition='vda1' trusted='yes'/>"),
    ("lvmxfs", "<vbdisk name='rootdisk' dev='vda' partition='vda1' volume='guest/root' trusted='yes'/>"),
    ("two", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/><vbdisk name='jobdisk' dev='vda' partition='vda2'/>"),
])
def test_file_systems(mom: Mom, kind: str, layout: str) -> None:
    check(job(mom, kind, layout), "dhcp")


@pytest.fixture
def vhd() -> Iterator[Path]:
    """The guest's disk as a VHD, for all to read."""
    path = Path("/srv/vmbatch/own.vhd")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on",
                    place.IMAGES / disk.make("mbr").name / "disk.raw", path], check=True)
    path.chmod(0o644)
    yield path
    path.unlink()


@pytest.mark.parametrize("way", ["a raw copy", "a VHD", "an overlay in qcow"])
def test_formats(mom: Mom, vhd: Path, way: str) -> None:
    text = template("mbr", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>")
    if way == "a raw copy":
        text = text.replace("copy_method='cow'", "copy_method='copy'")
    elif way == "a VHD":
        text = re.sub(r"<driver name='qemu' type='raw' cache='unsafe'/>\s*<vbdisksource [^>]*/>",
                      f"<driver name='qemu' type='vpc'/><vbdisksource source='{vhd}' copy_method='copy'/>", text)
    else:
        text = text.replace("copy_method='cow'", "copy_method='cow' format='qcow'")
    check(run(mom, text), "dhcp")


def test_a_disk_for_the_job_alone(mom: Mom) -> None:
    """Empty, made for this job, and filled with what is large of the context before the guest boots."""
    scratch = """<disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><vbdisksource source='job' create='always' size='64' filesystem='ext4'/>
      <target dev='vdb' bus='virtio'/></disk>"""
    layout = "<vbdisk name='rootdisk' dev='vda' partition='vda1'/><vbdisk name='jobdisk' dev='vdb'/>"
    check(job(mom, "mbr", layout, scratch), "dhcp")


@pytest.mark.parametrize(("kind", "layout"), [
    ("xfs", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"),
    ("lvmsplit", "<vbdisk name='rootdisk' dev='vda' partition='vda1' volume='guest/root'/>"),
])
def test_by_libguestfs(mom: Mom, kind: str, layout: str) -> None:
    """What the node's kernel is not to mount, and no tool without a kernel can write."""
    before = CONFIG.read_text()
    CONFIG.write_text(f'{before}\n[guest]\nappliance = "{place.IMAGES / appliance.directory().name}"\n')
    try:
        check(job(mom, kind, layout), "dhcp")
    finally:
        CONFIG.write_text(before)


@pytest.mark.parametrize(("kind", "layout", "said"), [
    ("mbr", "<vbdisk name='rootdisk' dev='vda' partition='vda3'/>", "has no partition 3"),
    ("lvm", "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>", "say which logical volume"),
    ("lvm", "<vbdisk name='rootdisk' dev='vda' partition='vda1' volume='guest/home'/>", "guest/home"),
    ("mbr", "<vbdisk name='rootdisk' dev='vda'/>", "has no file system"),
])
def test_a_layout_that_is_wrong(mom: Mom, kind: str, layout: str, said: str) -> None:
    """Named with the template's line, before anything boots."""
    ended = job(mom, kind, layout)
    assert ended.verdict == "requeue"
    assert said in ended.errors.decode()
    assert re.search(r"/etc/vmbatch/domains/matrix\.xml:[0-9]+: ", ended.errors.decode())
    assert "phase start" not in Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()
