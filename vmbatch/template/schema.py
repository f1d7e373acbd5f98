"""Checks VmBatch's tags against domain.rng, element by element, so that every mistake is named with its line.

libxml2 stops at the first mistake of a document and does not name a missing attribute. So each element of ours is judged
alone, without its children, against its own definition in the schema; what may stand where comes from the schema, too.
"""

import copy
import functools
import os
import re

from lxml import etree

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_DOC = "{http://relaxng.org/ns/compatibility/annotations/1.0}documentation"
Problem = tuple[int, str]


@functools.cache
def _grammar() -> etree._Element:
    return etree.parse(os.path.join(os.path.dirname(__file__), "domain.rng")).getroot()


@functools.cache
def tags() -> dict[str, etree._Element]:
    """The schema's element for each tag it defines, VmBatch's own and the three of libvirt's that hold them."""
    found = {}
    for define in _grammar().iterchildren(f"{_RNG}define"):
        element = define.find(f"{_RNG}element")
        if element is not None and element.get("name"):
            found[str(element.get("name"))] = element
    return found


def attributes(tag: str) -> dict[str, tuple[bool, str]]:
    """Of a tag: each attribute with whether it is required and what the schema says of it."""
    found = {}
    for attribute in tags()[tag].iter(f"{_RNG}attribute"):
        parent = attribute.getparent()
        required = parent is not None and parent.tag != f"{_RNG}optional"
        found[str(attribute.get("name"))] = (required, attribute.findtext(_DOC) or "")
    return found


def documentation(tag: str) -> str:
    """What the schema says of a tag."""
    return tags()[tag].findtext(_DOC) or ""


def _children(tag: str) -> dict[str, bool]:
    """Of a tag: which tags may stand in it, and whether more than once."""
    found = {}
    for ref in tags()[tag].iter(f"{_RNG}ref"):
        parent = ref.getparent()
        if ref.get("name") in tags():
            found[str(ref.get("name"))] = parent is not None and parent.tag == f"{_RNG}zeroOrMore"
    return found


@functools.cache
def _alone(tag: str) -> etree.RelaxNG:
    """The schema of one element without its children, where no attribute is required."""
    grammar = copy.deepcopy(_grammar())
    for define in grammar.iterchildren(f"{_RNG}define"):
        if define.get("name") == tag:
            for ref in list(define.iter(f"{_RNG}ref")):
                for inner in list(ref):
                    ref.remove(inner)
                ref.tag = f"{_RNG}empty"
                ref.attrib.clear()
            for attribute in list(define.iter(f"{_RNG}attribute")):
                optional = etree.Element(f"{_RNG}optional")
                attribute.addprevious(optional)
                optional.append(attribute)
    start = grammar.find(f"{_RNG}start/{_RNG}ref")
    if start is not None:
        start.set("name", tag)
    return etree.RelaxNG(grammar)


def problems(root: etree._Element) -> list[Problem]:
    """Every mistake in our tags of a document, with its line."""
    found: list[Problem] = []
    ours = [element for element in root.iter() if isinstance(element.tag, str) and element.tag.startswith("vb")]
    for element in ours:
        found.extend(_place_problems(element) or _own_problems(element))
    for element in root.iter(etree.Element):
        if element not in ours:
            found.extend((element.sourceline or 0, f"unknown attribute {name!s}; VmBatch's attributes stand in its own tags")
                         for name in element.attrib if str(name).startswith("vb"))
    if not found and not (whole := etree.RelaxNG(_grammar())).validate(root):
        found.extend((error.line, error.message) for error in whole.error_log)
    return found


def _place_problems(element: etree._Element) -> list[Problem]:
    tag = str(element.tag)
    line = element.sourceline or 0
    if tag not in tags():
        import difflib

        near = difflib.get_close_matches(tag, tags(), 1)
        known = ", ".join(f"<{name}>" for name in sorted(tags()) if name.startswith("vb"))
        return [(line, f"unknown tag <{tag}>; " + (f"did you mean <{near[0]}>?" if near else f"VmBatch's tags are {known}"))]
    parent = element.getparent()
    above = "" if parent is None else str(parent.tag)
    places = [name for name in tags() if tag in _children(name)]
    if above not in places:
        return [(line, f"<{tag}> stands in <{above}>; it belongs into <{places[0]}>")]
    if parent is not None and not _children(above)[tag] and parent.find(tag) is not element:
        return [(line, f"a second <{tag}> in the same <{above}>; there may be one")]
    return []


def _own_problems(element: etree._Element) -> list[Problem]:
    tag = str(element.tag)
    line = element.sourceline or 0
    known = attributes(tag)
    found: list[Problem] = []
    for name, (required, meaning) in known.items():
        if required and name not in element.attrib:
            found.append((line, f"<{tag}> needs the attribute {name}: {meaning}"))
    alone = etree.Element(tag, {name: element.attrib[name] for name in element.attrib})
    alone.text = element.text
    while not _alone(tag).validate(alone):
        match = re.search(r"Invalid attribute (\S+) for", str(_alone(tag).error_log))
        if not match or match[1] not in alone.attrib:
            break
        name = match[1]
        if name in known:
            found.append((line, f"<{tag}> {name}='{alone.attrib[name]}': expected {known[name][1]}"))
        else:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            has = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
            found.append((line, f"<{tag}> has no attribute {name}; {has}"))
        del alone.attrib[name]
    if not found and not _alone(tag).validate(alone):
        text = (element.text or "").strip()
        found.append((line, f"<{tag}>{text}</{tag}>: expected {documentation(tag)}"))
    return found
