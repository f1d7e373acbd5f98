"""Partitions lie where their table says, with Linux's numbers; tables that loop, overlap, lie or are damaged are refused."""

import itertools
import struct
import time
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbatch.format import FormatError, Read
from vmbatch.format.table import Extent, partition, partitions

SECTORS = 1 << 20
"""Of a disk of 512 MiB."""

LINUX, LBA_EXTENDED, PROTECTIVE = 0x83, 0x0F, 0xEE
Entry = tuple[int, int, int]
"""Type, first sector, sectors."""


def boot(*entries: Entry, flag: int = 0, signature: bytes = b"\x55\xaa") -> bytes:
    """An MBR or EBR; a type of 0 with no sectors leaves a slot empty."""
    body = b"".join(struct.pack("<B3xB3xII", flag, *entry) for entry in entries)
    return (bytes(446) + body).ljust(510, b"\0") + signature


def gpt(*entries: tuple[int, int, int], count: int = 128, entry_size: int = 128, table: int = 2, last: int = SECTORS - 34,
        length: int = 92, own: int = 1, revision: int = 0x10000, signature: bytes = b"EFI PART") -> dict[int, bytes]:
    """Sectors 0, 1 and from `table` on; entries are (number, first, last)."""
    array = bytearray(min(count, 1 << 14) * entry_size)
    for number, first, behind in entries:
        struct.pack_into("<16s16sQQ", array, (number - 1) * entry_size, b"k" * 16, b"i" * 16, first, behind)

    def header(checksum: int) -> bytes:
        return struct.pack("<8sIIIIQQQQ16sQIII", signature, revision, length, checksum, 0, own, SECTORS - 1, 34, last, b"d" * 16,
                           table, count, entry_size, zlib.crc32(array)).ljust(512, b"\0")

    sealed = header(zlib.crc32(header(0)[:length]))
    return {0: boot((PROTECTIVE, 1, 0xFFFFFFFF)), 1: sealed, table: bytes(array)}


def reader(parts: dict[int, bytes], sectors: int = SECTORS) -> Read:
    """A disk of zeros but for these sectors."""

    def read(offset: int, length: int) -> bytes:
        assert length <= 1 << 20, "reads are bounded"
        found = bytearray(max(0, min(length, sectors * 512 - offset)))
        for sector, data in parts.items():
            first, behind = max(sector * 512, offset), min(sector * 512 + len(data), offset + len(found))
            if first < behind:
                found[first - offset : behind - offset] = data[first - sector * 512 : behind - sector * 512]
        return bytes(found)

    return read


def found(parts: dict[int, bytes], sectors: int = SECTORS) -> dict[int, tuple[int, int]]:
    """(first sector, sectors) of every partition."""
    extents = partitions(reader(parts, sectors), sectors * 512)
    assert all(extent.offset % 512 == extent.length % 512 == 0 for extent in extents.values())
    return {number: (extent.offset // 512, extent.length // 512) for number, extent in extents.items()}


def refusal(parts: dict[int, bytes], sectors: int = SECTORS) -> str:
    with pytest.raises(FormatError) as caught:
        found(parts, sectors)
    return caught.value.what


def chain(*tables: tuple[int, Sequence[Entry]], extended: Entry = (LBA_EXTENDED, 10_000, 90_000)) -> dict[int, bytes]:
    """An extended partition and the tables in it: (sector, entries)."""
    return {0: boot((LINUX, 2048, 4096), extended), **{sector: boot(*entries) for sector, entries in tables}}


def test_primary_partitions() -> None:
    disk = {0: boot((LINUX, 2048, 100), (0, 0, 0), (0x82, 4096, 200), (0x07, 9000, SECTORS - 9000), flag=0x80)}
    assert found(disk) == {1: (2048, 100), 3: (4096, 200), 4: (9000, SECTORS - 9000)}
    assert partition(reader(disk), SECTORS * 512, 3) == Extent(4096 * 512, 200 * 512)


def test_a_partition_that_is_not_there() -> None:
    disk = {0: boot((LINUX, 2048, 100), (LINUX, 3000, 100))}
    for number in (0, 3, 5, -1):
        with pytest.raises(FormatError, match=rf"^has no partition {number}; it has 1, 2$"):
            partition(reader(disk), SECTORS * 512, number)
    with pytest.raises(FormatError, match=r"^has no partition 1; it has none$"):
        partition(reader({0: boot()}), SECTORS * 512, 1)


def test_the_extended_partition_is_none() -> None:
    disk = chain((10_000, [(LINUX, 63, 1000)]))
    with pytest.raises(FormatError, match=r"^has no partition 2; it has 1, 5$"):
        partition(reader(disk), SECTORS * 512, 2)


@pytest.mark.parametrize("kind", [0x05, 0x0F, 0x85])
def test_logical_partitions(kind: int) -> None:
    """Links count from the extended partition, partitions from their own table."""
    disk = chain((10_000, [(LINUX, 63, 1000), (0x05, 20_000, 5000)]), (30_000, [(0x82, 2048, 2000), (0x05, 5000, 5000)]),
                 (15_000, [(LINUX, 1, 10)]), extended=(kind, 10_000, 90_000))
    assert found(disk) == {1: (2048, 4096), 5: (10_063, 1000), 6: (32_048, 2000), 7: (15_001, 10)}


def test_tables_without_a_partition_take_no_number() -> None:
    disk = chain((10_000, [(0, 0, 0), (0x05, 5000, 5000)]), (15_000, [(0x05, 9000, 500), (LINUX, 1, 10)]), (19_000, []))
    assert found(disk) == {1: (2048, 4096), 5: (15_001, 10)}


def test_as_many_logical_partitions_as_there_may_be() -> None:
    def tables(count: int) -> dict[int, bytes]:
        places = [10_000 + 10 * number for number in range(count)]
        links = [[(0x05, place - 9990, 10)] for place in places[:-1]]
        return chain(*((place, [(LINUX, 1, 5), *link]) for place, link in zip(places, [*links, []], strict=True)))

    assert len(found(tables(128))) == 129
    assert refusal(tables(129)) == "has more than 128 logical partitions"


WRONG_MBR: dict[str, tuple[dict[int, bytes], str]] = {
    "nothing": ({}, "has no partition table in its MBR"),
    "no signature": ({0: boot((LINUX, 1, 1), signature=b"\0\0")}, "has no partition table in its MBR"),
    "a boot sector": ({0: b"\xeb\x58\x90mkfs.fat".ljust(446, b"x") + b"message " * 8 + b"\x55\xaa"},
                      "has no partition table in its MBR"),
    "overlap": ({0: boot((LINUX, 2048, 100), (LINUX, 2147, 100))},
                "has partition 1 and partition 2 at overlapping places, at sector 2147"),
    "the same twice": ({0: boot((LINUX, 2048, 100), (LINUX, 2048, 100))},
                       "has partition 1 and partition 2 at overlapping places, at sector 2048"),
    "over the table": ({0: boot((LINUX, 0, 100))}, "has partition 1 over its partition table"),
    "behind the end": ({0: boot((LINUX, 2048, SECTORS - 2047))},
                       f"has partition 1 up to sector {SECTORS + 1}, and ends at sector {SECTORS}"),
    "far behind the end": ({0: boot((LINUX, 0xFFFFFFFF, 0xFFFFFFFF))},
                           f"has partition 1 up to sector {0x1FFFFFFFE}, and ends at sector {SECTORS}"),
    "two extended": ({0: boot((0x05, 2048, 100), (0x0F, 3000, 100))}, "has two extended partitions"),
    "over the extended": ({0: boot((LINUX, 2048, 100), (0x05, 2100, 100))},
                          "has partition 1 and the extended partition at overlapping places, at sector 2100"),
    "extended behind the end": (chain(extended=(0x05, SECTORS, 100)), f"is truncated: it has no sector {SECTORS}"),
    "empty extended": (chain(), "has no partition table in sector 10000 of its extended partition"),
    "loop": (chain((10_000, [(LINUX, 63, 100), (0x05, 0, 100)])),
             "has a chain of logical partitions that comes back to sector 10000"),
    "longer loop": (chain((10_000, [(LINUX, 63, 100), (0x05, 500, 100)]), (10_500, [(LINUX, 63, 100), (0x05, 600, 100)]),
                          (10_600, [(LINUX, 63, 100), (0x05, 500, 100)])),
                    "has a chain of logical partitions that comes back to sector 10500"),
    "link outside": (chain((10_000, [(LINUX, 63, 100), (0x05, 90_000, 100)])),
                     "has the table of logical partition 6 at sector 100000, not within its extended partition"),
    "logical outside": (chain((10_000, [(LINUX, 63, 90_000)])),
                        "has partition 5 at sector 10063, not within its extended partition"),
    "logical over its table": (chain((10_000, [(LINUX, 0, 100)])),
                               "has the table of logical partition 5 and partition 5 at overlapping places, at sector 10000"),
    "logical over the next table": (
        chain((10_000, [(LINUX, 63, 1000), (0x05, 500, 100)]), (10_500, [(LINUX, 5000, 9)])),
        "has partition 5 and the table of logical partition 6 at overlapping places, at sector 10500"),
    "logical over another": (
        chain((10_000, [(LINUX, 63, 1000), (0x05, 5000, 100)]), (15_000, [(LINUX, 63, 9), (0x05, 4000, 9)]),
              (14_000, [(LINUX, 1, 1063)])),
        "has partition 7 and the table of logical partition 6 at overlapping places, at sector 15000"),
    "two in a table": (chain((10_000, [(LINUX, 63, 10), (LINUX, 200, 10)])),
                       "has more than a partition and a link in sector 10000 of its extended partition"),
    "two links in a table": (chain((10_000, [(0x05, 63, 10), (0x05, 200, 10)])),
                             "has more than a partition and a link in sector 10000 of its extended partition"),
    "no table at the link": (chain((10_000, [(LINUX, 63, 10), (0x05, 200, 10)])),
                             "has no partition table in sector 10200 of its extended partition"),
}


@pytest.mark.parametrize(("disk", "what"), WRONG_MBR.values(), ids=WRONG_MBR)
def test_a_wrong_mbr(disk: dict[int, bytes], what: str) -> None:
    assert refusal(disk) == what


@pytest.mark.parametrize("sectors", [0, 1])
def test_a_tiny_disk(sectors: int) -> None:
    assert refusal({0: boot((LINUX, 1, 1))}, sectors) == (
        "has partition 1 up to sector 2, and ends at sector 1" if sectors else "is truncated: it has no sector 0")
    assert refusal({0: boot((PROTECTIVE, 1, 1))}, sectors) == f"is truncated: it has no sector {sectors}"


def test_no_table_says_what_to_do() -> None:
    with pytest.raises(FormatError) as caught:
        partition(reader({}), SECTORS * 512, 1)
    assert caught.value.hint == "name no partition if a file system takes the whole disk"


def test_gpt() -> None:
    disk = gpt((1, 2048, 4095), (15, 34, 2047), (128, SECTORS - 40, SECTORS - 34))
    assert found(disk) == {1: (2048, 2048), 15: (34, 2014), 128: (SECTORS - 40, 7)}
    assert partition(reader(disk), SECTORS * 512, 15) == Extent(34 * 512, 2014 * 512)


def test_gpt_of_another_shape() -> None:
    """A longer header, fewer entries at another place, a disk that has grown since."""
    assert found(gpt((4, 2048, 4095), count=4, table=40, length=512), SECTORS + 99) == {4: (2048, 2048)}
    assert found(gpt((4096, 2048, 4095), count=4096)) == {4096: (2048, 2048)}


def test_gpt_beside_other_partitions_of_the_mbr() -> None:
    disk = gpt((1, 2048, 4095))
    disk[0] = boot((0x0C, 5000, 100), (PROTECTIVE, 1, 2047))
    assert found(disk) == {1: (2048, 2048)}


def without(disk: dict[int, bytes], sector: int, offset: int, value: bytes) -> dict[int, bytes]:
    """Damaged, and not sealed again."""
    data = disk[sector]
    return {**disk, sector: data[:offset] + value + data[offset + len(value) :]}


WRONG_GPT: dict[str, tuple[dict[int, bytes], str]] = {
    "no header": ({0: boot((PROTECTIVE, 1, 99))}, "has a protective MBR, and no GPT behind it"),
    "sectors of 4096": ({0: boot((PROTECTIVE, 1, 99)), 8: gpt()[1]}, "has a GPT for sectors of 4096 bytes"),
    "signature": (gpt(signature=b"EFI DART"), "has a protective MBR, and no GPT behind it"),
    "revision": (gpt(revision=0x20000), "has a GPT of the unknown revision 0x00020000"),
    "short header": (gpt(length=91), "has a GPT header of 91 bytes, not of 92 to 512"),
    "long header": (gpt(length=513), "has a GPT header of 513 bytes, not of 92 to 512"),
    "header's checksum": (without(gpt(), 1, 60, b"x"), "has a GPT header with a wrong checksum"),
    "backup in front": (gpt(own=SECTORS - 1), f"has a GPT header in sector 1 that says it is of sector {SECTORS - 1}"),
    "entry size": (gpt(entry_size=256), "has GPT entries of 256 bytes, and Linux takes only 128"),
    "no entries": (gpt(count=0), "has a GPT of 0 entries, not of 1 to 4096"),
    "many entries": (gpt(count=4097), "has a GPT of 4097 entries, not of 1 to 4096"),
    "billions of entries": (gpt(count=0xFFFFFFFF), "has a GPT of 4294967295 entries, not of 1 to 4096"),
    "table outside": (gpt(table=SECTORS - 31), f"has its GPT entries at sector {SECTORS - 31}, outside the disk"),
    "table far outside": (gpt(table=(1 << 64) - 1), f"has its GPT entries at sector {(1 << 64) - 1}, outside the disk"),
    "entries' checksum": (without(gpt((1, 2048, 4095)), 2, 40, b"x"), "has GPT entries with a wrong checksum"),
    "another disk's": (gpt(last=SECTORS), f"has a GPT for the sectors 34 to {SECTORS}, and ends at sector {SECTORS}"),
    "no room": (gpt(last=33), f"has a GPT for the sectors 34 to 33, and ends at sector {SECTORS}"),
    "backwards": (gpt((1, 4096, 4094)), f"has partition 1 in the sectors 4096 to 4094, not within 34 to {SECTORS - 34}"),
    "over the table": (gpt((1, 33, 40)), f"has partition 1 in the sectors 33 to 40, not within 34 to {SECTORS - 34}"),
    "over a table elsewhere": (gpt((1, 2048, 4095), table=4000),
                               "has partition 1 and its GPT entries at overlapping places, at sector 4000"),
    "behind the end": (gpt((1, 2048, SECTORS - 33)),
                       f"has partition 1 in the sectors 2048 to {SECTORS - 33}, not within 34 to {SECTORS - 34}"),
    "far behind the end": (gpt((1, 2048, (1 << 64) - 1)),
                           f"has partition 1 in the sectors 2048 to {(1 << 64) - 1}, not within 34 to {SECTORS - 34}"),
    "overlap": (gpt((1, 2048, 4096), (3, 4096, 5000)), "has partition 1 and partition 3 at overlapping places, at sector 4096"),
}


@pytest.mark.parametrize(("disk", "what"), WRONG_GPT.values(), ids=WRONG_GPT)
def test_a_wrong_gpt(disk: dict[int, bytes], what: str) -> None:
    assert refusal(disk) == what


def test_a_truncated_gpt() -> None:
    assert refusal(gpt((1, 2048, 4095)), 20) == f"has a GPT for the sectors 34 to {SECTORS - 34}, and ends at sector 20"


@pytest.mark.parametrize("disk", [chain((10_000, [(LINUX, 63, 1000), (0x05, 20_000, 5000)]), (30_000, [(0x82, 2048, 2000)])),
                                  gpt((1, 2048, 4095), (2, 5000, 6000))], ids=["mbr", "gpt"])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_there(disk: dict[int, bytes], data: st.DataObject) -> None:
    """Partitions lie in the disk and apart, or the table is refused; at once."""
    sector = data.draw(st.sampled_from(sorted(disk)))
    offset = data.draw(st.integers(440, 511) if len(disk[sector]) == 512 and sector != 1 else st.integers(0, 300))
    damaged = without(disk, sector, offset, data.draw(st.binary(min_size=1, max_size=min(24, 512 - offset))))
    start = time.process_time()
    try:
        places = sorted(found(damaged).values())
    except FormatError as error:
        assert error.what.isprintable()
        places = []
    assert time.process_time() - start < 2
    assert all(first > 0 and count > 0 and first + count <= SECTORS for first, count in places)
    assert all(one[0] + one[1] <= other[0] for one, other in itertools.pairwise(places))
