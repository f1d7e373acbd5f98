"""Every mistake in a template is named, with its line and what was expected."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import template
from vmbatch.errors import InputError

from .sample import TEMPLATE

SEVEN = Path(__file__).parent / "templates" / "mistakes.xml"


def mistakes(text: str) -> list[tuple[int, str]]:
    with pytest.raises(InputError) as caught:
        template.parse(text.encode(), "t.xml")
    return caught.value.problems


def one(old: str, new: str) -> str:
    """The only complaint about the sample with one change, on the line of that change."""
    assert TEMPLATE.count(old) == 1
    text = TEMPLATE.replace(old, new)
    line = text[: text.index(new)].count("\n") + 1
    found = mistakes(text)
    assert [number for number, _ in found] == [line], found
    return found[0][1]


def test_seven(golden: Callable[[str, str], None]) -> None:
    with pytest.raises(InputError) as caught:
        template.parse(SEVEN.read_bytes(), "mistakes.xml")
    assert [line for line, _ in caught.value.problems] == [4, 5, 7, 8, 12, 15, 19]
    golden("mistakes.xml.txt", "".join(f"{line}\n" for line in caught.value.lines()))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<vbhypervisor>KVM<", "<vbhypervisor>QEMU<", "it must be type='qemu'"),
        ("<vbhypervisor>KVM<", "<vbhypervisor>HYPERV<", "expected the hypervisor the template is written for: QEMU, KVM"),
        ("<domain type='kvm'>", "<domain>", "needs the attribute type"),
        ("<target dev='sda' bus='sata'/>", "<target dev='vda' bus='sata'/>", "a second disk with the target dev='vda'"),
        ("<target dev='vda' bus='virtio'/>", "<target dev='../../etc/x' bus='virtio'/>", "expected a device such as 'vda'"),
        ("source='/srv/images/base.raw'", "source='base.raw'", "expected an absolute path"),
        ("source='/srv/images/base.raw'", "source='/srv/../base.raw'", "expected an absolute path"),
        ("copy_method='cow'", "copy_method='link'", "expected 'cow' (an overlay"),
        ("copy_method='cow'", "copy_method='cow' format_='raw'", "<vbdisksource> has no attribute format_"),
        ("source='context.iso'", "source='a/b.iso'", "expected the file name of the medium"),
        ("<vbpreparecdrom source='context.iso'/>", "<vbpreparecdrom/>", "needs the attribute source"),
        (
            "<vbpreparecdrom source='context.iso'/>",
            "<vbpreparecdrom source='context.iso'/><vbpreparecdrom source='b.iso'/>",
            "a second <vbpreparecdrom>",
        ),
        ("<name>sample</name>", "<name>sample</name><vbfoo/>", "unknown tag <vbfoo>"),
        (
            "<name>sample</name>",
            "<name>sample</name><metadata><vbconfig/></metadata>",
            "<vbconfig> stands in <metadata>; it belongs into <domain>",
        ),
        ("<vbconfig>", "<vbconfig vbfoo='1'>", "<vbconfig> has no attribute vbfoo"),
        ("<memory unit='MiB'>", "<memory vbsize='1' unit='MiB'>", "unknown attribute vbsize"),
        ("<domain type='kvm'>", "<domain type='kvm' vbhypervisor='KVM'>", "unknown attribute vbhypervisor"),
        ("<vbhypervisor>KVM", "<vbhypervisor> <b/>KVM", ""),
    ],
)
def test_mistake(old: str, new: str, said: str) -> None:
    assert said in one(old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<readonly/>", "", "needs a <readonly/>"),
        ("<driver name='qemu' type='raw'/>", "", "the image's format is not stated"),
        ("<vbpreparecdrom source='context.iso'/>", "", "no <disk> has a <vbpreparecdrom"),
        ("<target dev='vda' bus='virtio'/>", "", "<disk> has no <target dev='...'/>"),
        (
            "<disk type='file' device='cdrom'>",
            "<disk type='block' device='cdrom'>",
            "a disk that VmBatch makes needs type='file'",
        ),
        (
            "<disk type='file' device='disk'>",
            "<disk type='network' device='disk'>",
            "a disk that VmBatch makes needs type='file'",
        ),
        (
            "<vbdisksource source='/srv/images/base.raw' copy_method='cow'/>",
            "<source file='/srv/images/base.raw'/>",
            "would be written by every job",
        ),
        ("<readonly/>", "<readonly/><vbdisksource source='/x' source_format='raw'/>", "in the same <disk>"),
        (
            "<interface type='network'><source network='default'/></interface>\n    <interface",
            "<disk type='file'><vbpreparecdrom source='context.iso'/><target dev='sdb'/><readonly/></disk>\n<interface",
            "a second <vbpreparecdrom source='context.iso'>; give it another name",
        ),
        (
            "<vbconfig>",
            "<vbconfig><vbtarfiles><vbtarfile tarfile='a.tar' option='cdrom' path='x/../../kit'/></vbtarfiles>",
            "leads out of the medium",
        ),
    ],
)
def test_mistake_of_a_disk(old: str, new: str, said: str) -> None:
    assert TEMPLATE.count(old) == 1
    assert [text for _, text in mistakes(TEMPLATE.replace(old, new)) if said in text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "domain",
        "<domain",
        "<domain type='kvm'>\n",
        "<domain>&nbsp;</domain>",
        "\x00",
        "<?xml version='1.0' encoding='x'?><domain/>",
    ],
)
def test_no_xml(text: str) -> None:
    [(_, said)] = mistakes(text)
    assert said.startswith("is not XML: ")


@pytest.mark.parametrize("text", ["<network/>", "<domains><domain/></domains>", "<domain xmlns='urn:x' type='kvm'/>"])
def test_no_domain(text: str) -> None:
    [(line, said)] = mistakes(f"\n{text}")
    assert line == 2
    assert "not a libvirt <domain>" in said


@given(
    st.lists(
        st.sampled_from(
            [
                "<domain>",
                "<domain type='kvm'>",
                "</domain>",
                "<devices>",
                "</devices>",
                "<disk type='file'>",
                "</disk>",
                "<vbconfig>",
                "</vbconfig>",
                "<vbdisks/>",
                "<vbdisksource/>",
                "<vbdisksource source='http://x'/>",
                "<target/>",
                "<target dev='a'/>",
                "<vbtarfile/>",
                "<vbpreparecdrom source=''/>",
                "<!-- -->",
                "<?pi x?>",
                "text",
                "<![CDATA[x]]>",
                "<a:b xmlns:a='urn:a' a:vb='1' vb='2'/>",
            ]
        ),
        max_size=12,
    )
)
def test_only_input_errors(parts: list[str]) -> None:
    for text in ("".join(parts), f"<domain type='kvm'>{''.join(parts)}</domain>"):
        try:
            template.parse(text.encode(), "t.xml")
        except InputError as error:
            assert error.lines()[0].startswith("t.xml")
