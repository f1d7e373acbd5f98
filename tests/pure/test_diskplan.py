"""What is made for each kind of disk, in which order, and what the domain says of it."""

import xml.etree.ElementTree as standard
from typing import Any

import pytest

from vmbatch import template
from vmbatch.disk.blank import Blank
from vmbatch.disk.duplicate import Duplicate
from vmbatch.disk.flatten import Flatten
from vmbatch.disk.link import Link
from vmbatch.disk.overlay import Overlay
from vmbatch.errors import NodeError, SiteError, VmBatchError
from vmbatch.facts import Facts, Image
from vmbatch.format.name import Form
from vmbatch.image.download import Download
from vmbatch.plan import Plan, plan
from vmbatch.resource import Piece, Resource
from vmbatch.spool.directory import Directory
from vmbatch.spool.first import FirstFill
from vmbatch.template import ImageSource

from .sample import GIB, TOKEN, facts, job, settings

SPOOL = f"/var/lib/vmbatch/spool/42.vm.{TOKEN}"
USES = f"/var/lib/vmbatch/store/uses/42.vm.{TOKEN}"
STORED = "/var/lib/vmbatch/store/site/content/abc"
MEDIUM = "<disk type='file'><vbpreparecdrom source='c.iso'/><target dev='vdz'/><readonly/></disk>"
QCOW2 = Form("", "qcow2")


def document(source: str, more: str = "", driver: str = "<driver type='raw'/>", kind: str = "kvm") -> str:
    return (f"<domain type='{kind}'><devices><disk type='file'>{driver}<vbdisksource {source}/>{more}<target dev='vda'/></disk>"
            f"{MEDIUM}</devices></domain>")


def planned(text: str, known: Facts | None = None, **settled: object) -> Plan:
    form = template.parse(text.encode(), "t.xml")
    return plan(job(), form, settings(**settled), known or facts(text=text))


def steps(chosen: Plan) -> list[Resource | Piece]:
    """Of the disks, without the spool directory."""
    first, *rest = chosen.phases[0].steps
    assert isinstance(first, Directory)
    return rest


def driver_of(chosen: Plan) -> dict[str, str]:
    driver = standard.fromstring(chosen.xml).find("devices/disk/driver")  # noqa: S314
    assert driver is not None
    return driver.attrib


def file_of(chosen: Plan) -> str | None:
    source = standard.fromstring(chosen.xml).find("devices/disk/source")  # noqa: S314
    return None if source is None else source.get("file")


THROWAWAY = {"name": "qemu", "cache": "unsafe", "discard": "unmap"}


@pytest.mark.parametrize(("form", "made"), [
    ("", QCOW2), ("format='qcow2'", QCOW2), ("format='qcow'", Form("", "qcow")), ("format='qcow-create-qcow'", Form("", "qcow")),
])
def test_overlay(form: str, made: Form) -> None:
    chosen = planned(document(f"source='/a' copy_method='cow' {form}"))
    assert steps(chosen) == [Overlay(f"{SPOOL}/vda.{made.format}", made, "", "/a", "raw", 2 * GIB)]
    assert driver_of(chosen) == {"type": made.format, **THROWAWAY}
    assert file_of(chosen) == f"{SPOOL}/vda.{made.format}"


def test_tool_on_the_node() -> None:
    text = document("source='/a' format='qemu-img-qcow2'")
    chosen = planned(text, facts(text=text, programs={"qemu-img": "/usr/bin/qemu-img"}))
    assert steps(chosen) == [
        Overlay(f"{SPOOL}/vda.qcow2", Form("qemu-img", "qcow2"), "/usr/bin/qemu-img", "/a", "raw", 2 * GIB)]
    assert chosen.notes == ()


def test_tool_not_on_the_node() -> None:
    assert planned(document("source='/a' format='qcow-create-qcow'")).notes == (
        "qcow-create is not on this node; VmBatch writes qcow itself",)


@pytest.mark.parametrize(("driver", "form"), [("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vpc", "vhd")])
def test_copy(driver: str, form: str) -> None:
    chosen = planned(document("source='/a' copy_method='copy'", driver=f"<driver type='{driver}'/>"))
    assert steps(chosen) == [Duplicate("/a", f"{SPOOL}/vda.{form}")]
    assert driver_of(chosen) == {"type": driver, **THROWAWAY}


def test_the_templates_own_cache_mode_stays() -> None:
    chosen = planned(document("source='/a'", driver="<driver type='raw' cache='none' discard='ignore'/>"))
    assert driver_of(chosen) == {"type": "qcow2", "name": "qemu", "cache": "none", "discard": "ignore"}


def test_shared() -> None:
    chosen = planned(document("source='/a'", "<readonly/>"))
    assert steps(chosen) == []
    assert file_of(chosen) == "/a"
    assert driver_of(chosen) == {"type": "raw", "name": "qemu"}


def stored(text: str, form: str = "raw", **more: Any) -> Facts:
    return facts(text=text, images={0: Image(STORED, form, GIB, GIB, stored=True)}, **more)


def test_stored_overlay() -> None:
    text = document("source='http://h/a'")
    chosen = planned(text, stored(text))
    assert steps(chosen) == [
        Directory(USES, TOKEN, 0o711), Link(STORED, f"{USES}/vda"),
        Overlay(f"{SPOOL}/vda.qcow2", QCOW2, "", f"{USES}/vda", "raw", GIB)]


def test_stored_and_shared() -> None:
    text = document("source='http://h/a'", "<readonly/>")
    chosen = planned(text, stored(text))
    assert steps(chosen) == [Directory(USES, TOKEN, 0o711), Link(STORED, f"{USES}/vda")]
    assert file_of(chosen) == f"{USES}/vda"


def test_stored_copy_is_no_use_afterwards() -> None:
    text = document("source='http://h/a' copy_method='copy'")
    assert steps(planned(text, stored(text))) == [Duplicate(STORED, f"{SPOOL}/vda.raw")]


def test_download() -> None:
    text = document("source='http://h/a' copy_method='download'", driver="<driver type='qcow2'/>")
    chosen = planned(text, facts(text=text))
    [step] = steps(chosen)
    assert isinstance(step, Download)
    assert (step.path, step.most, step.keep_free) == (f"{SPOOL}/vda.qcow2", 100 * GIB, GIB)
    assert driver_of(chosen)["type"] == "qcow2"


@pytest.mark.parametrize(("form", "driver"), [
    ("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc"), ("vhd-fixed", "vpc"), ("vhd-util-vhd", "vpc"),
])
def test_empty(form: str, driver: str) -> None:
    chosen = planned(document(f"source='x' create='always' size='7' format='{form}'"))
    made = "vhd" if form == "vhd-util-vhd" else form
    assert steps(chosen) == [Blank(f"{SPOOL}/vda.{made}", Form("", made), "", 7 << 20, "", "", "", True)]
    assert driver_of(chosen) == {"type": driver, **THROWAWAY}


def test_empty_with_a_file_system() -> None:
    text = document("source='x' create='always' size='7' filesystem='ext4' label='l'")
    chosen = planned(text, facts(text=text, programs={"mkfs.ext4": "/sbin/mkfs.ext4"}), spool_reserve=False)
    assert steps(chosen) == [Blank(f"{SPOOL}/vda.raw", Form("", "raw"), "", 7 << 20, "ext4", "/sbin/mkfs.ext4", "l", False)]


FIRST = ("/s/once/n", "/s/once/n.making")


def test_first() -> None:
    text = document("source='x' create='once' size='7'")
    chosen = planned(text, facts(text=text, first={0: FIRST}))
    assert steps(chosen) == [
        FirstFill(FIRST[1], TOKEN, FIRST[0]), Blank(f"{FIRST[1]}/disk", Form("", "raw"), "", 7 << 20, "", "", "", True)]
    assert file_of(chosen) == f"{FIRST[1]}/disk"


@pytest.mark.parametrize(("form", "overlay"), [("raw", "qcow2"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd-util-vhd", "qcow2")])
def test_later(form: str, overlay: str) -> None:
    text = document(f"source='x' create='once' size='7' format='{form}'")
    chosen = planned(text, facts(text=text, images={0: Image(FIRST[0], "raw", 7 << 20, 7 << 20, stored=True)}))
    assert steps(chosen) == [
        Directory(USES, TOKEN, 0o711), Link(FIRST[0], f"{USES}/vda"),
        Overlay(f"{SPOOL}/vda.{overlay}", Form("", overlay), "", f"{USES}/vda", "raw", 7 << 20)]


def test_a_users_image() -> None:
    text = document("source='/a'", "<vbuserimage/>")
    wish = ImageSource(("/home/alice/x.raw",), "cow", "raw", "", None, "qcow2")
    chosen = planned(text, stored(text, "qcow2", wishes={0: wish}))
    assert steps(chosen)[-1] == Overlay(f"{SPOOL}/vda.qcow2", QCOW2, "", f"{USES}/vda", "qcow2", GIB)


CHAIN = ("/p.vhd", "/a")


def test_differencing_vhd() -> None:
    text = document("source='/a' copy_method='copy'", driver="<driver type='vpc'/>")
    chosen = planned(text, facts(text=text, images={0: Image("/a", "vhd", GIB, GIB, chain=CHAIN)}))
    assert steps(chosen) == [Flatten(CHAIN, f"{SPOOL}/vda.raw", GIB)]
    assert driver_of(chosen)["type"] == "raw"


@pytest.mark.parametrize(("text", "known", "said", "hint"), [
    (document("source='/a'", driver="<driver type='vpc'/>"), {"images": {0: Image("/a", "vhd", GIB, GIB, chain=CHAIN)}},
     "the image is a differencing VHD, and QEMU would not read its parents",
     "use copy_method='copy', which makes it flat, or qemu-img convert it"),
    (document("source='/a' format='vhd'"), {}, "KVM has no overlays in the format vhd",
     "write format='qcow2', or leave format= out"),
    (document("source='x' create='always' size='1' filesystem='xfs'"), {},
     "mkfs.xfs is not on this node, and filesystem='xfs' needs it",
     "install the package that has it, such as e2fsprogs, xfsprogs or dosfstools"),
])
def test_refused(text: str, known: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(SiteError) as caught:
        planned(text, facts(text=text, **known))
    assert (caught.value.what, caught.value.hint) == (f"t.xml:1: disk vda: {said}", hint)


def test_unknown_format() -> None:
    with pytest.raises(SiteError, match="disk vda: no such format: vmdk"):
        planned(document("source='x' create='always' size='1' format='vmdk'"))


def test_weak_digest() -> None:
    check = f"<vbcheckhash hashfunction='md5' hashvalue='{'0' * 32}'/>"
    assert planned(document("source='/a'", check)).notes == ("md5 finds damage, but not forgery: give /a a sha256",)


@pytest.mark.parametrize(("source", "free", "error"), [
    ("source='x' create='always' size='2048'", 3 * GIB - 1, NodeError),
    ("source='/a' copy_method='copy'", 3 * GIB - 1, NodeError),
    ("source='x' create='always' size='204800'", 1000 * GIB, SiteError),
])
def test_space(source: str, free: int, error: type[VmBatchError]) -> None:
    text = document(source)
    with pytest.raises(error):
        planned(text, facts(text=text, free=free))
    planned(text, facts(text=text, free=free + 1), spool_job_limit=1000 * GIB)


def test_what_is_made_lies_in_what_is_owned() -> None:
    """Also below the store: releasing what is journaled removes all of it."""
    once = document("source='x' create='once' size='7'")
    remote = document("source='http://h/a'")
    for chosen in (planned(once, facts(text=once, first={0: FIRST})), planned(remote, stored(remote))):
        owned: list[str] = []
        for step in chosen.phases[0].steps:
            path: str = getattr(step, "path", "")
            if isinstance(step, Resource):
                owned.append(path)
            else:
                assert any(path.startswith(f"{place}/") for place in owned), step
