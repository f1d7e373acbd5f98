"""From a template to a job's domain: our tags out, this job's in, all else as the admin wrote it."""

import re
import xml.etree.ElementTree as standard
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbatch import template
from vmbatch.facts import Facts, Image
from vmbatch.plan import plan

from .sample import GIB, JOB, OTHER_TOKEN, TOKEN, facts, job, settings

TEMPLATES = Path(__file__).parent / "templates"
NAMES = ["copy", "foreign", "plain", "shared"]


def known(form: template.Template) -> Facts:
    images = {tag.index: Image(tag.source.places[0], tag.source.format, 2 * GIB, GIB)
              for tag in form.disks if isinstance(tag.source, template.ImageSource)}
    return facts(images=images)


def domain(name: str, token: str = TOKEN) -> str:
    form = template.parse((TEMPLATES / f"{name}.xml").read_bytes(), f"/etc/vmbatch/domains/{name}.xml")
    return plan(job(token=token), form, settings(), known(form)).xml.decode()


def root(text: str) -> standard.Element:
    return standard.fromstring(text)  # noqa: S314


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.xml", domain(name) + "\n")


def test_every_template_is_tried() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.xml")} == {*NAMES, "mistakes"}
    assert {path.name for path in (TEMPLATES.parent / "golden").glob("*.xml")} == {f"{name}.xml" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_ours_is_left(name: str) -> None:
    assert not [element.tag for element in root(domain(name)).iter() if element.tag.startswith("vb")]


@pytest.mark.parametrize("name", NAMES)
def test_owner_and_names(name: str) -> None:
    found = root(domain(name))
    [owner] = found.findall("metadata/{urn:vmbatch:job:1}job")
    assert owner.attrib == {"id": JOB.id, "token": TOKEN, "user": "alice"}
    assert [element.text for element in found.findall("name")] == [f"vmbatch-42.vm-{TOKEN[:8]}"]
    assert [element.text for element in found.findall("uuid")] == ["01234567-89ab-4def-8123-456789abcdef"]
    for tag in ("on_poweroff", "on_reboot", "on_crash"):
        assert [element.text for element in found.findall(tag)] == ["destroy"]


@pytest.mark.parametrize("name", NAMES)
def test_console_is_logged_once(name: str) -> None:
    logs = root(domain(name)).findall("devices/*/log")
    assert [log.attrib for log in logs] == [{"file": f"/var/lib/vmbatch/spool/42.vm.{TOKEN}/console.log", "append": "off"}]


Chain = tuple[str | None, list[tuple[str | None, str | None]], bool]


def chains(name: str) -> Iterator[Chain]:
    """Of each disk with a file: the file, what is below it (file, format), and whether the chain has an explicit end."""
    for disk in root(domain(name)).findall("devices/disk"):
        source, store = disk.find("source"), disk.find("backingStore")
        if source is None:
            continue
        below = []
        while store is not None and len(store):
            file, form, store = store.find("source"), store.find("format"), store.find("backingStore")
            below.append((None if file is None else file.get("file"), None if form is None else form.get("type")))
        yield source.get("file"), below, store is not None


@pytest.mark.parametrize("name", NAMES)
def test_backing_chains_are_explicit(name: str) -> None:
    """libvirt and QEMU find nothing out by themselves: a guest writes its own disk's header."""
    spool = f"/var/lib/vmbatch/spool/42.vm.{TOKEN}"
    medium: Chain = (f"{spool}/context.iso", [], True)
    overlay = (f"{spool}/vda.qcow2", [("/srv/images/base.raw", "raw")], True)
    assert (
        list(chains(name))
        == {
            "plain": [overlay, medium],
            "foreign": [overlay, medium],
            "copy": [(f"{spool}/vda.raw", [], True), medium],
            "shared": [
                (f"{spool}/vda.qcow2", [("/srv/images/base.qcow2", "qcow2")], True),
                ("/srv/images/base.raw", [], True),
                medium,
            ],
        }[name]
    )


def parts(text: str, expression: str) -> list[str]:
    return re.findall(expression, text, re.DOTALL)


@pytest.mark.parametrize(
    "expression",
    [
        r"<!-- Gr.*?-->",
        r"<!-- the root disk -->",
        r"<title>.*?</title>",
        r"<app:note.*?</app:note>",
        r"<future:element.*?</future:element>",
        r"<unknown.*?</unknown>",
        r"<memory.*?</memory>",
        r"<cpu.*?/>",
        r"<emulator>.*?</emulator>",
        r"<target dev.*?/>",
        r"<serial>.*?</serial>",
        r"<source bridge.*?/>",
        r"<mac .*?/>",
    ],
)
def test_kept_byte_for_byte(expression: str) -> None:
    before = parts((TEMPLATES / "foreign.xml").read_text().replace("'", '"'), expression)
    after = parts(domain("foreign").replace("'", '"'), expression)
    assert before
    assert [part for part in after if part in before] == before


def test_namespaces_are_kept() -> None:
    before, after = root((TEMPLATES / "foreign.xml").read_text()), root(domain("foreign"))
    for tag in (
        "{http://libvirt.org/schemas/domain/qemu/1.0}commandline",
        "{urn:future}element",
        "metadata/{http://example.org/app}note",
    ):
        one, other = before.find(tag), after.find(tag)
        assert one is not None
        assert other is not None
        assert standard.canonicalize(standard.tostring(one), strip_text=True) == standard.canonicalize(
            standard.tostring(other), strip_text=True
        )


def test_attributes_keep_their_order() -> None:
    found = domain("foreign")
    assert '<unknown c="1" b="2" a="3">' in found
    assert '<driver name="qemu" type="qcow2" cache="none" io="native" discard="unmap"/>' in found


def test_only_names_differ_between_starts() -> None:
    """The same template gives the same domain but for what the token makes."""
    one, other = domain("foreign"), domain("foreign", OTHER_TOKEN)
    assert one != other
    for token in (TOKEN, OTHER_TOKEN):
        found = domain("foreign", token)
        found = re.sub(r"<uuid>.*?</uuid>", "<uuid/>", found.replace(token, "T").replace(token[:8], "T"))
        assert re.sub(r'52:54:00(:[0-9a-f]{2}){3}"/>(?=<source network)', "", found) == re.sub(
            r'52:54:00(:[0-9a-f]{2}){3}"/>(?=<source network)',
            "",
            re.sub(r"<uuid>.*?</uuid>", "<uuid/>", one.replace(TOKEN, "T").replace(TOKEN[:8], "T")),
        )


def test_the_template_is_not_changed() -> None:
    form = template.parse((TEMPLATES / "foreign.xml").read_bytes(), "t.xml")
    first = plan(JOB, form, settings(), known(form)).xml
    assert plan(JOB, form, settings(), known(form)).xml == first


def test_hostile_values_stay_values() -> None:
    """Values of a job never become markup."""
    form = template.parse((TEMPLATES / "plain.xml").read_bytes(), "t.xml")
    chosen = plan(job(), form, settings(spool_directory="/s/<a b='c'>&\"'"), known(form))
    log = root(chosen.xml.decode()).find("devices/serial/log")
    assert log is not None
    assert log.get("file") == f"/s/<a b='c'>&\"'/42.vm.{TOKEN}/console.log"
