"""What planning must know of this node, gathered before the first effect; and the images that must be here, brought here."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from . import network
from .config import Config
from .context import archive
from .context.access import access
from .disk.blank import MAKERS
from .errors import NodeError, SiteError
from .exchange import address as reservation
from .exchange.address import taken
from .format import FormatError
from .format.name import TOOLS, parse_form
from .grant import unknown
from .host import distant, file, libvirtd, process
from .image.store import Held, Store, make_directories
from .image.terms import Terms, terms
from .job import Job, User
from .resource import Work
from .template import BlankSource, DiskTag, ImageSource, Template, VirtNet, parse_network

if TYPE_CHECKING:
    from .context.userdata import SiteFile
    from .image import saved as guests
    from .image.once import Turn
    from .image.saved import Saved


class Image(msgspec.Struct, frozen=True):
    """An image to work on: `size` is what the guest sees, `file_size` what a copy takes at most; in bytes, 0 if not known.

    `stored`: it is in the node's store, and must be linked to stay there. `chain`: of a VHD, its parents and itself, base first.
    `origin`, `digest` and `modified` are for the trace, see there.
    """

    path: str
    format: str
    size: int
    file_size: int
    stored: bool = False
    chain: tuple[str, ...] = ()
    origin: str = ""
    digest: str = ""
    modified: float = 0.0


class Around(msgspec.Struct, frozen=True):
    """What is around the guest's interfaces: `node` are this node's addresses, `guests` other guests' networks, by interface.

    `replies` is the first port from which programs of this node connect to others by themselves; `no_bridge` has the networks
    that no filter can guard.
    """

    node: tuple[str, ...] = ()
    guests: tuple[tuple[str, ...], ...] = ()
    replies: int = 0
    no_bridge: frozenset[str] = frozenset()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """`images` by the disk's index; `first` has, by index, (ready, making) of disks that this job fills as the first.

    `wishes` are the images that the submitter asks for, by index. `spool_free` in bytes, `scripts` the site's (name, path),
    `programs` the path of each tool that is on the node, `addresses` those to reserve, a tuple for each interface, `networks`
    libvirt's by their names, as far as they are known, `pinned` what their DHCP has given to other starts, `node` the node's
    name, `credentials` have their content, `user_data` is the site's by the name of the medium, `around` is for the interfaces
    that get a filter, `saved` is the guest from which the job's goes on, `booted` why there is none. `waited` is the address of
    the guest that has waited for the job, '' if none has.
    """

    wishes: dict[int, ImageSource]
    images: dict[int, Image]
    first: dict[int, tuple[str, str]]
    spool_free: int
    scripts: tuple[tuple[str, str], ...]
    programs: dict[str, str]
    terms: Terms
    addresses: tuple[tuple[str, ...], ...] = ()
    networks: dict[str, VirtNet] = {}
    pinned: frozenset[str] = frozenset()
    node: str = ""
    credentials: dict[str, bytes] = {}
    user_data: dict[str, SiteFile] = {}
    around: Around = Around()
    saved: Saved | None = None
    booted: str = ""
    waited: str = ""


class Gathered:
    """Facts, and what keeps them true until `close`: images that are held, turns that are taken."""

    def __init__(self) -> None:
        self.images: dict[int, Image] = {}
        self.first: dict[int, tuple[str, str]] = {}
        self._held: list[Held | Turn | guests.Held] = []

    def hold(self, held: Held | Turn | guests.Held) -> None:
        """Keeps it until `close`."""
        self._held.append(held)

    def close(self) -> None:
        """Lets go of everything."""
        for held in self._held:
            held.close()
        self._held.clear()


def gather(form: Template, wishes: dict[int, ImageSource], job: Job, config: Config, gathered: Gathered, work: Work) -> Facts:
    """All facts; downloads what must be here, waits for what others make. VmBatchError."""
    return addressed(of_node(form, wishes, job, config, gathered, work), form, job.token, config)


def of_node(form: Template, wishes: dict[int, ImageSource], job: Job, config: Config, gathered: Gathered, work: Work) -> Facts:
    """As `gather`, but for what is of networks. VmBatchError."""
    agreed = terms(config)
    if wishes or any(isinstance(tag.source, BlankSource) and tag.source.once for tag in form.disks):
        agreed = msgspec.structs.replace(agreed, readers=readers(form, config))
    for tag in form.disks:
        with _of_disk(tag, form):
            _see_disk(form, tag, wishes.get(tag.index), job.user, config, agreed, gathered, work)
    _check_archives(form)
    if form.rootssh is not None:
        from .host import rootssh

        rootssh.check(access(form.rootssh))
    space = os.statvfs(file.nearest(config.spool_directory))
    return Facts(
        wishes=wishes, images=dict(gathered.images), first=dict(gathered.first), spool_free=space.f_bavail * space.f_frsize,
        scripts=tuple(_site_scripts(config.guest_scripts)), programs=_programs(form), terms=agreed, node=os.uname().nodename,
        credentials=_credentials(form), user_data=_user_data(form))


def addressed(known: Facts, form: Template, token: str, config: Config) -> Facts:
    """The facts, with addresses that are free now: whoever reserves them first has them. NodeError if none is."""
    networks = _networks(form, config)
    return msgspec.structs.replace(known, addresses=_free_addresses(form, token, config), networks=networks,
                                   pinned=frozenset(taken(reservation.HERE) if networks else ()),
                                   around=_around(form, config, networks))


def readers(form: Template, config: Config) -> int | None:
    """The group of the guests' processes; None if the template gives them another account. NodeError."""
    return None if form.root.find("seclabel[@model='dac']") is not None else libvirtd.guest_group(config.libvirt_uri)


def look(form: Template, token: str, config: Config) -> Facts:
    """The facts as far as they are known without changing anything: images that would be downloaded have no size."""
    _check_archives(form)
    known = seen(form, config)
    known = msgspec.structs.replace(known, addresses=_free_addresses(form, token, config))
    try:
        return addressed(known, form, token, config)
    except NodeError:  # libvirtd does not run, or has no such network
        return known


def seen(form: Template, config: Config) -> Facts:
    """As `look`, but for what is of networks, and archives are not looked into."""
    from .image import once, remote

    agreed = terms(config)
    gathered = Gathered()
    try:
        for tag in form.disks:
            with _of_disk(tag, form):
                if isinstance(tag.source, ImageSource) and tag.source.remote:
                    held = remote.find(tag.source, agreed) if os.path.isdir(agreed.directory) else None
                    gathered.images[tag.index] = (
                        _stored(held) if held else Image("the store of images", tag.source.format, 0, 0, stored=True))
                    if held:
                        held.close()
                elif isinstance(tag.source, BlankSource) and tag.source.once:
                    gathered.first[tag.index] = once.places(agreed.directory, form.path, tag.source, None)
                elif isinstance(tag.source, ImageSource):
                    gathered.images[tag.index] = _local(tag, tag.source, form)
        space = os.statvfs(file.nearest(config.spool_directory))
        return Facts(wishes={}, images=gathered.images, first=gathered.first, spool_free=space.f_bavail * space.f_frsize,
                     scripts=tuple(_site_scripts(config.guest_scripts)), programs=_programs(form), terms=agreed,
                     node=os.uname().nodename, credentials=_credentials(form), user_data=_user_data(form))
    finally:
        gathered.close()


@contextlib.contextmanager
def _of_disk(tag: DiskTag, form: Template) -> Iterator[None]:
    """Says of a template's mistake where it is."""
    try:
        yield
    except FormatError as error:
        raise SiteError(f"{form.path}:{tag.line}: disk {tag.target}: {error.what}", error.hint, code="VB303") from None


def _see_disk(form: Template, tag: DiskTag, wish: ImageSource | None, user: User, config: Config, agreed: Terms,
              gathered: Gathered, work: Work) -> None:
    if wish is not None:
        from .image import own

        make_directories(agreed.directory)
        held = own.obtain(wish, user, agreed, work)
        gathered.hold(held)
        gathered.images[tag.index] = _stored(held)
    elif isinstance(tag.source, BlankSource):
        if tag.source.once:
            _take_turn(form, tag, tag.source, user, config, agreed, gathered, work)
    elif tag.source is not None and tag.source.remote:
        from .image import local, remote

        if tag.source.checksum is not None:
            local.check_program(tag.source.checksum.function, agreed.programs)
        if tag.source.method != "download":
            Store(agreed.directory).make()
            held = remote.obtain(tag.source, agreed, work)
            gathered.hold(held)
            gathered.images[tag.index] = _stored(held)
    elif tag.source is not None:
        gathered.images[tag.index] = _local(tag, tag.source, form)
        if tag.source.checksum is not None:
            from .image import local

            local.check_program(tag.source.checksum.function, agreed.programs)
            store = Store(agreed.directory)
            store.make()
            local.check(tag.source.places[0], tag.source.checksum, store, agreed.programs, agreed.account, work)


def _stored(held: Held) -> Image:
    return Image(held.path, held.record.format, held.record.size, held.record.stamp.size, stored=True, origin=held.record.origin,
                 digest=f"sha256:{held.record.content}")


def _local(tag: DiskTag, source: ImageSource, form: Template) -> Image:
    """A local image, which must be root's as all above it, and readable for QEMU's account where jobs share it. SiteError.

    UnreachableError where it lies on a server that does not answer.
    """
    def judge() -> Image:
        with _of_disk(tag, form):
            return judged(source)

    return distant.call(source.places[0], judge, Image)


def judged(source: ImageSource) -> Image:
    """A local image, on a file system that answers. SiteError."""
    from .image import local

    path = source.places[0]
    if not os.path.exists(path):
        raise SiteError(f"the image {path}: {os.strerror(errno.ENOENT)}", "put it there, or correct <vbdisksource>", code="VB302")
    file.check_trusted(path)
    try:
        known = local.known(path, source.format, 1 << 62, lambda what, hint: SiteError(f"the image {path} {what}", hint,
                                                                                       code="VB303"))
        status = os.stat(path)
    except OSError as error:
        raise SiteError(f"the image {path}: {error.strerror}", code="VB302") from None
    if source.method != "copy" and not status.st_mode & 0o004 and file.OWNER == 0:
        raise SiteError(f"the image {path} stays root's, and QEMU's account cannot read it", f"chmod o+r {path}", code="VB302")
    checksum = source.checksum
    return Image(path, source.format, known.size, known.file_size, chain=local.chain(path) if known.chained else (), origin=path,
                 digest="" if checksum is None else f"{checksum.function}:{checksum.value}", modified=status.st_mtime)


def _take_turn(form: Template, tag: DiskTag, source: BlankSource, user: User, config: Config, agreed: Terms,
               gathered: Gathered, work: Work) -> None:
    from .image import local, once
    from .image.room import make_room

    make_directories(agreed.directory)
    ready, making = once.places(agreed.directory, form.path, source, None if config.images_once_for_all_users else user.uid)
    turn = once.take(ready, making, agreed.waiting(work.deadline), work)
    gathered.hold(turn)
    if turn.first:
        make_room(agreed.directory, agreed.limit, agreed.keep_free, source.size)
        gathered.first[tag.index] = (ready, making)
        return
    kind = parse_form(source.form).format.removesuffix("-fixed")
    known = local.known(ready, kind, 1 << 62, lambda what, hint: SiteError(f"the disk {ready} {what}", hint, code="VB303"))
    gathered.images[tag.index] = Image(ready, kind, known.size, known.file_size, stored=True)


def _check_archives(form: Template) -> None:
    on_medium: set[str] = set()
    for tar in form.archives:
        file.check_trusted(tar.archive)
        for name in archive.names(tar.archive, tar.directory, tar.strip) if tar.on_medium else ():
            if name in on_medium:
                raise SiteError(f"{name} would be on the medium twice: {tar.archive} has it again", code="VB501")
            on_medium.add(name)


def _credentials(form: Template) -> dict[str, bytes]:
    """The content of each of the template's, and root's public key where that goes this way. SiteError."""
    found = {each.name: file.read_trusted(each.file) if each.file else each.value.encode() for each in form.credentials}
    if form.rootssh is not None and form.rootssh.give == "credential":
        from .context.credentials import root_key
        from .host import rootssh

        found |= root_key(rootssh.public_key(form.rootssh.key).encode())
    return found


def _user_data(form: Template) -> dict[str, SiteFile]:
    """The site's user-data for each medium that has any. InputError for what is wrong with it."""
    found = {}
    for tag in form.disks:
        if tag.medium is not None and tag.medium.userdata:
            from .context import forms
            from .context.userdata import SiteFile

            site = SiteFile(tag.medium.userdata, file.read_trusted(tag.medium.userdata))
            forms.check(tag.medium.form, site)
            found[tag.medium.name] = site
    return found


def _free_addresses(form: Template, token: str, config: Config) -> tuple[tuple[str, ...], ...]:
    wanted = any(interface.pools for interface in form.interfaces)
    return network.choose(form.interfaces, token, taken(config.reservations) if wanted else {}, form.path)


def _networks(form: Template, config: Config) -> dict[str, VirtNet]:
    """The networks of libvirt's that give addresses or are guarded, by name. NodeError if libvirt does not know one."""
    from .host import virtnet

    filtered = _is_filtered(form, config)
    named = {interface.network for interface in form.interfaces
             if interface.network and (interface.method == "dhcp" or (filtered and interface.guarded))}
    return {name: parse_network(virtnet.network_xml(config.libvirt_uri, name)) for name in sorted(named)}


def _is_filtered(form: Template, config: Config) -> bool:
    return config.network_filter and any(interface.guarded for interface in form.interfaces)


def _around(form: Template, config: Config, networks: dict[str, VirtNet]) -> Around:
    if not _is_filtered(form, config):
        return Around()
    from .host import address

    guests = tuple((*networks.get(interface.network, VirtNet("")).networks,
                    *(net for pool in interface.pools for net in pool.networks)) for interface in form.interfaces)
    return Around(address.of_this_node(), guests, address.first_own_port(),
                  frozenset(interface.network for interface in form.interfaces
                            if interface.guarded and interface.network and not networks[interface.network].bridge))


def _site_scripts(parent: str) -> Iterator[tuple[str, str]]:
    ready = os.path.join(parent, "ready")
    if os.path.exists(ready):
        file.check_trusted(ready)
        yield "site/ready", ready
    for stage in ("prolog.d", "epilog.d", "before.d", "after.d", "clean.d"):
        place = os.path.join(parent, stage)
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            if name.startswith(".") or name.endswith("~"):
                continue
            path = os.path.join(place, name)
            file.check_trusted(path)
            yield f"site/{stage}/{name}", path


def _programs(form: Template) -> dict[str, str]:
    """The tools that the template's disks may need, as far as they are on this node."""
    wanted = set(TOOLS)
    wanted.update(MAKERS[tag.source.filesystem][0] for tag in form.disks
                  if isinstance(tag.source, BlankSource) and tag.source.filesystem)
    return {name: path for name in sorted(wanted) if (path := process.find(name))}


def choose(form: Template, asked: dict[str, str], config: Config) -> dict[int, ImageSource]:
    """The images that a submitter asks for, by the disk's index. JobError for what the template or the site does not allow."""
    if not asked:
        return {}
    from .image import own

    offers = {tag.user.name: tag for tag in form.disks if tag.user is not None}
    found = {}
    for name, wish in asked.items():
        tag = offers.get(name)
        if tag is None and (name in form.requests or name == "vbtemplate"):
            continue
        if tag is None or tag.user is None or not isinstance(tag.source, ImageSource):
            raise unknown(name, (*offers, *form.requests))
        method = "copy" if tag.source.method in ("copy", "download") else tag.source.method
        found[tag.index] = own.source(wish, tag.user, method, config.userimages_sources)
    return found

