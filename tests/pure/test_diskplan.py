"""What becomes of each disk: the exact steps, what the domain says of it, and every refusal."""

import uuid

import msgspec
import pytest

from vmbatch.config import Config
from vmbatch.disk.blank import Blank
from vmbatch.disk.duplicate import Duplicate
from vmbatch.disk.flatten import Flatten
from vmbatch.disk.link import Link
from vmbatch.disk.overlay import Overlay
from vmbatch.diskplan import Disks
from vmbatch.errors import JobError, NodeError, SiteError
from vmbatch.facts import Facts, Image
from vmbatch.format import FormatError, qcow, vhd
from vmbatch.format.name import Form
from vmbatch.hypervisor.domain import Domain
from vmbatch.image.download import Download
from vmbatch.image.terms import terms
from vmbatch.plan import Plan, plan
from vmbatch.registry import HYPERVISORS
from vmbatch.resource import Piece, Resource
from vmbatch.spool.directory import Directory
from vmbatch.spool.first import FirstFill
from vmbatch.template import Checksum, DiskChange, ImageSource, Template

from .sample import GIB, JOB, TOKEN, facts, form, job, settings
from .test_template_disks import PUBLISHED

MIB = 1 << 20
NAME = f"42.vm.{TOKEN}"
SPOOL = f"/var/lib/vmbatch/spool/{NAME}"
STORE = "/var/lib/vmbatch/store"
USES = f"{STORE}/uses/{NAME}"
OBJECT = f"{STORE}/objects/{'ab' * 32}"
READY, MAKING = f"{STORE}/once/{'cd' * 16}", f"{STORE}/once/{'cd' * 16}.making"
THROWAWAY = {"cache": "unsafe", "discard": "unmap"}
URL = "http://images.example.org/el9.img"
MEDIUM = "<disk type='file'><vbpreparecdrom source='context.iso'/><target dev='sda'/><readonly/></disk>"
MKFS = {"mkfs.ext4": "/usr/sbin/mkfs.ext4", "mkswap": "/usr/sbin/mkswap"}
TOOLS = {"qemu-img": "/usr/bin/qemu-img", "vhd-util": "/usr/sbin/vhd-util", "qcow-create": "/usr/sbin/qcow-create"}


def made_of(*disks: str, kind: str = "kvm") -> Template:
    text = "\n".join(disks)
    return form(f"<domain type='{kind}'><devices>\n{text}\n{MEDIUM}</devices></domain>")


def disk(attributes: str, driver: str = "<driver name='qemu' type='raw'/>", target: str = "vda", more: str = "") -> str:
    return f"<disk type='file'>{driver}<vbdisksource {attributes}/><target dev='{target}'/>{more}</disk>"


def image(path: str = "/srv/i", kind: str = "raw", size: int = 2 * GIB, file_size: int = GIB, **more: object) -> Image:
    return msgspec.structs.replace(Image(path, kind, size, file_size), **more)


def stored(kind: str = "raw", path: str = OBJECT) -> Image:
    return image(path, kind, stored=True)


def known(*images: Image | None, **changed: object) -> Facts:
    """The facts with images by their disks' indices."""
    found = {index: one for index, one in enumerate(images) if one is not None}
    return facts(text="<domain type='kvm'><devices>" + MEDIUM + "</devices></domain>", **{"images": found, **changed})  # type: ignore[arg-type]


def disks(template: Template, given: Facts, config: Config | None = None) -> Disks:
    return Disks(JOB, template, HYPERVISORS[template.hypervisor], SPOOL, config or settings(), given)


def steps(template: Template, given: Facts, config: Config | None = None) -> list[Resource | Piece]:
    """The disks' part of a whole plan, without the spool's directory."""
    found = plan(job(), template, config or settings(), given).phases[0]
    assert found.name == "disks"
    assert found.steps[0] == Directory(SPOOL, TOKEN, 0o711)
    assert list(found.steps[1:]) == disks(template, given, config).steps
    return list(found.steps[1:])


def domain_disk(template: Template, given: Facts, number: int = 0) -> str:
    """The <disk> as libvirt gets it, without white space between tags."""
    xml = plan(job(), template, settings(), given).xml.decode()
    return xml.split("<disk")[number + 1].split("</disk>")[0].replace("\n", "")


def refused(error: type[Exception], template: Template, given: Facts, config: Config | None = None) -> list[str]:
    with pytest.raises((SiteError, NodeError, JobError)) as caught:
        plan(job(), template, config or settings(), given)
    assert type(caught.value) is error
    return caught.value.lines()


@pytest.mark.parametrize(
    ("kind", "driver", "libvirt"),
    [("raw", "raw", "raw"), ("raw", "aio", "raw"), ("qcow2", "qcow2", "qcow2"), ("qcow", "qcow", "qcow"), ("vhd", "vpc", "vpc"),
     ("vhd", "vhd", "vpc")],
)
def test_overlay(kind: str, driver: str, libvirt: str) -> None:
    template = made_of(disk("source='/srv/i' copy_method='cow'", f"<driver name='tap2' type='{driver}'/>"))
    given = known(image(kind=kind))
    path = f"{SPOOL}/vda.qcow2"
    assert steps(template, given) == [Overlay(path, Form("", "qcow2"), "", "/srv/i", kind, 2 * GIB)]
    found = disks(template, given)
    assert found.changes == [DiskChange(0, path, "qcow2", ("/srv/i", libvirt), False, "qemu", THROWAWAY)]
    assert found.notes == []


def test_overlay_in_the_domain() -> None:
    text = domain_disk(made_of(disk("source='/srv/i'", "<driver name='tap2' type='vhd'/>")), known(image(kind="vhd")))
    assert text == (
        " type=\"file\"><driver name=\"qemu\" type=\"qcow2\" cache=\"unsafe\" discard=\"unmap\"/>"
        f"<source file=\"{SPOOL}/vda.qcow2\"/>"
        "<backingStore type=\"file\"><format type=\"vpc\"/>"
        "<source file=\"/srv/i\"><seclabel model=\"dac\" relabel=\"no\"/></source><backingStore/></backingStore>"
        "<target dev=\"vda\"/>"
    )


@pytest.mark.parametrize(
    ("text", "chosen", "program", "notes"),
    [
        ("qcow2", Form("", "qcow2"), "", []),
        ("qcow", Form("", "qcow"), "", []),
        ("qemu-img-qcow2", Form("qemu-img", "qcow2"), "/usr/bin/qemu-img", []),
        ("qemu-img-qcow", Form("qemu-img", "qcow"), "/usr/bin/qemu-img", []),
        ("qcow-create-qcow", Form("qcow-create", "qcow"), "/usr/sbin/qcow-create", []),
    ],
)
def test_overlay_by_a_tool(text: str, chosen: Form, program: str, notes: list[str]) -> None:
    template = made_of(disk(f"source='/srv/i' format='{text}'"))
    given = known(image(), programs=TOOLS)
    assert steps(template, given) == [Overlay(f"{SPOOL}/vda.{chosen.format}", chosen, program, "/srv/i", "raw", 2 * GIB)]
    assert disks(template, given).changes[0].format == chosen.format
    assert disks(template, given).notes == notes


@pytest.mark.parametrize(("tool", "form_"), [("qemu-img", "qcow2"), ("qcow-create", "qcow")])
def test_tool_of_an_overlay_is_not_on_the_node(tool: str, form_: str) -> None:
    template = made_of(disk(f"source='/srv/i' format='{tool}-{form_}'"))
    chosen = plan(job(), template, settings(), known(image()))
    assert chosen.phases[0].steps[1] == Overlay(f"{SPOOL}/vda.{form_}", Form("", form_), "", "/srv/i", "raw", 2 * GIB)
    assert chosen.notes == (f"{tool} is not on this node; VmBatch writes {form_} itself",)


@pytest.mark.parametrize(
    ("text", "chosen", "program"),
    [
        ("vhd", Form("", "vhd"), ""),
        ("vhd-util-vhd", Form("vhd-util", "vhd"), "/usr/sbin/vhd-util"),
        ("qemu-img-vhd", Form("", "vhd"), ""),
        ("qemu-img-vpc", Form("", "vhd"), ""),
    ],
)
def test_vhd_overlay_where_the_hypervisor_reads_it(text: str, chosen: Form, program: str) -> None:
    """qemu-img makes no differencing VHD, so that VmBatch does it."""
    template = made_of(disk(f"source='/srv/i' format='{text}'"), kind="test")
    given = known(image(kind="vhd"), programs=TOOLS)
    assert steps(template, given) == [Overlay(f"{SPOOL}/vda.vhd", chosen, program, "/srv/i", "vhd", 2 * GIB)]
    assert disks(template, given).changes == [
        DiskChange(0, f"{SPOOL}/vda.vhd", "vpc", ("/srv/i", "vpc"), False, "qemu", THROWAWAY)
    ]


@pytest.mark.parametrize("kind", ["qcow2", "qcow"])
def test_vhd_overlay_on_what_is_no_parent_of_one(kind: str) -> None:
    """A VHD takes a parent that is no VHD for a raw image, and its guest would see the bytes of a qcow2."""
    template = made_of(disk("source='/srv/i' format='vhd'", f"<driver type='{kind}'/>"), kind="test")
    assert refused(SiteError, template, known(image(kind=kind))) == [
        "/etc/vmbatch/domains/sample.xml:2: disk vda: an overlay in the format vhd takes an image that is raw or vhd, "
        f"not {kind} (write format='qcow2', or leave format= out)"
    ]


@pytest.mark.parametrize("kind", ["qemu", "kvm"])
@pytest.mark.parametrize(
    ("text", "name"),
    [("raw", "raw"), ("vhd", "vhd"), ("vpc", "vhd"), ("vhd-fixed", "vhd-fixed"), ("vhd-util-vhd", "vhd"),
     ("qemu-img-raw", "raw")],
)
def test_overlay_that_the_hypervisor_does_not_read(kind: str, text: str, name: str) -> None:
    template = made_of(disk(f"source='/srv/i' format='{text}'"), kind=kind)
    assert refused(SiteError, template, known(image(), programs=TOOLS)) == [
        f"/etc/vmbatch/domains/sample.xml:2: disk vda: {kind.upper()} has no overlays in the format {name} "
        "(write format='qcow2', or leave format= out)"
    ]


@pytest.mark.parametrize("attributes", ["source='/srv/i' format='vmdk'", "source='s' create='always' size='1' format='vmdk'"])
@pytest.mark.error("VB303")
def test_unknown_format(attributes: str) -> None:
    assert refused(SiteError, made_of("", disk(attributes)), known(image())) == [
        "/etc/vmbatch/domains/sample.xml:3: disk vda: no such format: vmdk (there are raw, qcow2, qcow, vhd, vhd-fixed, "
        "qemu-img-raw, qemu-img-qcow2, qemu-img-qcow, qemu-img-vhd, qemu-img-vhd-fixed, vhd-util-vhd, vhd-util-vhd-fixed, "
        "qcow-create-qcow)"
    ]


@pytest.mark.parametrize(("kind", "libvirt"), [("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc")])
def test_copy(kind: str, libvirt: str) -> None:
    template = made_of(disk("source='/srv/i' copy_method='copy'", f"<driver name='tap2' type='{kind}'/>"))
    given = known(image(kind=kind))
    path = f"{SPOOL}/vda.{kind}"
    assert steps(template, given) == [Duplicate("/srv/i", path)]
    assert disks(template, given).changes == [DiskChange(0, path, libvirt, None, False, "qemu", THROWAWAY)]


def test_copy_of_an_image_in_the_store() -> None:
    """It is held while it is copied, and the copy does not need it any longer."""
    template = made_of(disk(f"source='{URL}' copy_method='copy'"))
    assert steps(template, known(stored())) == [Duplicate(OBJECT, f"{SPOOL}/vda.raw")]


@pytest.mark.parametrize(("kind", "libvirt"), [("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc")])
def test_shared(kind: str, libvirt: str) -> None:
    template = made_of(disk("source='/srv/i' copy_method='shared'", f"<driver name='tap2' type='{kind}'/>", more="<readonly/>"))
    given = known(image(kind=kind))
    assert steps(template, given) == []
    assert disks(template, given).changes == [DiskChange(0, "/srv/i", libvirt, None, True, "qemu", {})]
    assert domain_disk(template, given) == (
        f" type=\"file\"><driver name=\"qemu\" type=\"{libvirt}\"/>"
        "<source file=\"/srv/i\"><seclabel model=\"dac\" relabel=\"no\"/></source><backingStore/><target dev=\"vda\"/><readonly/>"
    )


def test_shared_from_the_store() -> None:
    template = made_of(disk(f"source='{URL}'", more="<readonly/>"))
    given = known(stored())
    assert steps(template, given) == [Directory(USES, TOKEN, 0o711), Link(OBJECT, f"{USES}/vda")]
    assert disks(template, given).changes == [DiskChange(0, f"{USES}/vda", "raw", None, True, "qemu", {})]


def test_overlays_on_the_store() -> None:
    """One directory for all; the image is linked before anything is made on it, and the overlay names the link."""
    template = made_of(disk(f"source='{URL}'"), disk(f"source='{URL}'", target="vdb"))
    given = known(stored(), stored("qcow2"))
    assert steps(template, given) == [
        Directory(USES, TOKEN, 0o711),
        Link(OBJECT, f"{USES}/vda"),
        Overlay(f"{SPOOL}/vda.qcow2", Form("", "qcow2"), "", f"{USES}/vda", "raw", 2 * GIB),
        Link(OBJECT, f"{USES}/vdb"),
        Overlay(f"{SPOOL}/vdb.qcow2", Form("", "qcow2"), "", f"{USES}/vdb", "qcow2", 2 * GIB),
    ]
    assert [change.backing for change in disks(template, given).changes] == [(f"{USES}/vda", "raw"), (f"{USES}/vdb", "qcow2")]


def test_readonly_disks_keep_the_cache() -> None:
    template = made_of(disk("source='/srv/i' copy_method='cow'", more="<readonly/>"),
                       disk("source='/srv/i' copy_method='copy'", target="vdb", more="<readonly/>"))
    assert [change.defaults for change in disks(template, known(image(), image())).changes] == [{}, {}]
    assert "cache" not in domain_disk(template, known(image(), image()))


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("<driver name='qemu' type='raw' cache='none' io='native'/>",
         '<driver name="qemu" type="qcow2" cache="none" io="native" discard="unmap"/>'),
        ("<driver type='raw' discard='ignore'/>", '<driver type="qcow2" discard="ignore" name="qemu" cache="unsafe"/>'),
        ("<driver name='qemu' type='raw' cache='writeback' discard='ignore'/>",
         '<driver name="qemu" type="qcow2" cache="writeback" discard="ignore"/>'),
    ],
)
def test_what_the_template_says_of_the_cache_stays(driver: str, expected: str) -> None:
    assert expected in domain_disk(made_of(disk("source='/srv/i'", driver)), known(image()))


def test_a_disk_without_a_driver_gets_one() -> None:
    text = domain_disk(made_of(disk("source='/srv/i' source_format='qcow2'", "")), known(image(kind="qcow2")))
    assert text.startswith(' type="file"><driver name="qemu" type="qcow2" cache="unsafe" discard="unmap"/><source ')


@pytest.mark.parametrize(("kind", "libvirt"), [("raw", "raw"), ("qcow2", "qcow2"), ("qcow", "qcow"), ("vhd", "vpc")])
def test_private_download(kind: str, libvirt: str) -> None:
    template = made_of(disk(f"source='{URL}.xz http://h/i.xz' copy_method='download' source_format='{kind}'", ""))
    source = ImageSource((f"{URL}.xz", "http://h/i.xz"), "download", kind, "xz", None, "qcow2")
    path = f"{SPOOL}/vda.{kind}"
    config = settings(spool_job_limit=7 * GIB, spool_keep_free=3 * GIB)
    assert steps(template, known(), config) == [Download(source, path, 7 * GIB, 3 * GIB, terms(settings()))]
    assert disks(template, known()).changes == [DiskChange(0, path, libvirt, None, False, "qemu", THROWAWAY)]


def test_what_copies_take_is_not_there_for_downloads() -> None:
    """vmbatch.conf(5): job_limit is for copies, private downloads and empty disks, as the sum of their sizes."""
    template = made_of(disk("source='/srv/i' copy_method='copy'"), disk(f"source='{URL}' copy_method='download'", target="vdb"),
                       disk("source='s' create='always' size='1024'", target="vdc"))
    found = steps(template, known(image()), settings(spool_job_limit=7 * GIB))
    assert [step.most for step in found if isinstance(step, Download)] == [5 * GIB]


def test_downloads_stay_in_their_places() -> None:
    template = made_of(disk(f"source='{URL}' copy_method='download'"), disk("source='/srv/i' copy_method='copy'", target="vdb"),
                       disk(f"source='{URL}' copy_method='download'", target="vdc"),
                       disk(f"source='{URL}' copy_method='download'", target="vdd"), disk("source='/srv/i'", target="vde"))
    found = steps(template, known(None, image(), None, None, image()))
    assert [getattr(step, "path", "") for step in found] == [
        f"{SPOOL}/vda.raw", f"{SPOOL}/vdb.raw", f"{SPOOL}/vdc.raw", f"{SPOOL}/vdd.raw", f"{SPOOL}/vde.qcow2"
    ]
    assert [change.index for change in disks(template, known(None, image(), None, None, image())).changes] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("method", "function", "note"),
    [(method, function, function in ("md5", "sha1"))
     for method in ("cow", "copy", "shared", "download") for function in ("md5", "sha1", "sha256", "/usr/bin/cksum")],
)
def test_weak_digests_are_noted(method: str, function: str, note: bool) -> None:
    digits = {"md5": 32, "sha1": 40}.get(function, 64)
    tag = f"<vbcheckhash hashfunction='{function}' hashvalue='{'0' * digits}'/>"
    template = made_of(disk(f"source='{URL}' copy_method='{method}'", more=f"{tag}<readonly/>"))
    assert plan(job(), template, settings(), known(stored())).notes == (
        (f"{function} finds damage, but not forgery: give {URL} a sha256",) if note else ()
    )


@pytest.mark.parametrize(
    ("text", "chosen", "program", "libvirt"),
    [
        ("raw", Form("", "raw"), "", "raw"),
        ("qcow2", Form("", "qcow2"), "", "qcow2"),
        ("qcow", Form("", "qcow"), "", "qcow"),
        ("vhd", Form("", "vhd"), "", "vpc"),
        ("vhd-fixed", Form("", "vhd-fixed"), "", "vpc"),
        ("qemu-img-raw", Form("qemu-img", "raw"), "/usr/bin/qemu-img", "raw"),
        ("qemu-img-vhd", Form("qemu-img", "vhd"), "/usr/bin/qemu-img", "vpc"),
        ("vhd-util-vhd", Form("vhd-util", "vhd"), "/usr/sbin/vhd-util", "vpc"),
        ("vhd-util-vhd-fixed", Form("vhd-util", "vhd-fixed"), "/usr/sbin/vhd-util", "vpc"),
        ("qcow-create-qcow", Form("qcow-create", "qcow"), "/usr/sbin/qcow-create", "qcow"),
    ],
)
def test_empty_disk(text: str, chosen: Form, program: str, libvirt: str) -> None:
    template = made_of(disk(f"source='scratch' create='always' size='20480' format='{text}'", "<driver name='tap2' type='vhd'/>"))
    given = known(programs=TOOLS)
    path = f"{SPOOL}/vda.{chosen.format}"
    assert steps(template, given) == [Blank(path, chosen, program, 20480 * MIB, "", "", "", True)]
    assert disks(template, given).changes == [DiskChange(0, path, libvirt, None, False, "qemu", THROWAWAY)]
    assert disks(template, given).notes == []


def test_tool_of_an_empty_disk_is_not_on_the_node() -> None:
    template = made_of(disk("source='scratch' create='always' size='1' format='vhd-util-vhd'"))
    assert steps(template, known()) == [Blank(f"{SPOOL}/vda.vhd", Form("", "vhd"), "", MIB, "", "", "", True)]
    assert disks(template, known()).notes == ["vhd-util is not on this node; VmBatch writes vhd itself"]


def test_empty_disk_with_a_file_system() -> None:
    template = made_of(disk("source='scratch' create='always' size='64' filesystem='ext4' label='scratch'"),
                       disk("source='swap' create='always' size='64' filesystem='swap' format='qcow2'", target="vdb"))
    assert steps(template, known(programs=MKFS), settings(spool_reserve=False)) == [
        Blank(f"{SPOOL}/vda.raw", Form("", "raw"), "", 64 * MIB, "ext4", "/usr/sbin/mkfs.ext4", "scratch", False),
        Blank(f"{SPOOL}/vdb.qcow2", Form("", "qcow2"), "", 64 * MIB, "swap", "/usr/sbin/mkswap", "", False),
    ]


@pytest.mark.parametrize(
    ("filesystem", "program"),
    [("ext2", "mkfs.ext2"), ("ext3", "mkfs.ext3"), ("ext4", "mkfs.ext4"), ("xfs", "mkfs.xfs"), ("vfat", "mkfs.vfat"),
     ("swap", "mkswap")],
)
@pytest.mark.parametrize("create", ["always", "once"])
def test_no_program_for_the_file_system(filesystem: str, program: str, create: str) -> None:
    template = made_of(disk(f"source='s' create='{create}' size='64' filesystem='{filesystem}'"))
    first = {0: (READY, MAKING)} if create == "once" else {}
    assert refused(SiteError, template, known(first=first)) == [
        f"/etc/vmbatch/domains/sample.xml:2: disk vda: {program} is not on this node, and filesystem='{filesystem}' needs it "
        "(install the package that has it, such as e2fsprogs, xfsprogs or dosfstools)"
    ]


ONCE = "source='cernvm-hd.vhd' size='20480' create='once' {}"


@pytest.mark.parametrize(
    ("text", "libvirt"), [("raw", "raw"), ("qcow2", "qcow2"), ("vhd", "vpc"), ("vhd-fixed", "vpc"), ("vhd-util-vhd", "vpc")]
)
def test_once_the_first(text: str, libvirt: str) -> None:
    """The right to fill it comes first; the disk is made inside, in the store and not in the spool."""
    template = made_of(disk(ONCE.format(f"format='{text}'")))
    given = known(first={0: (READY, MAKING)})
    name = Form("", text.removeprefix("vhd-util-"))
    assert steps(template, given) == [
        FirstFill(MAKING, TOKEN, READY),
        Blank(f"{MAKING}/disk", name, "", 20480 * MIB, "", "", "", True),
    ]
    assert disks(template, given).changes == [DiskChange(0, f"{MAKING}/disk", libvirt, None, False, "qemu", THROWAWAY)]


@pytest.mark.parametrize(
    ("text", "kind", "libvirt", "overlay"),
    [
        ("raw", "raw", "raw", "qcow2"),
        ("qcow2", "qcow2", "qcow2", "qcow2"),
        ("qcow", "qcow", "qcow", "qcow"),
        ("vhd", "vhd", "vpc", "qcow2"),
        ("vhd-util-vhd", "vhd", "vpc", "qcow2"),
        ("vhd-fixed", "vhd", "vpc", "qcow2"),
    ],
)
def test_once_a_later_one(text: str, kind: str, libvirt: str, overlay: str) -> None:
    template = made_of(disk(ONCE.format(f"format='{text}'")))
    given = known(stored(kind, READY))
    assert steps(template, given) == [
        Directory(USES, TOKEN, 0o711),
        Link(READY, f"{USES}/vda"),
        Overlay(f"{SPOOL}/vda.{overlay}", Form("", overlay), "", f"{USES}/vda", kind, 2 * GIB),
    ]
    assert disks(template, given).changes == [
        DiskChange(0, f"{SPOOL}/vda.{overlay}", overlay, (f"{USES}/vda", libvirt), False, "qemu", THROWAWAY)
    ]
    assert disks(template, given).notes == []


def test_once_a_later_one_in_vhd_where_the_hypervisor_reads_it() -> None:
    template = made_of(disk(ONCE.format("format='vhd-util-vhd'")), kind="test")
    given = known(stored("vhd", READY), programs=TOOLS)
    assert steps(template, given)[2] == Overlay(
        f"{SPOOL}/vda.vhd", Form("vhd-util", "vhd"), TOOLS["vhd-util"], f"{USES}/vda", "vhd", 2 * GIB
    )


@pytest.mark.parametrize("text", ["vhd", "vhd-fixed", "vhd-util-vhd"])
def test_once_a_later_one_with_a_copy(text: str) -> None:
    template = made_of(disk(ONCE.format(f"format='{text}' copy_method='copy'")))
    given = known(stored("vhd", READY))
    assert steps(template, given) == [Duplicate(READY, f"{SPOOL}/vda.vhd")]
    assert disks(template, given).changes == [DiskChange(0, f"{SPOOL}/vda.vhd", "vpc", None, False, "qemu", THROWAWAY)]


@pytest.mark.parametrize(("method", "kind"), [("cow", "qcow2"), ("cow", "raw"), ("copy", "raw"), ("copy", "qcow2")])
def test_image_of_the_user(method: str, kind: str) -> None:
    """It takes the place of the template's, whose weak digest does not matter then, nor its private download."""
    tag = "<vbuserimage/><vbcheckhash hashfunction='md5' hashvalue='" + "0" * 32 + "'/>"
    template = made_of(disk(f"source='{URL}' copy_method='download'", more=tag))
    wish = ImageSource(("/home/alice/i.vhd",), method, "vhd", "", None, "qcow2")
    given = known(stored(kind), wishes={0: wish})
    if method == "copy":
        assert steps(template, given) == [Duplicate(OBJECT, f"{SPOOL}/vda.{kind}")]
        assert disks(template, given).changes == [DiskChange(0, f"{SPOOL}/vda.{kind}", kind, None, False, "qemu", THROWAWAY)]
    else:
        assert steps(template, given) == [
            Directory(USES, TOKEN, 0o711),
            Link(OBJECT, f"{USES}/vda"),
            Overlay(f"{SPOOL}/vda.qcow2", Form("", "qcow2"), "", f"{USES}/vda", kind, 2 * GIB),
        ]
        assert disks(template, given).changes == [
            DiskChange(0, f"{SPOOL}/vda.qcow2", "qcow2", (f"{USES}/vda", kind), False, "qemu", THROWAWAY)
        ]
    assert disks(template, given).notes == []


CHAIN = ("/srv/base.vhd", "/srv/child.vhd")


def test_chain_of_vhds_is_made_flat() -> None:
    template = made_of(disk("source='/srv/child.vhd' copy_method='copy'", "<driver name='tap2' type='vhd'/>"))
    given = known(image("/srv/child.vhd", "vhd", chain=CHAIN))
    assert steps(template, given) == [Flatten(CHAIN, f"{SPOOL}/vda.raw", 2 * GIB)]
    assert disks(template, given).changes == [DiskChange(0, f"{SPOOL}/vda.raw", "raw", None, False, "qemu", THROWAWAY)]


@pytest.mark.parametrize(("method", "more"), [("cow", ""), ("shared", ""), ("shared", "<readonly/>")])
def test_chain_of_vhds_in_its_place(method: str, more: str) -> None:
    template = made_of(disk(f"source='/srv/child.vhd' copy_method='{method}'", "<driver name='tap2' type='vhd'/>", more=more))
    assert refused(SiteError, template, known(image("/srv/child.vhd", "vhd", chain=CHAIN))) == [
        "/etc/vmbatch/domains/sample.xml:2: disk vda: the image is a differencing VHD, and QEMU would not read its parents "
        "(use copy_method='copy', which makes it flat, or qemu-img convert it)"
    ]


def test_local_images_by_url_and_path_are_alike() -> None:
    for method in ("cow", "copy", "download"):
        one, other = (steps(made_of(disk(f"source='{place}' copy_method='{method}'")), known(image()))
                      for place in ("/srv/i", "file:///srv/i"))
        assert one == other != []


PUBLISHED_FORM = f"<domain type='kvm'><devices>{PUBLISHED}</devices></domain>"


def test_published_lines() -> None:
    """First job: everything of the published description at once."""
    template = form(PUBLISHED_FORM)
    given = known(None, None, None, stored(), first={4: (READY, MAKING)}, programs={})
    md5 = Checksum("md5", "826164d1748929445e805b57929c8f7e")
    source = template.disks[0].source
    assert isinstance(source, ImageSource)
    assert source.checksum == md5
    config = settings()
    download, *rest = steps(template, given)
    assert isinstance(download, Download)
    assert (download.source, download.path, download.terms) == (source, f"{SPOOL}/xvdb.raw", terms(config))
    assert rest == [
        Blank(f"{SPOOL}/xvdaa.vhd", Form("", "vhd"), "", 20480 * MIB, "", "", "", True),
        Directory(USES, TOKEN, 0o711),
        Link(OBJECT, f"{USES}/xvdd"),
        FirstFill(MAKING, TOKEN, READY),
        Blank(f"{MAKING}/disk", Form("", "vhd"), "", 20480 * MIB, "", "", "", True),
    ]
    chosen = plan(job(), template, config, given)
    weak = "md5 finds damage, but not forgery: give {} a sha256"
    missing = "vhd-util is not on this node; VmBatch writes vhd itself"
    shared = template.disks[3].source
    assert isinstance(shared, ImageSource)
    assert chosen.notes == (weak.format(source.places[0]), missing, weak.format(shared.places[0]), missing)
    xml = chosen.xml.decode()
    assert "tap2" not in xml
    assert "aio" not in xml
    assert "/vmbatch/images" not in xml
    assert [part.split('"')[0] for part in xml.split('<source file="')[1:]] == [
        f"{SPOOL}/xvdb.raw", f"{SPOOL}/xvdaa.vhd", f"{SPOOL}/context.iso", f"{USES}/xvdd", f"{MAKING}/disk"
    ]


def test_what_is_made_lies_in_what_is_owned() -> None:
    """Every piece, and every file that the domain writes, is inside a directory that was acquired before."""
    template = form(PUBLISHED_FORM.replace("</devices>", "".join([
        disk("source='/srv/i' copy_method='copy'", target="vdf"), disk(f"source='{URL}'", target="vdg"),
        disk("source='/srv/c' copy_method='copy'", target="vdh"), disk("source='/srv/i'", target="vdi"),
        disk(ONCE.format("").replace("cernvm-hd", "other"), target="vdj"), "</devices>",
    ])))
    given = known(None, None, None, stored(), None, image(), stored(), image(kind="vhd", chain=CHAIN), image(),
                  stored(path=READY), first={4: (f"{READY}2", f"{READY}2.making")})
    chosen = plan(job(), template, settings(), given)
    owned: list[str] = []
    made: set[type] = set()
    for step in [step for phase in chosen.phases for step in phase.steps]:
        if isinstance(step, Directory | FirstFill):
            owned.append(step.path)
        elif not isinstance(step, Domain):
            place: str = getattr(step, "directory", "") or getattr(step, "path", "")
            assert _inside(place, owned), step
            made.add(type(step))
        else:
            writable = [part for part in chosen.xml.decode().split("<disk")[1:] if "<readonly/>" not in part]
            files = [part.split('<source file="')[1].split('"')[0] for part in writable]
            assert len(files) == 8
            assert all(_inside(path, owned) for path in files)
    assert {Download, Blank, Link, Overlay, Duplicate, Flatten} <= made
    assert [path for path in owned if path.startswith(STORE)] == [USES, f"{READY}2.making"]


def _inside(path: str, owned: list[str]) -> bool:
    return any(path == parent or path.startswith(f"{parent}/") for parent in owned)


def test_everything_owned_carries_the_token() -> None:
    chosen: Plan = plan(job(), form(PUBLISHED_FORM), settings(), known(None, None, None, stored(), first={4: (READY, MAKING)}))
    found = [step for phase in chosen.phases for step in phase.steps if isinstance(step, Directory | FirstFill)]
    assert len(found) == 5
    assert {step.token for step in found} == {TOKEN}


EVERYTHING = (
    disk("source='/srv/i' copy_method='copy'"),
    disk("source='s' create='always' size='1024'", target="vdb"),
    disk("source='/srv/c' copy_method='copy'", target="vdc"),
    disk(ONCE.format(""), target="vdd"),
    disk(ONCE.format("copy_method='copy'").replace("cernvm-hd", "other"), target="vde"),
    disk("source='/srv/i' copy_method='cow'", target="vdf"),
)


def test_sum_of_what_is_made() -> None:
    """1 GiB file, 1 GiB empty, 2 GiB flat, nothing for the first filling (in the store), 1 GiB for the later one, no overlay."""
    template = made_of(*EVERYTHING)
    given = known(image(), None, image(kind="vhd", chain=CHAIN), None, stored(path=READY), image(),
                  first={3: (f"{READY}2", f"{READY}2.making")}, spool_free=6 * GIB)
    fits = settings(spool_job_limit=5 * GIB, spool_keep_free=GIB)
    plan(job(), template, fits, given)
    assert refused(SiteError, template, given, settings(spool_job_limit=5 * GIB - 1, spool_keep_free=GIB)) == [
        "the copies and empty disks of the job take 5G, more than [spool] job_limit = 5368709119 (use copy_method='cow')"
    ]
    assert refused(NodeError, template, msgspec.structs.replace(given, spool_free=6 * GIB - 1), fits) == [
        "the spool /var/lib/vmbatch/spool has 6143 MiB free; the job's disks take 5120 MiB, and 1024 MiB must remain"
    ]


@pytest.mark.parametrize(
    ("text", "mib", "words"),
    [
        *((text, 2040 * 1024 + 1, f"a disk of 2088961M cannot be {text.removeprefix('vhd-util-')}, which ends at 2040G")
          for text in ("vhd", "vhd-fixed", "vhd-util-vhd", "vhd-util-vhd-fixed")),
        *((text, qcow.SIZE_LIMIT // MIB + 1, f"a disk of {qcow.SIZE_LIMIT // MIB + 1}M cannot be qcow, which ends at 8T")
          for text in ("qcow", "qcow-create-qcow")),
    ],
)
@pytest.mark.parametrize("create", ["always", "once"])
def test_size_that_the_format_cannot_have(text: str, mib: int, words: str, create: str) -> None:
    """A refusal, before the first effect; and what is refused is what could not be laid out."""
    template = made_of(disk(f"source='s' create='{create}' size='{mib}' format='{text}'"))
    given = known(programs=TOOLS, spool_free=1 << 60, first={0: (READY, MAKING)} if create == "once" else {})
    assert refused(SiteError, template, given, settings(spool_job_limit=1 << 59)) == [
        f"/etc/vmbatch/domains/sample.xml:2: disk vda: {words} (use qcow2 or raw)"
    ]


@pytest.mark.parametrize(("text", "mib"), [("vhd", 2040 * 1024), ("vhd-fixed", 2040 * 1024), ("qcow", qcow.SIZE_LIMIT // MIB)])
def test_largest_size(text: str, mib: int) -> None:
    template = made_of(disk(f"source='s' create='always' size='{mib}' format='{text}'"))
    [blank] = steps(template, known(spool_free=1 << 60), settings(spool_job_limit=1 << 50))
    assert isinstance(blank, Blank)
    lay_out = {"vhd": vhd.dynamic, "vhd-fixed": vhd.fixed}
    layout = qcow.blank(blank.size) if text == "qcow" else lay_out[text](blank.size, uuid.UUID(int=1), 0)
    assert layout.size > 0
    with pytest.raises(FormatError):
        qcow.blank(blank.size + MIB) if text == "qcow" else lay_out[text](blank.size + MIB, uuid.UUID(int=1), 0)
