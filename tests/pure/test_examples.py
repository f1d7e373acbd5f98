"""What a job would get from each template of examples/domains, as `vmbatch plan` shows it: golden files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from vmbatch import plan as plans
from vmbatch import template
from vmbatch.facts import Image
from vmbatch.template import BlankSource, ImageSource, Template

from .sample import GIB, facts, job, settings

FOLDER = Path(__file__).resolve().parents[2] / "examples/domains"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.xml"))
STORE = "/var/lib/vmbatch/store/site"
PROGRAMS = {name: f"/usr/sbin/{name}" for name in ("mkfs.ext4", "mkswap")}


def read(name: str) -> Template:
    return template.parse((FOLDER / f"{name}.xml").read_bytes(), f"/etc/vmbatch/domains/{name}.xml")


def planned(name: str) -> plans.Plan:
    """On a node that has every image, and is the one to fill disks that are made once."""
    form = read(name)
    images, first = {}, {}
    for tag in form.disks:
        if isinstance(tag.source, ImageSource) and tag.source.method != "download":
            path = f"{STORE}/content/{tag.target}" if tag.source.remote else tag.source.places[0]
            images[tag.index] = Image(path, tag.source.format, 2 * GIB, 2 * GIB, stored=tag.source.remote)
        elif isinstance(tag.source, BlankSource) and tag.source.once:
            first[tag.index] = (f"{STORE}/once/ready", f"{STORE}/once/making")
    addresses = tuple(tuple(pool.first for pool in interface.pools) for interface in form.interfaces)
    uri = "xen:///system" if form.type == "xen" else "qemu:///system"
    return plans.plan(job(), form, settings(libvirt_uri=uri),
                      facts(text=(FOLDER / f"{name}.xml").read_text(), images=images, first=first, addresses=addresses,
                            programs=PROGRAMS))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_job_gets(name: str, golden: Callable[[str, str], None]) -> None:
    chosen = planned(name)
    steps = [line for line in plans.preview(chosen) if not line.endswith(" bytes)")]
    golden(f"examples/{name}.txt", "\n".join([*steps, chosen.xml.decode(), ""]))


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_of_ours_is_left_in_the_domain(name: str) -> None:
    tags = [str(element.tag) for element in etree.fromstring(planned(name).xml).iter(etree.Element)]
    assert not [tag for tag in tags if tag.startswith("vb")]


def test_every_golden_file_is_of_an_example() -> None:
    assert {path.stem for path in (Path(__file__).parent / "golden/examples").iterdir()} == set(EXAMPLES)
