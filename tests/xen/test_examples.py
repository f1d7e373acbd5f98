"""The examples for Xen in real PV guests, with the lab's image and bridge in place of theirs."""

from pathlib import Path

import pytest

from .conftest import Dom0
from .template import IMAGES, QUICK

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

FOLDER = Path(__file__).resolve().parents[2] / "examples/domains"
WHO = "#!/bin/sh\nid -un\ncat /sys/hypervisor/type /sys/block/xvda/size\n"
SMALL = {"<memory unit='GiB'>2</memory>": "<memory unit='MiB'>192</memory>"}


def example(name: str, changes: dict[str, str]) -> str:
    """The example with its replacements made."""
    text = (FOLDER / f"{name}.xml").read_text()
    for old, new in (SMALL | changes).items():
        assert old in text, f"{name}.xml has no {old}"
        text = text.replace(old, new)
    return text


def test_a_kernel_of_the_node(dom0: Dom0) -> None:
    ended = dom0.play(WHO, example("xen-debian", {
        "/srv/images/debian/vmlinuz": f"{IMAGES}/vmlinux", "/srv/images/debian/initrd.img": f"{IMAGES}/initrd.cpio",
        "/srv/images/debian/disk.raw": f"{IMAGES}/disk.raw", "root=/dev/xvda1 ro": f"{QUICK} root=/dev/xvda1 rw"}))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 0, ""), ended.told()
    assert ended.output.split()[:2] == ["alice", "xen"]


def test_the_kernel_in_the_disk(dom0: Dom0) -> None:
    """By VmBatch's own boot loader, with the context written into the disk."""
    ended = dom0.play(WHO, example("xen-el", {
        "/opt/vmbatch/hooks/pygrub-vmbatch": "/var/spool/torque/mom_priv/pygrub-vmbatch",
        "/srv/images/el.raw": f"{IMAGES}/boot.raw"}))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 0, ""), ended.told()
    assert ended.output.split()[:2] == ["alice", "xen"]
