"""Settings and templates: whether they can be read, fit each other and this node, and whether only root can change them."""

import os
import sys
from collections.abc import Iterable, Iterator

import msgspec

from .. import facts, native, template
from ..batch.account import parse_user
from ..config import Config, parse
from ..context.access import access
from ..errors import VmBatchError
from ..facts import Image
from ..host import clock, file
from ..job import Group, Job, User
from ..plan import plan
from ..template import BlankSource, ImageSource, Template
from .finding import Check, Finding, Site, error, of_error, ok, warning

_GIB = 1 << 30
_STRANGER = User("vmbatch-doctor", 1 << 20, Group("vmbatch-doctor", 1 << 20), (), "/", "/bin/sh")
"""Whoever submits: no template may depend on it."""


def open_site(path: str = native.CONFIG, *, user: str = "", whole: bool = False) -> tuple[Site, list[Finding], bool]:
    """(what checks look at, what is found of settings and templates, whether the settings cannot be read)."""
    try:
        config = parse(file.read_trusted(path), path)
    except VmBatchError as wrong:
        said = of_error(wrong)
        if not os.path.lexists(path):
            said = [error(f"{path} is not there", "start from etc/vmbatch.conf, which explains every setting")]
        return Site(parse(b"", "defaults"), (), user, whole), _of("configuration", said), True
    forms: list[Template] = []
    found = []
    for name in sorted({name for names in config.queues.values() for name in names}):
        place = os.path.join(config.templates_directory, name)
        try:
            forms.append(template.parse(file.read_trusted(place), place))
        except VmBatchError as wrong:
            found += of_error(wrong)
    if forms:
        found.insert(0, ok(f"{len(forms)} can be read: {' '.join(os.path.basename(form.path) for form in forms)}"))
    return Site(config, tuple(forms), user, whole), [*_of("configuration", judge(config, path)), *_of("templates", found)], False


def _of(check: str, found: Iterable[Finding]) -> list[Finding]:
    return [msgspec.structs.replace(each, check=check) for each in found]


def judge(config: Config, path: str) -> Iterator[Finding]:
    """What of the settings does not fit together."""
    if not config.queues:
        yield warning(f"{path} gives no queue a template, so no job gets a guest", "name one in [queues]")
    else:
        yield ok(f"{path}: queues {' '.join(sorted(config.queues))}")
    known = {name for names in config.queues.values() for name in names}
    for section, named in (("types", config.types), ("features", config.features)):
        for word, name in named.items():
            if name not in known:
                yield warning(f"[{section}] {word} = {name}: no queue has this template",
                              f"add {name} to a queue's list in [queues]")


def plans(site: Site) -> Iterator[Finding]:
    """Whether a job could be planned with each template, but for its images, which are looked at elsewhere."""
    right = 0
    for form in site.templates:
        try:
            _plan(form, site)
            right += 1
        except VmBatchError as wrong:
            yield from (msgspec.structs.replace(each, found=f"{os.path.basename(form.path)}: {each.found}")
                        for each in of_error(wrong))
    if right == len(site.templates) and right:
        yield ok("a job could be planned with each template")


def _plan(form: Template, site: Site) -> None:
    if form.rootssh is not None:
        from ..host import rootssh

        rootssh.check(access(form.rootssh))
    bare = msgspec.structs.replace(form, disks=tuple(tag for tag in form.disks if not isinstance(tag.source, ImageSource)))
    token = clock.new_token()
    known = facts.look(bare, token, site.config)
    images = {tag.index: Image(tag.source.places[0], tag.source.format, _GIB, _GIB) for tag in form.disks
              if isinstance(tag.source, ImageSource)}
    once = {tag.index: Image("/", "raw", _GIB, _GIB) for tag in form.disks
            if isinstance(tag.source, BlankSource) and tag.index not in known.first}
    known = msgspec.structs.replace(known, images={**known.images, **once, **images}, spool_free=1 << 62)
    queue = next((queue for queue, names in site.config.queues.items() if os.path.basename(form.path) in names), "")
    config = msgspec.structs.replace(site.config, users_minimum_uid=0, users_allow=(), users_deny=())
    plan(Job(id="1.doctor", token=token, user=_STRANGER, name="doctor", queue=queue, account="", resources="", script=None,
             node_file=None), form, config, known)


def files(site: Site) -> Iterator[Finding]:
    """Whether none but root can change what root runs: VmBatch, its Python, its libraries, and the site's programs."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = [os.path.join(place, name) for place, _, names in os.walk(top) for name in names]
    libraries = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(msgspec.__file__)))
    file.check_trusted(sys.executable, *own, *libraries, *filter(os.path.exists, site.config.images_hash_programs))
    yield ok(f"none but root can change VmBatch in {top}")


def account(site: Site) -> Iterator[Finding]:
    """Whether the user of --user could have a job here."""
    if not site.user:
        return
    import grp
    import pwd

    config = site.config
    try:
        group = grp.getgrgid(pwd.getpwnam(site.user).pw_gid).gr_name
    except KeyError:
        yield error(f"this node knows no user {site.user}, or not the user's group",
                    "getent passwd shows whom it knows; see nsswitch.conf(5)")
        return
    person = parse_user(site.user, group)
    if person.uid < config.users_minimum_uid or site.user in config.users_deny:
        yield error(f"jobs of {site.user} (uid {person.uid}) are refused", "see [users] in vmbatch.conf")
    elif config.users_allow and site.user not in config.users_allow:
        yield error(f"jobs of {site.user} are refused: only those of {', '.join(config.users_allow)} run", "see [users] allow")
    else:
        yield ok(f"{site.user} has uid {person.uid}, group {group} and {len(person.groups)} others")


CHECKS = (
    Check("plans", "whether a job could be planned with each template: hypervisor, tools, scripts, archives, free addresses",
          plans, root=True, needs="libvirt"),
    Check("files", "whether none but root can change what root runs", files, settings=False),
    Check("user", "whether the user of --user could have a job here", account),
)
