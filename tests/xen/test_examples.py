"""The examples for Xen in real PV guests, with the lab's image and bridge in place of theirs."""

import re
from pathlib import Path

import pytest

from .conftest import OWN, Dom0
from .template import IMAGES, QUICK, STATIC, WHERE

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

BRIDGE = "<interface type='bridge'>\n      <source bridge='xenbr0'/>\n    </interface>"
FOLDER = Path(__file__).resolve().parents[2] / "examples/domains"
SMALL = {"<memory unit='GiB'>2</memory>": "<memory unit='MiB'>192</memory>"}


def example(name: str, changes: dict[str, str]) -> str:
    """The example with its replacements made."""
    text = (FOLDER / f"{name}.xml").read_text()
    for old, new in (SMALL | changes).items():
        assert old in text, f"{name}.xml has no {old}"
        text = text.replace(old, new)
    return text


def test_a_kernel_of_the_node(dom0: Dom0) -> None:
    """For two jobs at once, each with its own of one image."""
    dom0.call("write", path=OWN, text=example("xen-debian", {
        "/srv/images/debian/vmlinuz": f"{IMAGES}/vmlinux", "/srv/images/debian/initrd.img": f"{IMAGES}/initrd.cpio",
        "/srv/images/debian/disk.raw": f"{IMAGES}/disk.raw", "root=/dev/xvda1 ro": f"{QUICK} root=/dev/xvda1 rw",
        "<vcpu>2</vcpu>": "<vcpu>1</vcpu>"}))
    script = "#!/bin/sh\necho $PBS_JOBID > ~/mine; sync; sleep 1; cat ~/mine; df -T / | sed -n 2p | cut -d' ' -f1\n"
    jobs = [dom0.accept(script, user=user) for user in ("alice", "bob")]
    for job in jobs:
        dom0.call("start_prologue", job=job)
    assert [dom0.call("finish_prologue", job=job) for job in jobs] == ["run", "run"], [dom0.call("log", job=job) for job in jobs]
    assert len(re.findall("vmbatch-", dom0.run("xl", "list"))) == 2
    assert [dom0.call("shell", job=job) for job in jobs] == [0, 0]
    assert [dom0.call("streams", job=job)[0].split() for job in jobs] == [[job, "/dev/xvda1"] for job in jobs]
    assert [dom0.call("epilogue", job=job) for job in jobs] == [0, 0]
    for job in jobs:
        dom0.call("forget", job=job)


def test_the_kernel_in_the_disk(dom0: Dom0) -> None:
    """By VmBatch's own boot loader, with the context written into the disk, and a static address."""
    ended = dom0.play(WHERE, example("xen-el", {
        "/opt/vmbatch/hooks/pygrub-vmbatch": "/var/spool/torque/mom_priv/pygrub-vmbatch",
        "/srv/images/el.raw": f"{IMAGES}/boot.raw", BRIDGE: STATIC}))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 0, ""), ended.told()
    assert re.fullmatch(r"alice\n10\.78\.0\.[23]\d/24\nxen\n", ended.output)
