"""Disks of published templates in a real guest, and files of the node behind each driver that today's libxl has."""

import pytest

from .conftest import Dom0
from .template import BRIDGE, IMAGES, MEDIUM, ROOT, template

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

PUBLISHED = f"""<disk type='file' device='disk'><driver name='tap2' type='aio'/>
      <vbdisksource source='{IMAGES}/disk.raw' copy_method='cow' format='vhd-util-vhd'/><target dev='xvda' bus='xen'/></disk>
    <disk type='file' device='disk'><driver name='tap2' type='vhd'/>
      <vbdisksource source='cernvm-hd.vhd' size='64' create='always' format='vhd-util-vhd'/><target dev='xvdaa' bus='xen'/></disk>
    {MEDIUM.replace("name='qemu' type='raw'", "name='tap2' type='aio'")}"""
LOOK = """#!/bin/sh
cat /sys/block/xvda/size /sys/block/xvdaa/size /sys/block/xvdb/ro
cat /sys/hypervisor/type
"""


def test_the_lines_of_xen_4(dom0: Dom0) -> None:
    """An overlay on a raw image, an empty VHD of ours, the medium."""
    ended = dom0.play(LOOK, template(devices=PUBLISHED, disk=True, hypervisor="XEN4"))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 0, ""), ended.told()
    assert ended.output.split() == [str(128 << 11), str(64 << 11), "1", "xen"]
    for line in ("vhd-util is not on this node; VmBatch writes vhd itself",
                 "disk xvda: the overlay is qcow2, as driver qemu would not read the image below one in the format vhd",
                 "disk xvdaa: driver qemu with type vhd opens it: tap2 is not in today's libxl",
                 "disk xvdb: driver qemu with type raw opens it: tap2 is not in today's libxl"):
        assert line in ended.log


def test_by_a_loop_device_of_the_kernels(dom0: Dom0) -> None:
    """A copy behind `phy`, which leaves a loop device if nobody looks after it."""
    root = ROOT.replace("name='qemu'", "name='phy'").replace("'cow'", "'copy'")
    ended = dom0.play("#!/bin/sh\ncut -d' ' -f1 /sys/hypervisor/type; id -un\n", template(devices=root + MEDIUM, disk=True))
    assert (ended.verdict, ended.output) == ("run", "xen\nalice\n"), ended.told()


def test_a_template_for_kvm_is_refused(dom0: Dom0) -> None:
    text = template(network=BRIDGE).replace("<domain type='xen'>", "<domain type='kvm'>").replace("XEN<", "KVM<")
    ended = dom0.play(LOOK, text)
    assert "is for KVM, and [libvirt] uri = xen:///system" in ended.errors, ended.told()
