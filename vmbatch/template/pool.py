"""The guests of a template that wait for jobs."""

import msgspec
from lxml import etree

from ..units import parse_duration
from . import schema

_LIFETIME, _IDLE = "12h", "10min"


class Pool(msgspec.Struct, frozen=True):
    """`size` guests wait on a node, each for `lifetime` seconds at most.

    One has up to `jobs` jobs of one user, and waits `idle` seconds for each but the first.
    """

    size: int = 1
    lifetime: float = parse_duration(_LIFETIME)
    jobs: int = 1
    idle: float = parse_duration(_IDLE)

    @property
    def reuses(self) -> bool:
        """Whether a guest may have a further job."""
        return self.jobs > 1


def read_pool(root: etree._Element, found: list[schema.Problem]) -> Pool | None:
    """What a template wants, if it wants any to wait."""
    tag = root.find("vbconfig/vbstart")
    if tag is None:
        return None
    line = tag.sourceline or 0
    if (tag.text or "").strip() != "POOL":
        found.extend((line, f"<vbstart> {name}= goes with POOL") for name in tag.attrib)
        return None
    jobs = _count(tag, "jobs")
    if tag.get("idle") is not None and jobs < 2:
        found.append((line, "<vbstart> idle= goes with jobs= of more than 1: else a guest has one job, and ends"))
    if jobs > 1 and root.find("vbconfig/vbshutdown") is not None:
        found.append((line, "<vbstart> jobs= keeps a guest for a further job, and <vbshutdown> shuts it down: take one out"))
    try:
        return Pool(_count(tag, "size"), parse_duration(tag.get("lifetime", _LIFETIME)), jobs,
                    parse_duration(tag.get("idle", _IDLE)))
    except ValueError:  # the schema has said what is wrong
        return Pool()


def _count(tag: etree._Element, name: str) -> int:
    text = tag.get(name, "1")
    return int(text) if text.isdecimal() else 1
