"""DTDs, entities and inclusions: nothing is expanded, nothing fetched, and it does not take long."""

import time
from pathlib import Path

import pytest

from vmbatch import template
from vmbatch.errors import InputError
from vmbatch.template import DomainChange, InterfaceChange, domain_xml

from .sample import TEMPLATE, TOKEN

LAUGHS = "<!ENTITY l0 'lol'>" + "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))
QUADRATIC = f"<!ENTITY a '{'a' * 50_000}'>"


def refused(text: str) -> str:
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        template.parse(text.encode(), "t.xml")
    assert time.monotonic() - begin < 15
    return "\n".join(caught.value.lines())


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain>",
        "<!DOCTYPE domain []>",
        "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>",
        "<!DOCTYPE domain PUBLIC 'x' 'http://127.0.0.1:9/x.dtd'>",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
        "<!DOCTYPE domain [<!ENTITY % x SYSTEM 'http://127.0.0.1:9/'> %x;]>",
        "<!DOCTYPE domain [<!ATTLIST disk type CDATA 'file'>]>",
    ],
)
def test_doctype(doctype: str) -> None:
    assert "neither DTD nor entities" in refused(doctype + TEMPLATE)


@pytest.mark.parametrize(("old", "new"), [("sample", "&x;"), ("'KVM'", "'KVM'"), ("'/srv/images/base.raw'", "'&x;'")])
def test_entity(tmp_path: Path, old: str, new: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    for entity in (f"SYSTEM '{secret.as_uri()}'", "'s3cret'"):
        said = refused(f"<!DOCTYPE domain [<!ENTITY x {entity}>]>" + TEMPLATE.replace(old, new))
        assert "s3cret" not in said


@pytest.mark.parametrize(
    "entities",
    [LAUGHS + "<!ENTITY x '&l11;'>", QUADRATIC + f"<!ENTITY x '{'&a;' * 20_000}'>", "<!ENTITY x '&y;'><!ENTITY y '&x;'>"],
)
@pytest.mark.parametrize(("old", "new"), [("sample", "&x;"), ("'/srv/images/base.raw'", "'&x;'")])
def test_laughs(entities: str, old: str, new: str) -> None:
    refused(f"<!DOCTYPE domain [{entities}]>" + TEMPLATE.replace(old, new))


def test_undeclared_entity() -> None:
    assert "is not XML" in refused(TEMPLATE.replace("sample", "&nbsp;"))


def test_depth() -> None:
    refused("<domain type='kvm'>" + "<a>" * 100_000)


def test_inclusion_is_not_followed(tmp_path: Path) -> None:
    """libvirt ignores what it does not know, and so does nobody read it."""
    secret = tmp_path / "secret.xml"
    secret.write_text("<s3cret/>")
    text = TEMPLATE.replace(
        "<devices>", f"<x:include xmlns:x='http://www.w3.org/2001/XInclude' href='{secret.as_uri()}'/><devices>"
    )
    found = template.parse(text.encode(), "t.xml")
    written = domain_xml(
        found, DomainChange(name="n", uuid="u", job="1", token=TOKEN, user="a", console="/c", shell_console="", kernel_words="",
                            oem_strings=(), channel=False, directories=(), disks=(),
                            interfaces=(InterfaceChange("m"), InterfaceChange("m")))
    )
    assert b"s3cret" not in written
    assert b"XInclude" in written


def test_stylesheet_is_not_followed() -> None:
    found = template.parse(b"<?xml-stylesheet href='http://127.0.0.1:9/'?>" + TEMPLATE.encode(), "t.xml")
    assert found.hypervisor == "KVM"
