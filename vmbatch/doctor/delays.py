"""What makes guests start later than they need to: nothing that is wrong, so it is said without a warning."""

import contextlib
import os
from collections.abc import Iterator

from ..host import virtnet
from ..template import ImageSource, Template
from ..template.advice import Sizes, advise
from ..template.virtnet import DNSMASQ, looks_first
from .finding import Check, Finding, Site, ok
from .networks import named

_PING_SECONDS = 3.0
"""PING_WAIT of dnsmasq's config.h; measured by `python -m bench.lean`, see docs/performance.md."""


def delays(site: Site) -> Iterator[Finding]:
    """Of templates, and of libvirt's networks whose DHCP they ask."""
    found = [*_of_templates(site), *_of_networks(site)]
    if site.templates:
        yield from found or [ok("nothing that is known to slow a guest's start")]


def _of_templates(site: Site) -> Iterator[Finding]:
    for form in site.templates:
        if advice := advise(form, _sizes(form)):
            seconds = sum(each.seconds for each in advice)
            names = ", ".join(dict.fromkeys(each.name for each in advice))
            yield ok_but(f"{os.path.basename(form.path)}: a start could take about {seconds:.1f} s less ({names})",
                         f"vmbatch check {form.path} says more")


def _sizes(form: Template) -> Sizes:
    """Of images on this node; whether they are there, another check says."""
    found = {}
    for tag in form.disks:
        if isinstance(tag.source, ImageSource) and not tag.source.remote:
            with contextlib.suppress(OSError):
                found[tag.index] = os.stat(tag.source.places[0]).st_size
    return found


def _of_networks(site: Site) -> Iterator[Finding]:
    for name, forms in named(site).items():
        if any(interface.network == name and interface.method == "dhcp" for form in forms for interface in form.interfaces):
            yield from judge_network(name, virtnet.network(site.config.libvirt_uri, name).xml)


def judge_network(name: str, xml: str) -> Iterator[Finding]:
    """By its XML, '' if it is not there: dnsmasq looks first whether somebody has the address already."""
    if xml and looks_first(xml):
        yield ok_but(f"the DHCP of libvirt's network {name} lets each guest wait {_PING_SECONDS:.0f} s for its address",
                     f"virsh net-edit {name}: <network xmlns:dnsmasq='{DNSMASQ}'>, and at its end "
                     "<dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>; then net-destroy and net-start, "
                     "without guests there")


def ok_but(found: str, advice: str) -> Finding:
    """All is well, and could be better."""
    return Finding("ok", found, advice)


CHECKS = (
    Check("delays", "what makes guests start later than they need to, in templates and in libvirt's DHCP", delays, root=True,
          needs="libvirt"),
)
