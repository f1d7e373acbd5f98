"""The images of templates: whether jobs would get them, and whether they are the right ones."""

import contextlib
import os
import time
from collections.abc import Iterator

import msgspec

from .. import pool, resume
from ..errors import VmBatchError
from ..facts import judged, look
from ..grant import Grant
from ..host import clock, http
from ..image import local, record
from ..image.record import fits
from ..image.store import Entry, Store, stamp
from ..image.terms import terms
from ..resource import Work
from ..template import ImageSource
from ..units import Deadline
from .finding import Check, Finding, Site, error, of_error, ok, warning

_ASK_SECONDS = 15.0
_NO_HEAD = (403, 405, 501)
"""What servers say that take no HEAD, or have signed a URL for GET alone."""
_READ_SECONDS = 3600.0
_PLACE = "put the image there, or correct <vbdisksource source='...'>"


def _sources(site: Site) -> Iterator[tuple[str, ImageSource]]:
    """(what people call it, source) of every image, each once."""
    seen = set()
    for form in site.templates:
        for tag in form.disks:
            if isinstance(tag.source, ImageSource) and tag.source not in seen:
                seen.add(tag.source)
                yield f"{os.path.basename(form.path)} {tag.target}", tag.source


def _with(place: str, said: str) -> str:
    return said if place in said else f"{place}: {said}"


class Answers(msgspec.Struct, frozen=True):
    """What each place of an image said, '' if it has it; and when its server was asked last, if it is in the store."""

    said: dict[str, str]
    stored: float | None


def images(site: Site) -> Iterator[Finding]:
    """Local images are looked at, servers are asked."""
    fine = []
    for what, source in _sources(site):
        if not source.remote:
            try:
                found = judged(source)
                fine.append(f"{source.places[0]} ({found.format})")
            except VmBatchError as wrong:
                yield from (error(f"{what}: {_with(source.places[0], each.found)}", each.advice or _PLACE)
                            for each in of_error(wrong))
            continue
        entry = _stored(site, source)
        said = judge_servers(what, Answers({http.shown(place): _ask(place, site) for place in source.places},
                                           entry.record.checked if entry else None))
        if said.level == "ok":
            fine.append(said.found)
        else:
            yield said
    if fine:
        yield ok(f"can be had: {' '.join(fine)}")


def _ask(place: str, site: Site) -> str:
    """Why a server does not give an image, or ''."""
    if place.startswith("file://"):
        return "" if os.access(place.removeprefix("file://"), os.R_OK) else f"{place} cannot be read"
    try:
        for method in ("HEAD", "GET"):
            answer = http.open_url(place, {}, terms(site.config).access, allowed=None, deadline=Deadline(_ASK_SECONDS),
                                   alive=lambda: None, method=method)
            answer.close()
            if method == "HEAD" and answer.status in _NO_HEAD:
                continue
            return "" if answer.status == 200 else str(http.StatusError(place, answer.status))
    except VmBatchError as wrong:
        return wrong.what
    return ""


def judge_servers(what: str, found: Answers) -> Finding:
    """An image on servers: one of them is enough, and an image that is here already is."""
    silent = [said for said in found.said.values() if said]
    having = [place for place, said in found.said.items() if not said]
    here = None if found.stored is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(found.stored))
    if not silent:
        return ok(having[0] + (" (in the store)" if here else ""))
    if having:
        return warning(f"{what}: {'; '.join(silent)}; others have it", "take the server out of the template, or mend it")
    if here:
        return warning(f"{what}: {'; '.join(silent)}; jobs get the image of {here}",
                       "mend the server before the image is wanted anew")
    return error(f"{what}: {'; '.join(silent)}", "correct the URL, or see the server, the node's DNS and [images] proxy")


def _stored(site: Site, source: ImageSource) -> Entry | None:
    """The store's own, looked at without using it: what is used stays longest."""
    key = record.key(source)
    for entry in Store(site.config.images_directory).entries():
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            if entry.key == key and fits(entry.record, source.checksum) and stamp(os.stat(entry.path)) == entry.record.stamp:
                return entry
    return None


def digests(site: Site) -> Iterator[Finding]:
    """Whether images have the digests that their templates want: as was found before, or by reading them."""
    right, unread = [], []
    work = Work(Deadline(_READ_SECONDS), lambda: None, lambda text: None)
    agreed = terms(site.config)
    store = Store(site.config.images_directory)
    for what, source in _sources(site):
        wanted, place = source.checksum, source.places[0]
        try:
            if not source.remote and wanted is not None:
                local.check_program(wanted.function, agreed.programs)
                if site.whole:
                    with open(place, "rb") as image:
                        found = local.of_file(image.fileno(), wanted.function, agreed.programs, agreed.account, work)
                    if found != wanted.value:
                        raise local.differs(f"the image {place}", wanted, found)
                elif not local.is_checked(place, wanted, store):
                    unread.append(place)
                    continue
            elif source.remote and (entry := _stored(site, source)) is not None:
                place = entry.record.origin
                if site.whole and not _is_whole(entry, work):
                    yield error(f"{what}: {entry.path} is not what was downloaded",
                                "vmbatch image verify removes it; see the node's disk")
                    continue
            else:
                continue
        except VmBatchError as wrong:
            yield from of_error(wrong)
            continue
        except OSError:
            continue  # the check of images says that it is not there
        right.append(place)
    if unread:
        yield warning(f"not compared with its digest yet, or changed since: {' '.join(unread)}",
                      "vmbatch doctor --images reads it now")
    if right:
        yield ok(("read and right: " if site.whole else "unchanged since it was found right: ") + " ".join(right))


def saved(site: Site) -> Iterator[Finding]:
    """Of templates whose guests are to go on from a saved one, whether a job's of the template's own size would."""
    fine = []
    for form in site.templates:
        if not form.resume:
            continue
        try:
            known = resume.look(look(form, clock.new_token(), site.config), form, Grant(), site.config)
        except VmBatchError:
            continue  # the checks of images, networks and plans say what is wrong
        if known.saved is not None:
            fine.append(form.path)
        else:
            yield warning(f"{form.path}: {known.booted}", "vmbatch save --all; vmbatch-save.timer runs it every night")
    if fine:
        yield ok(f"a guest is saved of {' '.join(fine)}")


def waiting(site: Site) -> Iterator[Finding]:
    """Of templates whose guests are to wait for jobs, whether they can, and whether as many do as should."""
    fine = []
    for form in site.templates:
        if form.pool is None:
            continue
        there = pool.count(form)
        why = pool.why_not(form, site.config)
        if why:
            yield warning(f"{form.path}: its guests cannot wait for jobs, and are booted: {why}",
                          "see docs/pool.md, or take <vbstart>POOL</vbstart> out")
        elif there < form.pool.size:
            yield warning(f"{form.path}: {there} of {form.pool.size} guests wait for jobs",
                          "vmbatch pool refill says why; vmbatch-pool.path and vmbatch-pool.timer run it")
        else:
            fine.append(f"{there} of {form.path}")
    if fine:
        yield ok(f"guests wait for jobs: {', '.join(fine)}")


def _is_whole(entry: Entry, work: Work) -> bool:
    with open(entry.path, "rb") as image:
        return local.of_file(image.fileno(), "sha256", (), "", work) == entry.record.content


CHECKS = (
    Check("images", "whether the templates' images are there, sound and readable, or their servers have them", images, root=True,
          seconds=20.0),
    Check("digests", "whether images have the digests that templates want; with --images each is read", digests, root=True,
          reading=_READ_SECONDS),
    Check("saved", "whether guests are saved where those of jobs are to go on from one", saved, root=True, needs="libvirt"),
    Check("pool", "whether guests wait where those of jobs are to be taken from some", waiting, root=True),
)
