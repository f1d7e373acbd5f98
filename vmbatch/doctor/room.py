"""Room for guests on this node, and what has become of earlier ones."""

import os
import time
from collections.abc import Iterator

from .. import claim as claims
from .. import drain, health, journal
from ..admission import Room, room, throttle
from ..claim import DIRECTORY, Claim
from ..config import Config
from ..host import clock
from ..host.log import Log
from ..sweep import LOG, sweep
from ..template import Template, own_size
from .finding import Check, Finding, Site, error, ok, warning

_NOBODY = clock.ProcessIdentity(0, 0, "")
_MANY = 10


def fits(site: Site) -> Iterator[Finding]:
    """Whether one guest of each template could ever start here, and whether another one could now."""
    here = room(site.config)
    others = [found for found, _state in claims.look(DIRECTORY)]
    yield from judge(site.templates, here, others, site.config)
    if site.templates and (why := throttle(0, 0, site.config)):
        yield warning(f"no guest would be started now: {why}", "see [admission] and [spool] keep_free in vmbatch.conf")


def judge(forms: tuple[Template, ...], here: Room, others: list[Claim], config: Config) -> Iterator[Finding]:
    """By the templates' own sizes: a job's request may change them."""
    full = []
    for form in forms:
        name = os.path.basename(form.path)
        wanted = _claim(form, config)
        if lack := here.lacks(wanted, ()):
            yield error(f"{name}: a guest needs {lack}", "make it smaller, or see [admission] in vmbatch.conf")
        elif here.lacks(wanted, others):
            full.append(name)
    has = [f"{here.slots} slots" if here.slots is not None else "", f"{here.cores} cores" if here.cores is not None else "",
           f"{here.memory >> 20} MiB" if here.memory is not None else ""]
    said = f"{', '.join(filter(None, has)) or 'any number of guests'}; {len(others)} guests now"
    yield ok(said + (f", and none more of {' '.join(full)} until some have ended" if full else ""))


def _claim(form: Template, config: Config) -> Claim:
    cores, memory = own_size(form.root)
    return Claim(directory=DIRECTORY, token="", job="", cores=cores,
                 memory=memory + (form.resources.overhead or config.admission_overhead),
                 asked=0.0, owner=_NOBODY)


def drained(site: Site) -> Iterator[Finding]:
    """Whether an admin wants no new jobs here."""
    note = drain.look()
    yield warning(f"this node takes no new jobs with guests: {note}", "vmbatch undrain ends that") if note else ok("nobody has")


def starts(site: Site) -> Iterator[Finding]:
    """How the last starts went."""
    why = health.row(site.config)
    yield error(why, "vmbatch report has the reasons, vmbatch log JOB all of it") if why else ok("no row of failed starts")


def leftovers(site: Site) -> Iterator[Finding]:
    """What the sweep would remove, or cannot judge."""
    found = sweep(site.config, Log(None, LOG, "doctor"), dry_run=True)
    for line in found[:_MANY]:
        yield warning(line, "vmbatch sweep removes what is dead; it runs by a timer, too" if line.startswith("would ") else
                      "vmbatch sweep cannot judge it")
    if len(found) > _MANY:
        yield warning(f"and {len(found) - _MANY} others", "vmbatch sweep --dry-run shows all")
    if not found:
        yield ok("dead jobs have left nothing")


def kept(site: Site) -> Iterator[Finding]:
    """What is kept of failed jobs."""
    found = journal.kept()
    over = [start.job for _, start, _, left in found if left.until < time.time()]
    if over:
        yield warning(f"kept longer than it was to be: {' '.join(over)}", "vmbatch sweep removes it; does its timer run?")
    elif found:
        yield ok(f"of {len(found)} failed jobs something is kept: vmbatch kept")


CHECKS = (
    Check("room", "whether a guest of each template fits this node by [admission], and whether one could start now", fits,
          root=True, needs="libvirt"),
    Check("drained", "whether an admin has drained this node", drained, settings=False),
    Check("starts", "whether starts have been failing here", starts, root=True),
    Check("leftovers", "whether dead jobs have left something", leftovers, root=True, seconds=20.0,
          needs="libvirt"),
    Check("kept", "what is kept of failed jobs", kept, root=True),
)
