"""The disks of a template: every attribute and value, the published lines, and every mistake with its line and words."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from vmbatch import template
from vmbatch.errors import InputError
from vmbatch.template import BlankSource, Checksum, DiskTag, ImageSource, MediumTag, UserImage, schema

from .sample import TEMPLATE

MIB = 1 << 20
MEDIUM = "<disk type='file'><vbpreparecdrom source='context.iso'/><target dev='sda'/><readonly/></disk>"
FIRST = 4
"""Line of the first line of `text` in a domain with `text` in it."""
URL = "http://images.example.org/vm/el9.raw"
MIRROR = "https://mirror.example.org/el9.raw"
RAW = "<driver name='qemu' type='raw'/>"
UNKNOWN_FORMAT = (
    "the image's format is {}: write <driver name='qemu' type='raw'/>, or type 'qcow2', 'qcow' or 'vpc'; it is never guessed"
)
NO_PATH = "<vbdisksource> source='{}': expected an absolute path without '..', or a URL"
NO_URL = "<vbdisksource> source='{}': expected http://, https:// or file:///"
NO_SIZE = "<vbdisksource> create= needs the size of the disk, such as size='20480' for 20 GiB"
WITHOUT_COW = "<vbdisksource> format= goes with copy_method='cow', or with create"
WITHOUT_CREATE = "<vbdisksource> {}= goes with create='always' or create='once'"
WITH_CREATE = "<vbdisksource> {}= is for images that exist; take it out, or create="
LOCAL_PACKED = "<vbdisksource>: {} is local, and local images are not unpacked; unpack it once"
DIGEST_OF = "0123456789abcdef" * 8


def domain(text: str) -> str:
    hypervisor = "<vbconfig><vbhypervisor>KVM</vbhypervisor></vbconfig>"
    return f"<domain type='kvm'>\n{hypervisor}\n<devices>\n{text}\n{MEDIUM}</devices></domain>"


def read(text: str) -> DiskTag:
    return template.parse(domain(text).encode(), "t.xml").disks[0]


def mistakes(text: str) -> list[tuple[int, str]]:
    """(line within `text`, words) of each."""
    with pytest.raises(InputError) as caught:
        template.parse(domain(text).encode(), "t.xml")
    return [(line - FIRST + 1, words) for line, words in caught.value.problems]


def disk(attributes: str, more: str = RAW, target: str = "vdb") -> str:
    """A disk of five lines: `more` is on the second, the source on the third, the target on the fourth."""
    return f"<disk type='file' device='disk'>\n{more}\n<vbdisksource {attributes}/>\n<target dev='{target}'/>\n</disk>"


def image(attributes: str, more: str = RAW) -> ImageSource:
    found = read(disk(attributes, more)).source
    assert isinstance(found, ImageSource)
    return found


def blank(attributes: str, more: str = RAW) -> BlankSource:
    found = read(disk(attributes, more)).source
    assert isinstance(found, BlankSource)
    return found


def test_a_local_image() -> None:
    assert read(disk("source='/srv/el9.raw' copy_method='cow'")) == DiskTag(
        0, FIRST, "vdb", False, ImageSource(("/srv/el9.raw",), "cow", "raw", "", None, "qcow2"), None, None, "qemu", "raw"
    )


def test_the_medium_and_a_disk_of_the_admins_own() -> None:
    text = "<disk type='block' device='cdrom'><source dev='/dev/sr0'/><target dev='hdc'/><readonly/></disk>"
    disks = template.parse(domain(text).encode(), "t.xml").disks
    assert disks == (
        DiskTag(0, FIRST, "hdc", True, None, None, None),
        DiskTag(1, FIRST + 1, "sda", True, None, None, MediumTag("context.iso", "vmbatch", "", "")),
    )


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("/srv/el9.raw", ("/srv/el9.raw",)),
        ("/srv/with blanks/el 9.raw", ("/srv/with blanks/el 9.raw",)),
        ("/srv/..hidden/a..b", ("/srv/..hidden/a..b",)),
        ("file:///srv/el9.raw", ("/srv/el9.raw",)),
        (URL, (URL,)),
        ("https://images.example.org:8443/get?name=el9", ("https://images.example.org:8443/get?name=el9",)),
        (f"{URL} {MIRROR}", (URL, MIRROR)),
        (f"{URL}\n   {MIRROR}\thttp://h/i", (URL, MIRROR, "http://h/i")),
    ],
)
def test_places(text: str, places: tuple[str, ...]) -> None:
    found = image(f"source='{text}'")
    assert found.places == places
    assert found.remote == ("://" in places[0])


@pytest.mark.parametrize(
    ("attribute", "local", "remote", "readonly"),
    [
        ("", "cow", "cow", "shared"),
        ("copy_method='shared'", "cow", "cow", "shared"),
        ("copy_method='cow'", "cow", "cow", "cow"),
        ("copy_method='copy'", "copy", "copy", "copy"),
        ("copy_method='download'", "copy", "download", "download"),
    ],
)
def test_method(attribute: str, local: str, remote: str, readonly: str) -> None:
    assert image(f"source='/srv/i' {attribute}").method == local
    assert image(f"source='file:///srv/i' {attribute}").method == local
    assert image(f"source='{URL}' {attribute}").method == remote
    assert image(f"source='{URL}' {attribute}", f"{RAW}<readonly/>").method == readonly


@pytest.mark.parametrize(
    ("driver", "stated", "form"),
    [
        ("<driver name='qemu' type='raw'/>", "", "raw"),
        ("<driver name='tap2' type='aio'/>", "", "raw"),
        ("<driver name='qemu' type='qcow2'/>", "", "qcow2"),
        ("<driver name='qemu' type='qcow'/>", "", "qcow"),
        ("<driver name='qemu' type='vpc'/>", "", "vhd"),
        ("<driver name='tap2' type='vhd'/>", "", "vhd"),
        ("", "raw", "raw"),
        ("", "qcow2", "qcow2"),
        ("", "qcow", "qcow"),
        ("", "vhd", "vhd"),
        ("<driver name='qemu' type='raw'/>", "vhd", "vhd"),
        ("<driver name='qemu' cache='none'/>", "qcow2", "qcow2"),
    ],
)
def test_format_of_the_image(driver: str, stated: str, form: str) -> None:
    attribute = f"source_format='{stated}'" if stated else ""
    assert image(f"source='/srv/i.qcow2' {attribute}", driver).format == form


@pytest.mark.parametrize(
    ("name", "attribute", "packed"),
    [
        ("el9.raw", "", ""),
        ("el9.raw.gz", "", "gz"),
        ("el9.raw.bz2", "", "bz2"),
        ("el9.raw.xz", "", "xz"),
        ("el9.raw.zst", "", "zst"),
        ("el9.raw.xz?version=2", "", "xz"),
        ("get?name=el9.raw.xz", "", ""),
        ("el9.raw.XZ", "", ""),
        ("el9.gz.raw", "", ""),
        ("el9.raw", "compression='gz'", "gz"),
        ("el9.raw", "compression='bz2'", "bz2"),
        ("el9.raw", "compression='xz'", "xz"),
        ("el9.raw", "compression='zst'", "zst"),
        ("el9.raw.gz", "compression='none'", ""),
        ("el9.raw.gz", "compression='xz'", "xz"),
    ],
)
def test_compression(name: str, attribute: str, packed: str) -> None:
    assert image(f"source='http://h/{name}' {attribute}").compression == packed


def test_mirrors_packed_alike_or_stated() -> None:
    assert image("source='http://h/a.gz http://i/b.gz'").compression == "gz"
    assert image("source='http://h/a.gz http://i/get?b' compression='gz'").compression == "gz"


def test_nothing_is_taken_for_packed_locally() -> None:
    assert image("source='/srv/a.gz'").compression == ""
    assert image("source='/srv/a.gz' compression='none'").compression == ""


def test_overlay() -> None:
    assert image("source='/srv/i' copy_method='cow'").overlay == "qcow2"
    assert image("source='/srv/i' format='qemu-img-qcow2'").overlay == "qemu-img-qcow2"
    assert image("source='/srv/i' copy_method='cow' format='vhd-util-vhd'").overlay == "vhd-util-vhd"


@pytest.mark.parametrize(
    ("function", "digits", "known"),
    [
        ("sha256", 64, "sha256"),
        ("SHA-256", 64, "sha256"),
        ("sha512", 128, "sha512"),
        ("sha384", 96, "sha384"),
        ("sha224", 56, "sha224"),
        ("blake2b", 128, "blake2b"),
        ("sha1", 40, "sha1"),
        ("md5", 32, "md5"),
        ("md5sum", 32, "md5"),
        ("/usr/bin/md5sum", 32, "md5"),
        ("/usr/bin/sha1sum", 40, "sha1"),
        ("/usr/bin/sha256sum", 64, "sha256"),
        ("/usr/bin/b2sum", 128, "blake2b"),
        ("/usr/local/bin/crc-32", 8, "/usr/local/bin/crc-32"),
        ("/opt/x_y+z", 8, None),
    ],
)
def test_checksum(function: str, digits: int, known: str | None) -> None:
    tag = f"{RAW}<vbcheckhash hashfunction='{function}' hashvalue='{DIGEST_OF[:digits].upper()}'/>"
    if known is None:
        assert mistakes(disk("source='/srv/i'", tag))[0][0] == 2, "the schema has no '+'"
        return
    assert image("source='/srv/i'", tag).checksum == Checksum(known, DIGEST_OF[:digits])


@pytest.mark.parametrize(
    ("attributes", "driver", "expected"),
    [
        ("", RAW, UserImage("vbuserimage", "raw")),
        ("name='vbdata_2'", RAW, UserImage("vbdata_2", "raw")),
        ("format='qcow2'", RAW, UserImage("vbuserimage", "qcow2")),
        ("format='qcow'", RAW, UserImage("vbuserimage", "qcow")),
        ("format='vhd'", RAW, UserImage("vbuserimage", "vhd")),
        ("format='raw'", "<driver type='vpc'/>", UserImage("vbuserimage", "raw")),
        ("", "<driver type='vpc'/>", UserImage("vbuserimage", "vhd")),
    ],
)
def test_user_image(attributes: str, driver: str, expected: UserImage) -> None:
    found = read(disk("source='/srv/i'", f"{driver}<vbuserimage {attributes}/>"))
    assert found.user == expected
    assert found.source == ImageSource(("/srv/i",), "cow", "raw" if driver == RAW else "vhd", "", None, "qcow2")


def test_user_image_has_the_format_of_the_source() -> None:
    assert read(disk("source='/srv/i' source_format='qcow2'", "<vbuserimage/>")).user == UserImage("vbuserimage", "qcow2")


@pytest.mark.parametrize("filesystem", ["ext2", "ext3", "ext4", "xfs", "vfat", "swap"])
def test_file_system(filesystem: str) -> None:
    assert blank(f"source='scratch' create='always' size='1024' filesystem='{filesystem}' label='a.B_2-c'") == BlankSource(
        "scratch", False, "cow", 1024 * MIB, "raw", filesystem, "a.B_2-c"
    )


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("create='always' size='1'", BlankSource("scratch", False, "cow", MIB, "vhd", "", "")),
        ("create='once' size='1'", BlankSource("scratch", True, "cow", MIB, "vhd", "", "")),
        ("create='once' size='1' copy_method='cow'", BlankSource("scratch", True, "cow", MIB, "vhd", "", "")),
        ("create='once' size='1' copy_method='copy'", BlankSource("scratch", True, "copy", MIB, "vhd", "", "")),
        ("create='always' size='1' format='raw'", BlankSource("scratch", False, "cow", MIB, "raw", "", "")),
        (
            "create='always' size='1' format='vhd-util-vhd-fixed'",
            BlankSource("scratch", False, "cow", MIB, "vhd-util-vhd-fixed", "", ""),
        ),
    ],
)
def test_blank(attributes: str, expected: BlankSource) -> None:
    assert blank(f"source='scratch' {attributes}", "<driver name='tap2' type='vhd'/>") == expected


LABELS = [("ext2", 16), ("ext3", 16), ("ext4", 16), ("xfs", 12), ("vfat", 11), ("swap", 15)]


@pytest.mark.parametrize(("filesystem", "most"), LABELS)
def test_longest_label(filesystem: str, most: int) -> None:
    attributes = f"source='s' create='always' size='1' filesystem='{filesystem}' label='{{}}'"
    assert blank(attributes.format("l" * most)).label == "l" * most
    if most < 16:
        assert mistakes(disk(attributes.format("l" * (most + 1)))) == [
            (3, f"<vbdisksource> label='{'l' * (most + 1)}': a label of {filesystem} has at most {most} characters")
        ]


CERNVM_URL = "http://.../ucernvm-prod.1.18-13.cernvm.x86_64.fat"
CERNVM_LONG_URL = "http://cernvm.cern.ch/releases/.../ucernvm-prod.1.18-13.cernvm.x86_64.fat"
PUBLISHED = f"""<disk type='file' device='disk'>
   <!-- The boot disk -->
   <driver name='tap2' type='aio'/>
   <vbdisksource source='{CERNVM_URL}' copy_method='download'/>
   <vbcheckhash hashfunction='/usr/bin/md5sum' hashvalue='826164d1748929445e805b57929c8f7e'/>
   <source file='/vmbatch/images/cernvm3.fat'/>
   <target dev='xvdb' bus='xen'/>
  </disk>
 <disk type='file' device='disk'>
   <!-- The 20GByte disk with the persistent CernVM-FS cache -->
   <driver name='tap2' type='vhd'/>
   <vbdisksource source='cernvm-hd.vhd' size='20480' create='always' format='vhd-util-vhd'/>
   <source file='/vmbatch/images/cernvm3-hd.vhd'/>
   <target dev='xvdaa' bus='xen'/>
  </disk>
 <disk type='file' device='disk'>
   <!-- CDROM with contextualization data -->
   <driver name='tap2' type='aio'/>
   <vbpreparecdrom source='context.iso'/>
   <source file='/vmbatch/images/context.iso'/>
   <target dev='xvdc' bus='xen'/>
   <readonly/>
  </disk>
<disk type='file' device='disk'>
    <driver name='tap2' type='aio'/>
    <vbdisksource
    source='{CERNVM_LONG_URL}'
    copy_method='shared'/>
    <source file='/vmbatch/images/ucernvm-prod.1.18-13.cernvm.x86_64.fat'/>
    <vbcheckhash hashfunction='/usr/bin/md5sum'
    hashvalue='826164d1748929445e805b57929c8f7e'/>
    <target dev='xvdd' bus='xen'/>
         <readonly/>
    </disk>
<disk type='file' device='disk'>
  <driver name='tap2' type='vhd'/>
  <vbdisksource source='cernvm-hd.vhd'
  size='20480'
  create='once'
  format='vhd-util-vhd'/>
  <source file='ywbatch/images/cernvm3-hd.vhd'/>
  <target dev='xvdae' bus='xen'/>
  </disk>
"""
"""The disks of the published description (000_c5c051de52949e83), in one domain: two targets of the same name have another."""


def test_published_lines() -> None:
    text = f"<domain type='kvm'><vbconfig><vbhypervisor>KVM</vbhypervisor></vbconfig><devices>{PUBLISHED}</devices></domain>"
    md5 = Checksum("md5", "826164d1748929445e805b57929c8f7e")
    found = template.parse(text.encode(), "t.xml").disks
    assert [(tag.target, tag.readonly, tag.source, tag.user, tag.medium) for tag in found] == [
        ("xvdb", False, ImageSource((CERNVM_URL,), "download", "raw", "", md5, "qcow2"), None, None),
        ("xvdaa", False, BlankSource("cernvm-hd.vhd", False, "cow", 20480 * MIB, "vhd-util-vhd", "", ""), None, None),
        ("xvdc", True, None, None, MediumTag("context.iso", "vmbatch", "", "")),
        ("xvdd", True, ImageSource((CERNVM_LONG_URL,), "shared", "raw", "", md5, "qcow2"), None, None),
        ("xvdae", False, BlankSource("cernvm-hd.vhd", True, "cow", 20480 * MIB, "vhd-util-vhd", "", ""), None, None),
    ]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("source='el9.raw'", [NO_PATH.format("el9.raw")]),
        ("source='srv/el9.raw'", [NO_PATH.format("srv/el9.raw")]),
        ("source='/'", [NO_PATH.format("/")]),
        ("source='//srv/i'", [NO_PATH.format("//srv/i")]),
        ("source='/srv/i/'", [NO_PATH.format("/srv/i/")]),
        ("source='/srv/../etc/shadow'", [NO_PATH.format("/srv/../etc/shadow")]),
        ("source='/srv/..'", [NO_PATH.format("/srv/..")]),
        ("source='/srv/./i'", [NO_PATH.format("/srv/./i")]),
        ("source='file:///srv/../i'", [NO_PATH.format("file:///srv/../i")]),
        ("source='ftp://h/i'", [NO_URL.format("ftp://h/i")]),
        ("source='HTTP://h/i'", [NO_URL.format("HTTP://h/i")]),
        ("source='http://h'", [NO_URL.format("http://h")]),
        ("source='http:///i'", [NO_URL.format("http:///i")]),
        ("source='file://h/i'", [NO_URL.format("file://h/i"), NO_PATH.format("file://h/i")]),
        (f"source='{URL} ftp://h/i'", [NO_URL.format("ftp://h/i")]),
        (f"source='{URL} /srv/i'", [NO_URL.format("/srv/i")]),
        (f"source='{URL} file:///srv/i'", ["<vbdisksource>: a list of sources is for http:// and https:// alone"]),
        (
            "source='http://h/a.gz http://h/a.xz'",
            ["<vbdisksource>: the sources are packed in different ways; say which with compression='...'"],
        ),
        (
            "source='http://h/a.gz http://h/a'",
            ["<vbdisksource>: the sources are packed in different ways; say which with compression='...'"],
        ),
        ("source='/srv/i' compression='gz'", [LOCAL_PACKED.format("/srv/i")]),
        ("source='file:///srv/i.xz' compression='xz'", [LOCAL_PACKED.format("/srv/i.xz")]),
        ("source='/srv/i' size='20480'", [WITHOUT_CREATE.format("size")]),
        ("source='/srv/i' filesystem='ext4'", [WITHOUT_CREATE.format("filesystem")]),
        ("source='/srv/i' label='a'", [WITHOUT_CREATE.format("label")]),
        (
            "source='/srv/i' size='1' filesystem='ext4' label='a'",
            [WITHOUT_CREATE.format(name) for name in ("size", "filesystem", "label")],
        ),
        ("source='/srv/i' copy_method='copy' format='qcow2'", [WITHOUT_COW]),
        (f"source='{URL}' copy_method='download' format='raw'", [WITHOUT_COW]),
        ("source='s' create='always'", [NO_SIZE]),
        ("source='s' create='once' format='raw'", [NO_SIZE]),
        ("source='s' create='always' size='1234567890'", [
            "<vbdisksource> size='1234567890': expected the size of the disk to create, a whole number of MiB", NO_SIZE]),
        ("source='s' create='always' size='1' label='a'", ["<vbdisksource> label= goes with filesystem="]),
        ("source='s' create='always' size='1' source_format='raw'", [WITH_CREATE.format("source_format")]),
        ("source='s' create='always' size='1' compression='gz'", [WITH_CREATE.format("compression")]),
        (
            "source='s' create='always' size='1' copy_method='cow'",
            ["<vbdisksource> copy_method= goes with images, and with create='once'; take it out"],
        ),
        (
            "source='s' create='once' size='1' copy_method='shared'",
            ["<vbdisksource> copy_method='shared' does not go with create; use 'cow' or 'copy'"],
        ),
    ],
)
def test_mistake_of_a_source(attributes: str, said: list[str]) -> None:
    assert mistakes(disk(attributes)) == [(3, words) for words in said]


@pytest.mark.parametrize(
    ("attributes", "name", "value"),
    [
        ("source='/srv/i' copy_method='link'", "copy_method", "link"),
        ("source='/srv/i' source_format='vmdk'", "source_format", "vmdk"),
        ("source='/srv/i' compression='lz4'", "compression", "lz4"),
        ("source='s' size='1' create='never'", "create", "never"),
        ("source='s' size='-1' create='always'", "size", "-1"),
        ("source='s' size='0' create='always'", "size", "0"),
        ("source='s' size='20G' create='always'", "size", "20G"),
        ("source='s' size='1' create='always' format='QCOW2'", "format", "QCOW2"),
        ("source='s' size='1' create='always' filesystem='ntfs'", "filesystem", "ntfs"),
        ("source='s' size='1' create='always' filesystem='ext4' label='-a'", "label", "-a"),
        ("source='s' size='1' create='always' filesystem='ext4' label='a b'", "label", "a b"),
        ("source='s' size='1' create='always' filesystem='ext4' label='12345678901234567'", "label", "12345678901234567"),
        ("source=''", "source", ""),
        ("source=' /srv/i'", "source", " /srv/i"),
    ],
)
def test_value_that_the_schema_does_not_have(attributes: str, name: str, value: str) -> None:
    found = mistakes(disk(attributes))
    meaning = schema.attributes("vbdisksource")[name][1]
    assert (3, f"<vbdisksource> {name}='{value}': expected {meaning}") in found
    assert {line for line, _ in found} <= {2, 3}


def test_no_source() -> None:
    meaning = schema.attributes("vbdisksource")["source"][1]
    assert mistakes(disk("copy_method='cow'"))[0] == (3, f"<vbdisksource> needs the attribute source: {meaning}")
    meaning = schema.attributes("vbcheckhash")["hashvalue"][1]
    found = mistakes(disk("source='/srv/i'", f"{RAW}<vbcheckhash hashfunction='/usr/bin/cksum'/>"))
    assert found == [(2, f"<vbcheckhash> needs the attribute hashvalue: {meaning}")]


def test_an_unknown_attribute() -> None:
    assert mistakes(disk("source='/srv/i' copymethod='cow'")) == [
        (3, "<vbdisksource> has no attribute copymethod; did you mean copy_method?")
    ]


@pytest.mark.parametrize(
    ("driver", "line", "form"),
    [
        ("", 3, "not stated"),
        ("<driver name='qemu'/>", 2, "not stated"),
        ("<driver name='qemu' type='vmdk'/>", 2, "vmdk"),
        ("<driver name='qemu' type='RAW'/>", 2, "RAW"),
    ],
)
@pytest.mark.parametrize("attributes", ["source='/srv/i.raw'", "source='s' create='always' size='1'"])
def test_format_that_is_not_known(driver: str, line: int, form: str, attributes: str) -> None:
    assert mistakes(disk(attributes, driver)) == [(line, UNKNOWN_FORMAT.format(form))]


def test_format_is_asked_for_once() -> None:
    """The image of a submitter has the format of the disk's, which is one mistake and not two."""
    assert mistakes(disk("source='/srv/i'", "<driver type='vmdk'/>\n<vbuserimage/>")) == [(2, UNKNOWN_FORMAT.format("vmdk"))]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        (
            "hashfunction='sha256' hashvalue='0123456789abcdef'",
            "<vbcheckhash> hashvalue has 16 digits; sha256 has 64",
        ),
        (
            f"hashfunction='/usr/bin/md5sum' hashvalue='{'0' * 64}'",
            "<vbcheckhash> hashvalue has 64 digits; md5 has 32",
        ),
        *(
            (
                f"hashfunction='{function}' hashvalue='{'0' * 32}'",
                f"<vbcheckhash> hashfunction='{function}': expected sha256, sha512, sha384, sha224, blake2b, sha1, md5, "
                "or the path of a program",
            )
            for function in ("crc32", "sha3", "cksum", "bin/cksum", "/usr/bin/", "//cksum", "/bin/../cksum", "/bin/.x", "/")
        ),
    ],
)
def test_mistake_of_a_checksum(tag: str, said: str) -> None:
    assert mistakes(disk("source='/srv/i'", f"{RAW}<vbcheckhash {tag}/>")) == [(2, said)]


def test_digits_that_are_none() -> None:
    meaning = schema.attributes("vbcheckhash")["hashvalue"][1]
    found = mistakes(disk("source='/srv/i'", f"{RAW}<vbcheckhash hashfunction='md5' hashvalue='{'g' * 32}'/>"))
    assert found == [(2, f"<vbcheckhash> hashvalue='{'g' * 32}': expected {meaning}")]


def test_tags_without_a_source() -> None:
    bare = f"<disk type='file'><target dev='vdb'/><readonly/>\n<vbcheckhash hashfunction='md5' hashvalue='{'0' * 32}'/></disk>"
    assert mistakes(bare) == [(2, "<vbcheckhash> checks the image of a <vbdisksource>, and this disk has none")]
    bare = "<disk type='file'><target dev='vdb'/><readonly/>\n<vbuserimage/></disk>"
    assert mistakes(bare) == [(2, "<vbuserimage> overrides the image of a <vbdisksource>, and this disk has none")]


def test_tags_with_create() -> None:
    created = "source='s' create='always' size='1'"
    assert mistakes(disk(created, f"{RAW}<vbcheckhash hashfunction='md5' hashvalue='{'0' * 32}'/>")) == [
        (3, "<vbcheckhash> is for images that exist; a disk with create= has no digest")
    ]
    assert mistakes(disk(created, f"{RAW}<vbuserimage/>")) == [
        (2, "<vbuserimage> overrides the image of a <vbdisksource>, and this disk has none")
    ]
    assert mistakes(disk(created, f"{RAW}<readonly/>")) == [
        (1, "an empty disk that is <readonly/> is of no use; take one of both out")
    ]


def test_two_user_images_of_one_name() -> None:
    one = disk("source='/srv/i'", f"{RAW}<vbuserimage/>")
    other = disk("source='/srv/i'", f"{RAW}<vbuserimage name='vbuserimage'/>", "vdc")
    assert mistakes(f"{one}\n{other}") == [
        (6, "a second <vbuserimage> with the name 'vbuserimage'; give it another name='...'")
    ]
    template.parse(domain(one + other.replace("name='vbuserimage'", "name='vbother'")).encode(), "t.xml")


def test_two_disks_made_once_that_would_be_one() -> None:
    """A job would wait for itself: what is filled once is known by the name in `source`."""
    once = "source='cache' create='once' size='1024'"
    assert mistakes(f"{disk(once)}\n{disk(once, target='vdc')}") == [
        (6, "a second disk with create='once' and source='cache'; give it another name")
    ]


def test_two_disks_made_once_by_two_names() -> None:
    once = "source='{}' create='once' size='1024'"
    template.parse(domain(f"{disk(once.format('a'))}{disk(once.format('b'), target='vdc')}").encode(), "t.xml")


@pytest.mark.parametrize(
    ("name", "format_", "wrong"),
    [("userimage", None, "name"), ("vb", None, "name"), ("vb-data", None, "name"), ("vb" + "x" * 63, None, "name"),
     ("vbdata", "vmdk", "format"), ("vbdata", "vpc", "format")],
)
def test_mistake_of_a_user_image(name: str, format_: str | None, wrong: str) -> None:
    value = format_ if wrong == "format" else name
    more = f" format='{format_}'" if format_ else ""
    found = mistakes(disk("source='/srv/i'", f"{RAW}<vbuserimage name='{name}'{more}/>"))
    assert found[0] == (2, f"<vbuserimage> {wrong}='{value}': expected {schema.attributes('vbuserimage')[wrong][1]}")


def test_the_disk_itself() -> None:
    good = disk("source='/srv/i'")
    assert mistakes(good.replace("type='file'", "type='block'", 1)) == [
        (1, "<disk type='block'>: a disk that VmBatch makes needs type='file'")
    ]
    assert mistakes(good.replace("<target dev='vdb'/>", "")) == [(1, "<disk> has no <target dev='...'/>")]
    assert mistakes(good.replace("dev='vdb'", "dev='vd/b'")) == [(4, "<target dev='vd/b'>: expected a device such as 'vda'")]
    assert mistakes("<disk type='file'><source file='/srv/i'/><target dev='vdb'/></disk>") == [
        (1, "the disk vdb would be written by every job; "
            "give it a <vbdisksource source='/path' copy_method='cow'/> or a <readonly/>")
    ]


def test_all_mistakes_at_once() -> None:
    text = disk("source='i' copy_method='copy' size='1' format='raw'",
                "<driver type='vmdk'/><vbcheckhash hashfunction='sha256' hashvalue='00000000'/>", "v.b")
    assert mistakes(text) == [
        (2, UNKNOWN_FORMAT.format("vmdk")),
        (2, "<vbcheckhash> hashvalue has 8 digits; sha256 has 64"),
        (3, NO_PATH.format("i")),
        (3, WITHOUT_CREATE.format("size")),
        (3, WITHOUT_COW),
        (4, "<target dev='v.b'>: expected a device such as 'vda'"),
    ]


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30) | st.sampled_from(
    ["", "/srv/i", "http://h/a.gz", "file:///x", "://", "http://[", "once", "always", "raw", "shared", "download", "ext4", "1",
     "٣", "a" * 200, "md5", "/bin/x", "vbx", "\t", "\n"]
)
ATTRIBUTES = {tag: st.dictionaries(st.sampled_from(sorted(schema.attributes(tag))), TEXT)
              for tag in ("vbdisksource", "vbcheckhash", "vbuserimage", "vbpreparecdrom")}


@settings(deadline=None)
@given(
    ATTRIBUTES["vbdisksource"],
    ATTRIBUTES["vbcheckhash"] | st.none(),
    ATTRIBUTES["vbuserimage"] | st.none(),
    st.dictionaries(st.sampled_from(["name", "type", "cache"]), TEXT) | st.none(),
    TEXT,
    st.booleans(),
)
@example({"source": "s", "create": "once", "size": "1", "filesystem": "zfs", "label": "l" * 100}, None, None, None, "vdb", False)
def test_only_input_errors(
    source: dict[str, str], checksum: dict[str, str] | None, user: dict[str, str] | None, driver: dict[str, str] | None,
    target: str, readonly: bool,
) -> None:
    root = etree.fromstring(TEMPLATE)
    [devices] = root.findall("devices")
    made = etree.SubElement(devices, "disk", {"type": "file"})
    for tag, attributes in (("vbdisksource", source), ("vbcheckhash", checksum), ("vbuserimage", user), ("driver", driver),
                            ("target", {"dev": target}), ("readonly", {} if readonly else None)):
        if attributes is not None:
            etree.SubElement(made, tag, attributes)
    try:
        found = template.parse(etree.tostring(root), "t.xml").disks[-1].source
    except InputError as error:
        assert all(line > 0 and words for line, words in error.problems)
        return
    assert isinstance(found, ImageSource | BlankSource)
    if isinstance(found, BlankSource):
        assert 0 < found.size < 10**9 * MIB
    else:
        assert all(place.startswith(("/", "http://", "https://")) for place in found.places)
