"""The order of a Xen guest's disks: libvirt's numbers, CernVM's words, and the warnings between them."""

import pytest

from vmbatch.hypervisor.target import Target, number, warnings
from vmbatch.plan import plan
from vmbatch.template import parse

from .published import FAT
from .sample import facts, job, settings

IMAGE, CACHE, MEDIUM = Target("xvdb", "image"), Target("xvdaa", "empty"), Target("xvdc", "medium")
CERNVM_ORDER = ("CernVM takes the target that is first as a word, xvda, as its cache, and that is not the empty disk xvdb: "
                "give that a target as xvdaa, which libvirt numbers behind xvdz")
LOWEST = "the bootloader reads the disk with the lowest target, {}, and that is {}: " \
         "give the disk that boots a lower one, as xvda before xvdb, ..., xvdz, xvdaa"


@pytest.mark.parametrize(("name", "expected"), [
    ("xvda", 0), ("xvdb", 1), ("xvdz", 25), ("xvdaa", 26), ("xvdab", 27), ("xvdzz", 701), ("hda", 0), ("sdc1", 2), ("xvda2", 0),
    ("disk", -1),
])
def test_libvirts_number(name: str, expected: int) -> None:
    assert number(name) == expected


@pytest.mark.parametrize(("targets", "cernvm", "said"), [
    ([IMAGE, CACHE, MEDIUM], True, []),
    ([MEDIUM, CACHE, IMAGE], True, []),
    ([Target("xvda", "image"), Target("xvdb", "empty")], True, [CERNVM_ORDER]),
    ([Target("xvda", "image"), Target("xvdb", "empty")], False, []),
    ([Target("xvda", "empty"), IMAGE], True, [LOWEST.format("xvda", "an empty disk")]),
    ([Target("xvda", "medium"), IMAGE], False, [LOWEST.format("xvda", "the context medium")]),
    ([Target("xvda", "other")], True, []),
    ([], False, ["the guest has a bootloader, but no disk to boot from"]),
])
def test_warnings(targets: list[Target], cernvm: bool, said: list[str]) -> None:
    assert warnings(targets, cernvm=cernvm) == said


def published(boot: str, cache: str, os: str = "") -> str:
    return f"""<domain type='xen'><vbconfig><vbhypervisor>XEN4</vbhypervisor></vbconfig>
      <bootloader>/usr/bin/pygrub</bootloader><os><type>linux</type>{os}</os><devices>
      <disk type='file' device='disk'><driver name='tap2' type='aio'/><vbdisksource source='{FAT}' copy_method='download'/>
        <target dev='{boot}' bus='xen'/></disk>
      <disk type='file' device='disk'><driver name='tap2' type='vhd'/>
        <vbdisksource source='hd.vhd' size='20480' create='always' format='vhd'/><target dev='{cache}' bus='xen'/></disk>
      <disk type='file' device='disk'><driver name='tap2' type='aio'/><vbpreparecdrom source='context.iso'/>
        <target dev='xvdc' bus='xen'/><readonly/></disk></devices></domain>"""


@pytest.mark.parametrize(("boot", "cache", "os", "said"), [
    ("xvdb", "xvdaa", "", []),
    ("xvda", "xvdb", "", [CERNVM_ORDER]),
    ("xvda", "xvdb", "<kernel>/boot/vmlinuz</kernel>", []),
])
def test_a_job_is_told(boot: str, cache: str, os: str, said: list[str]) -> None:
    """The image's own name says that it is CernVM's; targets and their order stay the template's."""
    text = published(boot, cache, os)
    chosen = plan(job(), parse(text.encode(), "t.xml"), settings(libvirt_uri="xen:///system"), facts(text=text))
    assert [note for note in chosen.notes if not note.startswith("disk ")] == said
    assert [chosen.xml.decode().index(f'dev="{name}"') for name in (boot, cache, "xvdc")] == sorted(
        chosen.xml.decode().index(f'dev="{name}"') for name in (boot, cache, "xvdc"))
