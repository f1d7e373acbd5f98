"""Where the logical volumes of LVM2 lie on a physical volume, by its label and text metadata; read as hostile input.

Layouts: lvm2's lib/label/label.h (label_header), lib/format_text/layout.h (pv_header, mda_header, raw_locn); text: lvm2's
libdm/libdm-config.c and lib/format_text/import_vsn1.c; checksums: lib/misc/crc.c.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib

import msgspec

from . import FormatError, Read
from .table import SECTOR, Extent

TEXT_LIMIT = 2 << 20
"""Bytes of metadata; a volume group with a thousand volumes has less than one MiB."""
_LABEL = struct.Struct("<8sQII8s")
_LABEL_SECTORS = 4
_PV = struct.Struct("<32sQ")
_AREA = struct.Struct("<QQ")
_AREA_LIMIT = 4
_MDA = struct.Struct("<I16sIQQ")
_MDA_SIZE = 512
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_LOCATION = struct.Struct("<QQII")
_IGNORED = 1
_CRC_START = 0xF597A6CF
_DEPTH_LIMIT = 8
_TOKEN = re.compile(r'(?:\s|#[^\n]*+)*+(?:([A-Za-z0-9_.+-]++)|"((?:[^"\\]|\\.)*+)"|([{}=\[\],])|(\Z))', re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,127}", re.ASCII)
_NUMBER_LIMIT = 1 << 63

_Value = str | int | list["str | int"]
_Section = dict[str, "_Value | _Section"]


class _Volume(msgspec.Struct, frozen=True):
    """The physical volume as its label describes it, and the metadata's areas."""

    identity: str
    size: int
    areas: tuple[Extent, ...]


def logical_volume(read: Read, extent: Extent, name: str) -> tuple[Extent, ...]:
    """Where on the disk the volume `vg/lv` or `lv` lies, of the physical volume at `extent`; several parts in their order.

    FormatError for what is not there, damaged, not linear, or on other physical volumes as well.
    """
    vg, _, lv = name.rpartition("/")
    if not _NAME.fullmatch(lv) or (vg and not _NAME.fullmatch(vg)):
        raise ValueError(f"{name!r} is no name of a logical volume")
    volume = _label(read, extent)
    found_vg, group = _group(_parse(_metadata(read, extent, volume)))
    if vg and vg != found_vg:
        raise FormatError(f"has no volume group {vg}; it has {found_vg}")
    volumes = _section(group, "logical_volumes", optional=True)
    if lv not in volumes:
        names = ", ".join(_shown(volumes))
        raise FormatError(f"has no logical volume {lv} in the volume group {found_vg}; it has {names or 'none'}")
    _check_plain(volumes, lv)
    return _merged(_placed(group, lv, _section(volumes, lv), volume, extent))


def names(read: Read, extent: Extent) -> list[str]:
    """Of the volumes that can be seen of the physical volume at `extent`, as `vg/lv`. FormatError."""
    vg, group = _group(_parse(_metadata(read, extent, _label(read, extent))))
    volumes = _section(group, "logical_volumes", optional=True)
    return [f"{vg}/{lv}" for lv, volume in volumes.items()
            if _NAME.fullmatch(lv) and isinstance(volume, dict) and "VISIBLE" in _words(volume, "status")]


def _crc(data: bytes) -> int:
    """CRC-32 without the inversions, from a start of LVM's own."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _exactly(read: Read, extent: Extent, offset: int, length: int) -> bytes:
    data = read(extent.offset + offset, length) if offset >= 0 and offset + length <= extent.length else b""
    if len(data) != length:
        raise FormatError(f"has a physical volume that is truncated: it ends before byte {offset + length}")
    return data


def _label(read: Read, extent: Extent) -> _Volume:
    for number in range(_LABEL_SECTORS):
        data = _exactly(read, extent, number * SECTOR, SECTOR)
        kind, sector, checksum, offset, version = _LABEL.unpack_from(data)
        if kind == b"LABELONE":
            break
    else:
        raise FormatError("has no physical volume of LVM where it should")
    if version != b"LVM2 001":
        raise FormatError(f"has a label of LVM of the unknown kind {version!r}")
    if sector != number:
        raise FormatError(f"has a label of LVM in sector {number} that says it is of sector {sector}")
    if checksum != _crc(data[20:]):
        raise FormatError("has a label of LVM with a wrong checksum")
    if not _LABEL.size <= offset <= SECTOR - _PV.size:
        raise FormatError(f"has a label of LVM whose content is at byte {offset}, outside its sector")
    identity, size = _PV.unpack_from(data, offset)
    if size > extent.length:
        raise FormatError(f"has a physical volume of {size} bytes in a place of {extent.length}",
                          "the image is truncated, or its partition table is wrong")
    at = offset + _PV.size
    lists: list[list[Extent]] = []
    for _ in ("data areas", "metadata areas"):
        lists.append([])
        while True:
            if at + _AREA.size > SECTOR or len(lists[-1]) > _AREA_LIMIT:
                raise FormatError("has a label of LVM whose list of areas does not end")
            start, length = _AREA.unpack_from(data, at)
            at += _AREA.size
            if not start:
                break
            lists[-1].append(Extent(start, length))
    if len(lists[0]) != 1:
        raise FormatError(f"has a physical volume with {len(lists[0])} data areas, not with one")
    return _Volume(identity.decode("ascii", "replace"), size, tuple(lists[1]))


def _metadata(read: Read, extent: Extent, volume: _Volume) -> str:
    """The text of the first area in use."""
    for area in volume.areas:
        header = _exactly(read, extent, area.offset, _MDA_SIZE)
        checksum, magic, version, start, size = _MDA.unpack_from(header)
        if magic != _MDA_MAGIC or version != 1 or start != area.offset or size != area.length:
            raise FormatError("has a metadata area of LVM with a wrong header")
        if checksum != _crc(header[4:]):
            raise FormatError("has a metadata area of LVM whose header has a wrong checksum")
        offset, length, text_checksum, flags = _LOCATION.unpack_from(header, _MDA.size)
        if flags & _IGNORED or not offset:
            continue
        if not _MDA_SIZE <= offset < size or not 0 < length <= min(TEXT_LIMIT, size - _MDA_SIZE):
            raise FormatError(f"has metadata of LVM of {length} bytes at byte {offset} of an area of {size}")
        first = min(length, size - offset)
        data = _exactly(read, extent, start + offset, first)
        if first < length:
            data += _exactly(read, extent, start + _MDA_SIZE, length - first)
        if text_checksum != _crc(data):
            raise FormatError("has metadata of LVM with a wrong checksum")
        try:
            return data.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise FormatError("has metadata of LVM that is not text") from None
    raise FormatError("has a physical volume without metadata, which is on another disk or nowhere",
                      "a volume group on one disk is needed")


def _parse(text: str) -> _Section:
    """Sections, and values that are strings, integers or lists of them."""
    root: _Section = {}
    stack = [root]
    at = 0

    def token() -> tuple[str, str]:
        nonlocal at
        match = _TOKEN.match(text, at)
        if match is None:
            raise FormatError(f"has metadata of LVM with a mistake at character {at}")
        at = match.end()
        word, quoted, mark, _ = match.groups()
        if word is not None:
            return "word", word
        if quoted is not None:
            return "string", re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        return (mark, mark) if mark else ("end", "")

    def wrong() -> FormatError:
        return FormatError(f"has metadata of LVM with a mistake before character {at}")

    def scalar(kind: str, word: str) -> str | int:
        if kind == "string":
            return word
        if kind != "word" or not re.fullmatch(r"-?[0-9]{1,19}", word, re.ASCII):
            raise wrong()
        return int(word)

    while True:
        kind, name = token()
        if kind == "end" and len(stack) == 1:
            return root
        if kind == "}" and len(stack) > 1:
            stack.pop()
            continue
        if kind not in ("word", "string") or name in stack[-1]:
            raise wrong()
        kind, word = token()
        if kind == "{" and len(stack) < _DEPTH_LIMIT:
            section: _Section = {}
            stack[-1][name] = section
            stack.append(section)
        elif kind == "=":
            kind, word = token()
            if kind != "[":
                stack[-1][name] = scalar(kind, word)
                continue
            items: list[str | int] = []
            kind, word = token()
            while kind != "]":
                items.append(scalar(kind, word))
                kind, word = token()
                if kind == ",":
                    kind, word = token()
                elif kind != "]":
                    raise wrong()
            stack[-1][name] = items
        else:
            raise wrong()


def _shown(section: _Section) -> list[str]:
    """The names that a message may have."""
    return sorted(name for name in section if _NAME.fullmatch(name))[:20]


def _section(section: _Section, name: str, *, optional: bool = False) -> _Section:
    found = section.get(name, {} if optional else None)
    if not isinstance(found, dict):
        raise FormatError(f"has metadata of LVM without a section {name}")
    return found


def _number(section: _Section, name: str) -> int:
    found = section.get(name)
    if not isinstance(found, int) or not 0 <= found < _NUMBER_LIMIT:
        raise FormatError(f"has metadata of LVM without a number {name}")
    return found


def _words(section: _Section, name: str) -> list[str]:
    found = section.get(name, [])
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _group(root: _Section) -> tuple[str, _Section]:
    """The one volume group."""
    if root.get("contents") != "Text Format Volume Group" or root.get("version") != 1:
        raise FormatError("has metadata of LVM of an unknown kind")
    groups = [(name, section) for name, section in root.items() if isinstance(section, dict)]
    if len(groups) != 1 or not _NAME.fullmatch(groups[0][0]):
        raise FormatError("has metadata of LVM without one volume group")
    return groups[0]


def _check_plain(volumes: _Section, lv: str) -> None:
    """FormatError for parts of other volumes, and where a snapshot would see what we write."""
    if "VISIBLE" not in _words(_section(volumes, lv), "status"):
        raise FormatError(f"has a logical volume {lv} that is only a part of another one")
    for other in volumes.values():
        for segment in other.values() if isinstance(other, dict) else ():
            if isinstance(segment, dict) and segment.get("type") == "snapshot":
                if lv in (segment.get("cow_store"), segment.get("merging_store")):
                    raise FormatError(f"has a logical volume {lv} that is a snapshot", "a linear volume is needed")
                if lv == segment.get("origin"):
                    raise FormatError(f"has a logical volume {lv} with a snapshot, which would be spoiled", "remove the snapshot")


def _placed(group: _Section, lv: str, section: _Section, volume: _Volume, extent: Extent) -> list[Extent]:
    """The segments, checked, in the volume's order."""
    unit = _number(group, "extent_size") * SECTOR
    if not 0 < unit <= 64 << 30:
        raise FormatError(f"has a volume group with extents of {unit} bytes")
    here, pv = next(
        ((name, pv) for name, pv in _section(group, "physical_volumes").items()
         if isinstance(pv, dict) and str(pv.get("id", "")).replace("-", "") == volume.identity), ("", {}))
    if not here:
        raise FormatError("has a physical volume that its own metadata does not name")
    begin, behind = _number(pv, "pe_start") * SECTOR, _number(pv, "pe_count")
    if begin + behind * unit > extent.length:
        raise FormatError(f"has a physical volume whose extents end at byte {begin + behind * unit}, outside its place",
                          "the image is truncated, or its partition table is wrong")
    count = _number(section, "segment_count")
    if not count:
        raise FormatError(f"has a logical volume {lv} without segments")
    placed, done = [], 0
    for number in range(1, count + 1):
        segment = _section(section, f"segment{number}")
        if _number(segment, "start_extent") != done:
            raise FormatError(f"has a logical volume {lv} with a gap before segment {number}")
        first, length = _linear(segment, lv, here), _number(segment, "extent_count")
        if not length or first + length > behind:
            raise FormatError(f"has a logical volume {lv} with {length} extents from {first} on, outside its physical volume")
        placed.append(Extent(extent.offset + begin + first * unit, length * unit))
        done += length
    for one, other in itertools.pairwise(sorted(placed, key=lambda part: part.offset)):
        if other.offset < one.offset + one.length:
            raise FormatError(f"has a logical volume {lv} with overlapping segments")
    return placed


def _linear(segment: _Section, lv: str, here: str) -> int:
    """The first extent on the physical volume `here`; a linear segment is one of a single stripe."""
    kind = segment.get("type")
    if kind not in ("striped", "linear"):
        shown = kind if isinstance(kind, str) and _NAME.fullmatch(kind) else "unknown"
        raise FormatError(f"has a logical volume {lv} of the type {shown}", "a linear volume is needed")
    stripes = segment.get("stripes")
    if not isinstance(stripes, list) or not stripes or len(stripes) % 2:
        raise FormatError(f"has a logical volume {lv} without stripes")
    if len(stripes) > 2 or segment.get("stripe_count", 1) != 1:
        raise FormatError(f"has a logical volume {lv} that is striped", "a linear volume is needed")
    where, first = stripes
    if where != here:
        raise FormatError(f"has a logical volume {lv} that lies on another disk, or partly", "a volume on one disk is needed")
    if not isinstance(first, int) or not 0 <= first < _NUMBER_LIMIT:
        raise FormatError(f"has a logical volume {lv} without stripes")
    return first


def _merged(parts: list[Extent]) -> tuple[Extent, ...]:
    merged: list[Extent] = []
    for part in parts:
        if merged and merged[-1].offset + merged[-1].length == part.offset:
            merged[-1] = Extent(merged[-1].offset, merged[-1].length + part.length)
        else:
            merged.append(part)
    return tuple(merged)
