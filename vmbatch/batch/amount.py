"""Cores and memory of a Torque job on one node, from what its user cannot write.

A resource list is the resources in their order with commas between them, unquoted, and some of them are free text: `-l
"other='x,mem=100gb'"` makes `other=x,mem=100gb`. What stands before the first resource that is not a plain number is no part of
such a text. Cores come from the node file, which mom makes, or from mom's own variables. Sizes: pbs_resources(7).
"""

import re
from collections.abc import Mapping

from ..errors import JobError

_NUMBERS = frozenset((
    "cput", "file", "mem", "ncpus", "nice", "nodect", "pcput", "pmem", "procct", "procs", "pvmem", "vmem", "walltime",
))
_NUMBER = re.compile(r"[0-9]{1,18}([.:][0-9]{1,9}){0,3}[A-Za-z]{0,2}")
_SIZE = re.compile(r"([0-9]{1,18})([kmgtp]?)([bw]?)", re.IGNORECASE)
_WORD_BYTES = 8
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_NODES = ("nodes", "neednodes")


def parse_torque_size(text: str) -> int:
    """Bytes of `512mb`, `4gw`, `100`: bytes, or words of 8 bytes. JobError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise JobError(f"{text[:40]!r} is not a size", "write for instance -l mem=512mb", code="VB203")
    return int(match[1]) * _FACTORS[match[2].lower()] * (_WORD_BYTES if match[3] in ("w", "W") else 1)


def unambiguous(resources: str, nodes: str) -> dict[str, str]:
    """The resources that a list surely has; `nodes` is the job's own request for nodes, as mom says it."""
    found: dict[str, str] = {}
    for part in resources.split(","):
        name, _, value = part.partition("=")
        if name not in _NODES and not (name in _NUMBERS and _NUMBER.fullmatch(value)):
            break
        if name in found or (name in _NODES and value != nodes):
            break
        found[name] = value
    return found


def slots(environ: Mapping[str, str], node_file: str | None) -> tuple[int, int] | None:
    """(the job's slots on its first node, all its slots); None where mom does not say."""
    lines = _lines(node_file)
    if lines:
        return lines.count(lines[0]), len(lines)
    here, everywhere = (environ.get(name, "") for name in ("PBS_NUM_PPN", "PBS_NP"))
    if not re.fullmatch("[1-9][0-9]{0,5} [1-9][0-9]{0,5}", f"{here} {everywhere}"):
        return None
    if "+" in environ.get("PBS_RESOURCE_NODES", ""):
        return None
    return int(here), max(int(here), int(everywhere))


def _lines(node_file: str | None) -> list[str]:
    if node_file is None:
        return []
    try:
        with open(node_file, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(4 << 20).split()
    except OSError:
        return []


def memory(resources: Mapping[str, str], share: tuple[int, int] | None) -> int | None:
    """Bytes on this node: of `mem` or `vmem` the part of its slots, or `pmem` or `pvmem` for each of these. JobError."""
    if share is None:
        return None
    here, everywhere = share
    for name in ("mem", "vmem"):
        if name in resources:
            return parse_torque_size(resources[name]) * here // everywhere
    for name in ("pmem", "pvmem"):
        if name in resources:
            return parse_torque_size(resources[name]) * here
    return None
