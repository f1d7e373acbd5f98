"""How much a template's guests get: cores and memory that follow the job, and what submitters may ask for."""

import re
from collections.abc import Iterator

import msgspec
from lxml import etree

from ..units import parse_duration, parse_size
from . import schema

MIB = 1 << 20
_HUGE = 2 * MIB
_UNITS = {"b": 1, "bytes": 1, "KB": 10**3, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": MIB, "MiB": MIB, "GB": 10**9,
          "G": 1 << 30, "GiB": 1 << 30, "TB": 10**12, "T": 1 << 40, "TiB": 1 << 40}


_EXPECTED = {"vbcores": "a number of cores such as 8", "vbkeep": "a duration such as 2h"}


class Resources(msgspec.Struct, frozen=True):
    """A `vbresources`, in bytes: `of_job` has what follows the job, `cores` or `memory`; 0 where there is no limit.

    A guest can have only multiples of `core_step` cores, as its CPU's topology says, and of `memory_step` bytes.
    """

    of_job: frozenset[str] = frozenset()
    min_cores: int = 0
    max_cores: int = 0
    min_memory: int = 0
    max_memory: int = 0
    overhead: int = 0
    core_step: int = 1
    memory_step: int = MIB


def read_requests(root: etree._Element, found: list[schema.Problem]) -> dict[str, float]:
    """What submitters may ask for beside images, by name, with its maximum: cores, bytes or seconds."""
    offers: dict[str, float] = {}
    for tag in root.findall("vbconfig/vbrequests/vbrequest"):
        name, text, line = str(tag.get("name") or ""), str(tag.get("max") or ""), tag.sourceline or 0
        if name in offers:
            found.append((line, f"a second <vbrequest name='{name}'>"))
        try:
            offers[name] = _maximum(name, text)
        except ValueError:
            found.append((line, f"<vbrequest name='{name}' max='{text}'>: expected {_EXPECTED.get(name, 'a size such as 8G')}"))
            continue
        if name in ("vbstagein", "vbstageout") and (root.findtext("vbconfig/vbshell") or "").strip() == "CONSOLE":
            found.append((line, f"<vbrequest name='{name}'>: files are sent over ssh, and <vbshell>CONSOLE</vbshell> has none"))
    return offers


def _maximum(name: str, text: str) -> float:
    if name == "vbcores":
        value: float = int(text) if re.fullmatch("[0-9]{1,4}", text) else 0
    else:
        value = parse_duration(text) if name == "vbkeep" else parse_size(text)
    if not value:
        raise ValueError(text)
    return value


def read_resources(root: etree._Element, offers: dict[str, float], found: list[schema.Problem]) -> Resources:
    """What is changed of cores and memory, which must be all that there is of them."""
    tag = root.find("vbconfig/vbresources")
    read = Resources() if tag is None else _resources(tag, found)
    core_step, memory_step = 1, MIB
    if "cores" in read.of_job or "vbcores" in offers:
        core_step = _core_step(root, found)
        found.extend(_core_problems(root))
    if "memory" in read.of_job or "vbmemory" in offers:
        memory_step = _memory_step(root, found)
        found.extend(_memory_problems(root))
    return msgspec.structs.replace(read, core_step=core_step, memory_step=memory_step)


def _resources(tag: etree._Element, found: list[schema.Problem]) -> Resources:
    line = tag.sourceline or 0
    of_job = frozenset(name for name in ("cores", "memory") if tag.get(name) == "job")
    found.extend((line, f"<vbresources {name}='job'> needs max{name}=, beyond which no job of these guests may go")
                 for name in sorted(of_job) if not tag.get(f"max{name}"))
    if tag.get("overhead") and "memory" not in of_job:
        found.append((line, "<vbresources> overhead= goes with memory='job'"))
    try:
        read = Resources(
            of_job, *(int(tag.get(name) or 0) for name in ("mincores", "maxcores")),
            *(parse_size(tag.get(name) or "0") for name in ("minmemory", "maxmemory", "overhead")))
    except ValueError:
        return Resources(of_job)  # the schema has said what is wrong
    for name, least, most in (("cores", read.min_cores, read.max_cores), ("memory", read.min_memory, read.max_memory)):
        if most and least > most:
            found.append((line, f"<vbresources>: min{name}= is more than max{name}="))
    return read


def _core_step(root: etree._Element, found: list[schema.Problem]) -> int:
    topology = root.find("cpu/topology")
    step = 1
    for name, value in () if topology is None else topology.items():
        if name != "cores" and re.fullmatch("[1-9][0-9]{0,3}", str(value)):
            step *= int(value)
        elif name != "cores" and topology is not None:
            found.append((topology.sourceline or 0, f"<topology {name!s}='{value!s}'>: expected a number"))
    return step


def _memory_step(root: etree._Element, found: list[schema.Problem]) -> int:
    """Huge pages are given whole; without <page> libvirt takes the default size, 2 MiB on most nodes."""
    pages = root.findall("memoryBacking/hugepages/page")
    step = MIB if root.find("memoryBacking/hugepages") is None else _HUGE
    for page in pages:
        size, unit = str(page.get("size") or ""), str(page.get("unit") or "KiB")
        if re.fullmatch("[1-9][0-9]{0,14}", size) and unit in _UNITS:
            step = max(step, int(size) * _UNITS[unit])
        else:
            found.append((page.sourceline or 0, f"<page size='{size}' unit='{unit}'>: expected such as size='1' unit='GiB'"))
    return step


def _core_problems(root: etree._Element) -> Iterator[schema.Problem]:
    """What counts a guest's processors one by one."""
    count = root.find("vcpu")
    if count is not None and count.get("current") is not None:
        yield count.sourceline or 0, "<vcpu current=>: the guest's cores follow the job, and none can be missing; take it out"
    for path in ("vcpus", "cpu/numa", "cputune/vcpupin", "cputune/vcpusched", "cputune/cachetune", "cputune/memorytune"):
        yield from _fixed(root, path, "cores")


def _memory_problems(root: etree._Element) -> Iterator[schema.Problem]:
    """What counts a guest's memory a second time."""
    for path in ("maxMemory", "cpu/numa", "memtune/hard_limit", "memtune/soft_limit", "memtune/swap_hard_limit",
                 "memtune/min_guarantee", "devices/memory"):
        yield from _fixed(root, path, "memory")


def _fixed(root: etree._Element, path: str, what: str) -> Iterator[schema.Problem]:
    element = root.find(path)
    if element is not None:
        yield (element.sourceline or 0, f"<{element.tag!s}> fixes what <vbresources {what}='job'> or a <vbrequest "
                                        f"name='vb{what}'> changes; take one of both out")


def own_size(root: etree._Element) -> tuple[int, int]:
    """(processors, bytes of memory) that a domain has by itself; what cannot be understood is 0, and libvirt's to refuse."""
    count = (root.findtext("vcpu") or "1").strip()
    size, unit = (root.findtext("memory") or "").strip(), str(getattr(root.find("memory"), "attrib", {}).get("unit", "KiB"))
    known = re.fullmatch("[0-9]{1,15}", size) and unit in _UNITS
    return int(count) if re.fullmatch("[0-9]{1,4}", count) else 0, int(size) * _UNITS[unit] if known else 0


def set_cores(root: etree._Element, cores: int, step: int) -> None:
    """Gives a domain so many processors, a multiple of `step`; its topology keeps all but its `cores`."""
    _child(root, "vcpu").text = str(cores)
    topology = root.find("cpu/topology")
    if topology is not None:
        topology.set("cores", str(cores // step))


def set_memory(root: etree._Element, size: int) -> None:
    """Gives a domain so many bytes, all of them at once."""
    for name in ("memory", "currentMemory"):
        if name == "memory" or root.find(name) is not None:
            element = _child(root, name)
            element.text = str(size >> 10)
            element.set("unit", "KiB")


def _child(root: etree._Element, tag: str) -> etree._Element:
    element = root.find(tag)
    if element is None:
        element = etree.SubElement(root, tag)
        element.tail = "\n"
    return element
