"""Logical volumes are found where lvm2 put them; what is not linear, not here or damaged is refused."""

import re
import struct
import time
import zlib
from collections.abc import Callable

import pytest

from vmbatch.format import FormatError, Read, lvm
from vmbatch.format.table import Extent

from .lvm_sample import SAMPLE

MIB = 1 << 20
SIZE = 64 * MIB
TEXT_AT, TEXT_LENGTH = struct.unpack_from("<QQ", SAMPLE, 4096 + 40)
TEXT = SAMPLE[4096 + TEXT_AT:][:TEXT_LENGTH].rstrip(b"\0").decode()
PV_ID = SAMPLE[544:576].decode()


def crc(data: bytes) -> int:
    """As lvm2's lib/misc/crc.c, a bit at a time."""
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


def reader(data: bytes, base: int = 0) -> Read:
    """A disk of zeros with `data` at `base`, as long as the sample's; the end of the disk is the end."""

    def read(offset: int, length: int) -> bytes:
        assert length <= 4 * MIB, "reads are bounded"
        length = max(0, min(length, base + SIZE - offset))
        found = data[max(0, offset - base) : max(0, offset - base + length)] if offset >= base else b""
        return found.ljust(length, b"\0")

    return read


def label(data: bytearray) -> bytes:
    """With the label's checksum put right."""
    data[528:532] = struct.pack("<I", crc(bytes(data[532:1024])))
    return bytes(data)


def area(data: bytearray) -> bytes:
    """With the checksum of the metadata area's header put right."""
    data[4096:4100] = struct.pack("<I", crc(bytes(data[4100:4608])))
    return bytes(data)


def written(text: str | bytes, at: int = 512, checksum: int | None = None) -> bytes:
    """The sample with other metadata, `at` bytes into the area, which is a ring behind its first 512 bytes."""
    raw = (text.encode() if isinstance(text, str) else text) + b"\0"
    data = bytearray(SAMPLE[:4608].ljust(MIB, b"\0"))
    end = MIB - 4096
    first = raw[: end - at]
    data[4096 + at : 4096 + at + len(first)] = first
    data[4608 : 4608 + len(raw) - len(first)] = raw[len(first) :]
    if checksum is None:
        checksum = zlib.crc32(raw, 0x0A685930) ^ 0xFFFFFFFF
    struct.pack_into("<QQI", data, 4096 + 40, at, len(raw), checksum)
    return area(data)


def poked(offset: int, value: bytes, seal: Callable[[bytearray], bytes] = bytes) -> bytes:
    data = bytearray(SAMPLE)
    data[offset : offset + len(value)] = value
    return seal(data)


def found(data: bytes, name: str, base: int = 0, length: int = SIZE) -> list[tuple[int, int]]:
    """(offset, length) in MiB."""
    parts = lvm.logical_volume(reader(data, base), Extent(base, length), name)
    assert all(part.offset % MIB == part.length % MIB == 0 for part in parts)
    return [(part.offset // MIB, part.length // MIB) for part in parts]


def refusal(data: bytes, name: str = "root", length: int = SIZE) -> str:
    with pytest.raises(FormatError) as caught:
        found(data, name, length=length)
    return caught.value.what


def volume(name: str, *segments: str, status: str = '["READ", "WRITE", "VISIBLE"]') -> str:
    """A logical volume's section."""
    body = "".join(f"segment{number} {{\n{segment}\n}}\n" for number, segment in enumerate(segments, 1))
    return f"{name} {{\nstatus = {status}\nsegment_count = {len(segments)}\n{body}}}\n"


def linear(start: int, count: int, first: int, pv: str = "pv0") -> str:
    return f'start_extent = {start}\nextent_count = {count}\ntype = "striped"\nstripe_count = 1\nstripes = ["{pv}", {first}]'


def group(*volumes: str, extent_size: int = 2048, pe_start: int = 2048, pe_count: int = 63, identity: str = PV_ID) -> bytes:
    """A physical volume with a group of these."""
    return written(
        f'vg0 {{\nid = "x"\nextent_size = {extent_size}\nphysical_volumes {{\npv0 {{\nid = "{identity}"\npe_start = {pe_start}\n'
        f'pe_count = {pe_count}\n}}\n}}\nlogical_volumes {{\n{"".join(volumes)}}}\n}}\n'
        'contents = "Text Format Volume Group"\nversion = 1\n')


def test_the_checksum_of_lvm2() -> None:
    assert struct.unpack_from("<I", SAMPLE, 528)[0] == crc(SAMPLE[532:1024])
    assert crc(b"ab" * 99) == zlib.crc32(b"ab" * 99, 0x0A685930) ^ 0xFFFFFFFF


@pytest.mark.parametrize(("name", "parts"), [
    ("root", [(1, 8), (13, 4)]),
    ("vg0/root", [(1, 8), (13, 4)]),
    ("swap", [(9, 4)]),
    ("join", [(17, 5)]),
], ids=["two segments", "with its group", "one segment", "extended in place"])
@pytest.mark.parametrize("base", [0, 3 * MIB])
def test_what_lvm2_wrote(name: str, parts: list[tuple[int, int]], base: int) -> None:
    assert found(SAMPLE, name, base) == [(offset + base // MIB, length) for offset, length in parts]


@pytest.mark.parametrize(("name", "what"), [
    ("both", "has a logical volume both that lies on another disk, or partly"),
    ("away", "has a logical volume away that lies on another disk, or partly"),
    ("wide", "has a logical volume wide that is striped"),
    ("home", "has no logical volume home in the volume group vg0; it has away, both, join, root, swap, wide"),
    ("vg1/root", "has no volume group vg1; it has vg0"),
])
def test_what_lvm2_wrote_and_cannot_be_reached(name: str, what: str) -> None:
    assert refusal(SAMPLE, name) == what


@pytest.mark.parametrize("name", ["", "/", "a/b/c", "root\n", "vg0/", "-x", "a b", "x" * 129])
def test_a_name_must_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a logical volume") as caught:
        lvm.logical_volume(reader(SAMPLE), Extent(0, SIZE), name)
    assert not isinstance(caught.value, FormatError)


def test_metadata_is_a_ring() -> None:
    assert found(written(TEXT, at=MIB - 4096 - 1000), "root") == [(1, 8), (13, 4)]


def test_the_label_may_be_in_another_sector() -> None:
    data = bytearray(SAMPLE)
    data[1536:2048], data[512:1024] = data[512:1024], bytes(512)
    struct.pack_into("<Q", data, 1544, 3)
    data[1552:1556] = struct.pack("<I", crc(bytes(data[1556:2048])))
    assert found(bytes(data), "swap") == [(9, 4)]


def test_an_ignored_area_is_passed_over() -> None:
    data = bytearray(SAMPLE[:4608].ljust(MIB, b"\0"))
    struct.pack_into("<I", data, 4096 + 60, 1)
    assert refusal(area(data)) == "has a physical volume without metadata, which is on another disk or nowhere"


LABELS = {
    "nothing": (bytes(MIB), "has no physical volume of LVM where it should"),
    "kind": (poked(536, b"LVM1 001", label), "has a label of LVM of the unknown kind b'LVM1 001'"),
    "sector": (poked(520, b"\2", label), "has a label of LVM in sector 1 that says it is of sector 2"),
    "checksum": (poked(1000, b"x"), "has a label of LVM with a wrong checksum"),
    "offset": (poked(532, struct.pack("<I", 473), label), "has a label of LVM whose content is at byte 473, outside its sector"),
    "size": (poked(576, struct.pack("<Q", SIZE + 1), label), f"has a physical volume of {SIZE + 1} bytes in a place of {SIZE}"),
    "no end": (poked(584, b"\1" * 440, label), "has a label of LVM whose list of areas does not end"),
    "two data areas": (poked(600, struct.pack("<QQQQQQQQ", 9, 9, 0, 0, 4096, 4096, 0, 0), label),
                       "has a physical volume with 2 data areas, not with one"),
    "no metadata area": (poked(616, bytes(16), label),
                         "has a physical volume without metadata, which is on another disk or nowhere"),
    "area far away": (poked(616, struct.pack("<QQ", 1 << 60, MIB), label),
                      f"has a physical volume that is truncated: it ends before byte {(1 << 60) + 512}"),
    "area's magic": (poked(4100, b"x", area), "has a metadata area of LVM with a wrong header"),
    "area's version": (poked(4116, b"\2", area), "has a metadata area of LVM with a wrong header"),
    "area's place": (poked(4120, b"\1", area), "has a metadata area of LVM with a wrong header"),
    "area's checksum": (poked(4500, b"x"), "has a metadata area of LVM whose header has a wrong checksum"),
    "text before the ring": (poked(4136, struct.pack("<Q", 511), area),
                             f"has metadata of LVM of {TEXT_LENGTH} bytes at byte 511 of an area of {MIB - 4096}"),
    "text behind the ring": (poked(4136, struct.pack("<Q", MIB - 4096), area),
                             f"has metadata of LVM of {TEXT_LENGTH} bytes at byte {MIB - 4096} of an area of {MIB - 4096}"),
    "text too long": (poked(4144, struct.pack("<Q", 1 << 40), area),
                      f"has metadata of LVM of {1 << 40} bytes at byte {TEXT_AT} of an area of {MIB - 4096}"),
    "text's checksum": (written(TEXT, checksum=1), "has metadata of LVM with a wrong checksum"),
    "not text": (written(b"\xff\xfe"), "has metadata of LVM that is not text"),
}


@pytest.mark.parametrize(("data", "what"), LABELS.values(), ids=LABELS)
def test_a_damaged_label_or_area(data: bytes, what: str) -> None:
    assert refusal(data) == what


def test_a_truncated_disk() -> None:
    assert refusal(SAMPLE, length=700) == "has a physical volume that is truncated: it ends before byte 1024"
    with pytest.raises(FormatError, match="is truncated: it ends before byte 512"):
        lvm.logical_volume(lambda offset, length: b"", Extent(0, SIZE), "root")


GROUPS = {
    "no group": ('contents = "Text Format Volume Group"\nversion = 1\n', "has metadata of LVM without one volume group"),
    "two groups": (TEXT + "vg1 { }", "has metadata of LVM without one volume group"),
    "other contents": (TEXT.replace("Text Format", "Other"), "has metadata of LVM of an unknown kind"),
    "other version": (TEXT.replace("version = 1\n", "version = 2\n"), "has metadata of LVM of an unknown kind"),
    "no physical volumes": (TEXT.replace("physical_volumes {", "p {"), "has metadata of LVM without a section physical_volumes"),
    "another's": (TEXT.replace(PV_ID[:6], "ABCDEF"), "has a physical volume that its own metadata does not name"),
    "extents of nothing": (TEXT.replace("extent_size = 2048", "extent_size = 0"), "has a volume group with extents of 0 bytes"),
    "huge extents": (TEXT.replace("extent_size = 2048", f"extent_size = {1 << 40}"),
                     f"has a volume group with extents of {1 << 49} bytes"),
    "extents are text": (TEXT.replace("extent_size = 2048", 'extent_size = "2048"'),
                         "has metadata of LVM without a number extent_size"),
    "huge number": (TEXT.replace("extent_size = 2048", f"extent_size = {1 << 63}"),
                    "has metadata of LVM without a number extent_size"),
    "too many extents": (TEXT.replace("pe_count = 63", "pe_count = 64"),
                         f"has a physical volume whose extents end at byte {65 * MIB}, outside its place"),
    "more segments than there are": (TEXT.replace("segment_count = 2", "segment_count = 3"),
                                     "has metadata of LVM without a section segment3"),
    "a million of segments": (TEXT.replace("segment_count = 2", "segment_count = 9000000000000000000"),
                              "has metadata of LVM without a section segment3"),
    "no segments": (TEXT.replace("segment_count = 2", "segment_count = 0"), "has a logical volume root without segments"),
}


@pytest.mark.parametrize(("text", "what"), GROUPS.values(), ids=GROUPS)
def test_metadata_that_is_wrong(text: str, what: str) -> None:
    assert refusal(written(text)) == what


VOLUMES = {
    "gap": (volume("root", linear(0, 2, 0), linear(3, 1, 4)), "has a logical volume root with a gap before segment 2"),
    "outside": (volume("root", linear(0, 60, 4)),
                "has a logical volume root with 60 extents from 4 on, outside its physical volume"),
    "nothing": (volume("root", linear(0, 0, 4)),
                "has a logical volume root with 0 extents from 4 on, outside its physical volume"),
    "far away": (volume("root", linear(0, 1, (1 << 63) - 1)),
                 f"has a logical volume root with 1 extents from {(1 << 63) - 1} on, outside its physical volume"),
    "twice": (volume("root", linear(0, 4, 0), linear(4, 4, 3)), "has a logical volume root with overlapping segments"),
    "hidden": (volume("root", linear(0, 4, 0), status='["READ", "WRITE"]'),
               "has a logical volume root that is only a part of another one"),
    "thin": (volume("root", 'start_extent = 0\nextent_count = 4\ntype = "thin"\nthin_pool = "pool"'),
             "has a logical volume root of the type thin"),
    "raid": (volume("root", 'start_extent = 0\nextent_count = 4\ntype = "raid1"\nraids = ["a", "b"]'),
             "has a logical volume root of the type raid1"),
    "of no type": (volume("root", "start_extent = 0\nextent_count = 4"), "has a logical volume root of the type unknown"),
    "escapes in the type": (volume("root", 'start_extent = 0\ntype = "\x1b[31m"'),
                            "has a logical volume root of the type unknown"),
    "stripes are a word": (volume("root", 'start_extent = 0\nextent_count = 4\ntype = "striped"\nstripes = "pv0"'),
                           "has a logical volume root without stripes"),
    "a stripe is text": (volume("root", 'start_extent = 0\nextent_count = 4\ntype = "striped"\nstripes = ["pv0", "0"]'),
                         "has a logical volume root without stripes"),
    "missing": (volume("root", linear(0, 4, 0, "pv1")), "has a logical volume root that lies on another disk, or partly"),
    "with a snapshot": (volume("root", linear(0, 4, 0)) + volume("snap", linear(0, 4, 4)) + volume(
        "snapshot0", 'start_extent = 0\ntype = "snapshot"\norigin = "root"\ncow_store = "snap"', status='["READ"]'),
        "has a logical volume root with a snapshot, which would be spoiled"),
    "a snapshot": (volume("origin", linear(0, 4, 0)) + volume("root", linear(0, 4, 4)) + volume(
        "snapshot0", 'start_extent = 0\ntype = "snapshot"\norigin = "origin"\ncow_store = "root"', status='["READ"]'),
        "has a logical volume root that is a snapshot"),
    "names with escapes": (volume('"\x1b[31m"', linear(0, 4, 0)),
                           "has no logical volume root in the volume group vg0; it has none"),
}


@pytest.mark.parametrize(("text", "what"), VOLUMES.values(), ids=VOLUMES)
def test_volumes_that_cannot_be_reached(text: str, what: str) -> None:
    assert refusal(group(text)) == what


def test_segments_are_joined_and_kept_in_their_order() -> None:
    data = group(volume("root", linear(0, 2, 10), linear(2, 3, 12), linear(5, 1, 4), linear(6, 1, 5), linear(7, 1, 3)))
    assert found(data, "root") == [(11, 5), (5, 2), (4, 1)]


def test_a_group_without_volumes() -> None:
    assert refusal(group()) == "has no logical volume root in the volume group vg0; it has none"


MISTAKES = {
    "open section": "vg0 {",
    "closed twice": "vg0 { } }",
    "no value": "a = ",
    "no name": "= 3",
    "a word for a value": "a = b",
    "a float": "a = 1.5",
    "twice": "a = 1\na = 2",
    "section twice": "a { }\na { }",
    "open list": "a = [1, 2",
    "list in a list": "a = [[1]]",
    "list without commas": "a = [1 2]",
    "open string": 'a = "b',
    "a mark": "a ; b",
    "deep": "a {" * 20,
    "deeper": "a {" * 300_000,
    "numbers without end": "a = " + "9" * 900_000,
    "comments": "# " * 450_000 + "\n~",
    "blanks": " " * 900_000 + "~",
    "escapes": 'a = "' + "\\" * 900_001,
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_of_syntax(text: str) -> None:
    """Each is refused at once, however long it is."""
    start = time.process_time()
    assert re.match("has metadata of LVM with a mistake|has metadata of LVM of an unknown kind", refusal(written(text, at=512)))
    assert time.process_time() - start < 5


def test_much_metadata_takes_seconds_at_most() -> None:
    many = "".join(volume(f"v{number}", linear(0, 1, number % 60)) for number in range(5500))
    start = time.process_time()
    assert found(group(many, volume("root", linear(0, 1, 7))), "root") == [(8, 1)]
    assert time.process_time() - start < 10


def test_strings_have_escapes_and_comments_are_passed_over() -> None:
    text = TEXT.replace('creation_host = "vm"', 'creation_host = "a \\" } \\\\" # { "').replace("flags = []", "flags=[ ]#x\n", 1)
    assert found(written(text), "swap") == [(9, 4)]
