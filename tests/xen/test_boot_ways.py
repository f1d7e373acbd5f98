"""Guests that boot what is in their own disk, and VmBatch's words on their kernel's line."""

import pytest

from .conftest import Dom0
from .template import IMAGES, MEDIUM, ROOT, template

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

BOOT = ROOT.replace(f"{IMAGES}/disk.raw", f"{IMAGES}/boot.raw")
LINE = "#!/bin/sh\ncat /proc/cmdline\n"


@pytest.mark.parametrize("program", ["pygrub", "/var/spool/torque/mom_priv/pygrub-vmbatch"])
def test_a_bootloader_of_the_node_appends_our_words(dom0: Dom0, program: str) -> None:
    """On a qcow2 overlay, which dom0 attaches to itself for so long."""
    text = template("<vbkernelline>yes</vbkernelline>", BOOT + MEDIUM, boot=f"<bootloader>{program}</bootloader>",
                    line="lab.template=yes")
    ended = dom0.play(LINE, text)
    assert (ended.verdict, ended.errors) == ("run", ""), ended.told()
    words = ended.output.split()
    assert "lab.menu=yes" in words, "the disk's own menu"
    assert "lab.template=yes" in words, "the template's line, behind it"
    assert any(word.startswith("vb") for word in words), "VmBatch's"


def test_pvgrub_boots_by_the_disks_own_menu(dom0: Dom0) -> None:
    text = template(devices=BOOT + MEDIUM).replace(f"{IMAGES}/vmlinux", f"{IMAGES}/pvgrub")
    text = text.replace(f"<initrd>{IMAGES}/guest.cpio</initrd>", "")
    ended = dom0.play(LINE, text)
    assert (ended.verdict, ended.errors) == ("run", ""), ended.told()
    assert "lab.menu=yes" in ended.output.split()
