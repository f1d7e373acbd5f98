"""The guests of a template that wait for jobs."""

import msgspec
from lxml import etree

from ..units import parse_duration
from . import schema

_LIFETIME = "12h"


class Pool(msgspec.Struct, frozen=True):
    """`size` guests wait on a node, each for `lifetime` seconds at most."""

    size: int = 1
    lifetime: float = parse_duration(_LIFETIME)


def read_pool(root: etree._Element, found: list[schema.Problem]) -> Pool | None:
    """What a template wants, if it wants any to wait."""
    tag = root.find("vbconfig/vbstart")
    if tag is None:
        return None
    if (tag.text or "").strip() != "POOL":
        found.extend((tag.sourceline or 0, f"<vbstart> {name}= goes with POOL") for name in tag.attrib)
        return None
    size = tag.get("size", "1")
    try:
        return Pool(int(size) if size.isdecimal() else 1, parse_duration(tag.get("lifetime", _LIFETIME)))
    except ValueError:  # the schema has said what is wrong
        return Pool()
