"""What no living job owns is found and released: at boot, before each job, by a timer."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from . import claim, endmarker, journal, sshargs, status
from .batch.local import Local
from .config import Config
from .errors import DeadlineError, NodeError, VmBatchError
from .exchange import address as addresses
from .exchange import export, volume
from .exchange.address import look as reservations
from .exchange.address import stale
from .exchange.member import Member
from .exchange.member import look as entries
from .exchange.member import stale as unread
from .host import clock, process, virt
from .host.log import Log
from .hypervisor import netfilter
from .hypervisor.domain import Domain, forgotten
from .hypervisor.netfilter import NetworkFilter
from .image import store
from .job import is_of_node
from .journal import Journal
from .record import Start
from .registry import BATCH
from .release import release
from .resource import Resource
from .spool import directory
from .units import Deadline

T = TypeVar("T")
LOG = "0"
"""In place of a job's id, the log of what is released of other jobs: no user is to read that."""
_OLD_END_SECONDS = 3600.0
_FORGOTTEN_SECONDS = 900.0
"""How long an epilogue may be late: mom restarted within seconds of a job's start has forgotten it, and never runs one."""


def sweep(config: Config, log: Log, *, dry_run: bool) -> list[str]:
    """Releases what no living job owns; a line for each thing found, and for each that could not be judged."""
    node = os.uname().nodename
    share, seconds = config.share_directory, config.timeouts_release * config.timeouts_scale
    said: list[str] = []
    marked = [found for parent in (config.spool_directory, sshargs.HANDOVER,
                                   *(os.path.join(config.images_directory, name) for name in ("uses", "once", "saved")))
              for found in directory.ours(parent)]
    marked += _seen(lambda: directory.ours(share, server=True), f"what is on the share {share}", said)
    things: list[Resource] = [found for found in marked if is_of_node(os.path.basename(found.path), node)]
    reserved, here = (_seen(functools.partial(reservations, place), f"the reserved addresses in {place}", said)
                      for place in (config.reservations, addresses.HERE))
    met = _seen(lambda: entries(config.meeting, node), "the entries for other nodes", said)
    things += [claimed for claimed, _state in claim.look(claim.DIRECTORY)]
    things[:0] = volume.left(share)
    if config.share_export == "exportfs":
        things[:0] = _seen(lambda: list[Resource](export.left(share, Deadline(seconds))), "the exports", said)
    things[:0] = _seen(lambda: list[Resource](netfilter.left()), "the network filters", said)
    shown = status.files()
    domains = _seen(lambda: virt.ours(config.libvirt_uri), "the domains", said)
    things[:0] = [Domain(config.libvirt_uri, name, uuid, token, "") for name, uuid, token in domains]
    things[:0] = _seen(lambda: list[Resource](forgotten(config.libvirt_uri, Deadline(seconds))), "Xen's domains", said)
    known = journals(config, log, dry_run=dry_run)
    tokens = known.tokens
    said += known.said
    said += _seen(lambda: _mended(dry_run=dry_run), "whether the network filters stand", said)
    gone, left = stale((*reserved, *here), node, tokens)
    things += [*gone, *unread(met, tokens)]
    said += left
    for thing in things:
        token = getattr(thing, "token", "")
        if any(listed.startswith(token) for listed in tokens if token):
            continue
        if known.unread:
            said.append(f"left alone {thing}: it may be of {known.unread[0]}, which cannot be read")
        else:
            said.append(_remove(thing, config, dry_run=dry_run))
    said += [_forget(path, dry_run=dry_run) for path in shown
             if not known.unread and path.rpartition(".")[2] not in tokens and os.path.exists(path)]
    if not dry_run:
        endmarker.forget_old(_OLD_END_SECONDS)
        for part in store.parts(config.images_directory):
            said += part.tidy()
        from .image import saved

        said += saved.tidy(config.images_directory)
    return said


def _mended(*, dry_run: bool) -> list[str]:
    """Has the filters of guests that run or wait stand again where somebody has taken them away; a line for each. NodeError."""
    waiting = {path for path, _start, _waits in journal.waiting()}
    wanted = [(path, owned) for path in journal.paths(kept=False) if (known := _peek(path)) is not None
              and (known[2] or path in waiting) for owned in known[1] if isinstance(owned, NetworkFilter)]
    standing = netfilter.standing() if wanted else set()
    return [said for path, owned in wanted if owned.port not in standing and (said := _mend(path, owned, dry_run=dry_run))]


def _peek(path: str) -> tuple[Start, list[Resource], bool] | None:
    try:
        return journal.peek(path)
    except VmBatchError:  # named elsewhere
        return None


def _mend(path: str, owned: NetworkFilter, *, dry_run: bool) -> str:
    """Of a start that nobody is ending; '' for another one."""
    try:
        book = Journal.open(path, Deadline(0))
    except VmBatchError:
        return ""
    if book is None:
        return ""
    with contextlib.closing(book):
        if book.kept is not None or owned not in book.resources:
            return ""
        if dry_run:
            return f"would make the {owned} of job {book.start.job} again: its rules have been taken away"
        try:
            owned.mend()
        except (NodeError, OSError) as error:
            return f"could not make the {owned} of job {book.start.job} again: {error}"
        return f"made the {owned} of job {book.start.job} again: its rules had been taken away"


def _seen(look: Callable[[], list[T]], what: str, said: list[str]) -> list[T]:
    """What `look` finds; where it cannot be seen, a line that says so."""
    try:
        return look()
    except (VmBatchError, OSError) as error:
        said.append(f"cannot see {what}: {error}")
        return []


def _forget(path: str, *, dry_run: bool) -> str:
    if not dry_run:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return f"{'would remove' if dry_run else 'removed'} {path}: no journal lists it"


def _remove(thing: Resource, config: Config, *, dry_run: bool) -> str:
    if dry_run:
        return f"would remove {thing}: no journal lists it"
    try:
        thing.release(Deadline(config.timeouts_release * config.timeouts_scale), last=False)
    except (VmBatchError, OSError) as error:
        return f"could not remove {thing}: {error}"
    return f"removed {thing}: no journal lists it"


class Journals(NamedTuple):
    """The tokens of all journals there were, a line for each that was found dead or not judged, and those that cannot be read."""

    tokens: set[str]
    said: list[str]
    unread: list[str]


def journals(config: Config, log: Log, *, dry_run: bool, kept: bool = True, patience: Deadline | None = None) -> Journals:
    """Releases the journals of dead starts, and begins with no other one when `patience` is over.

    Without `kept` it looks at none of what is kept of failed jobs: there may be much, and a start has no time for that.
    """
    found = Journals(set(), [], [])
    seen: set[str] = set()
    while paths := [path for path in journal.paths(kept=kept) if path not in seen]:  # one is renamed when something is kept
        for path in paths:
            if patience is not None and patience.passed():
                return found
            seen.add(path)
            _journal(path, found, config, log, dry_run=dry_run)
    return found


def _journal(path: str, found: Journals, config: Config, log: Log, *, dry_run: bool) -> None:
    process.alive()
    try:
        known = journal.peek(path)
    except VmBatchError as error:
        found.said.append(f"left alone {path}: {error.lines()[0]}")
        found.unread.append(path)
        return
    if known is None:
        return
    found.tokens.add(known[0].token)
    try:
        book = Journal.open(path, Deadline(0))
    except DeadlineError:
        return
    except VmBatchError as error:
        found.said.append(f"left alone {path}: {error.lines()[0]}")
        return
    if book is not None:
        with contextlib.closing(book):
            said = _released(book, config, log, dry_run=dry_run)
        found.said.extend([said] if said else [])


def _released(book: Journal, config: Config, log: Log, *, dry_run: bool) -> str:
    """Releases what a start owns if it is dead; what is to be said of it, if anything."""
    whose = f"job {book.start.job} of {book.start.user}"
    try:
        verdict = _judge(book, dry_run=dry_run)
        if not verdict.startswith("dead"):
            return f"left alone {whose}: {verdict}" if verdict else ""
        if dry_run:
            return f"would release {whose}: {verdict}"
        if not release(book, f"the sweep: {verdict}", config, log, orphaned=True):
            return f"could not release job {book.start.job}; see {log.path}"
        return f"released {whose}: {verdict}"
    except OSError as error:
        return f"left alone {whose}: {error}"


def _why_gone(start: Start) -> str:
    if start.batch == Local.name:
        return "the process that made it has ended"
    return "the batch system " + ("does not run it" if start.script is None else "has taken its script away")


def _judge(book: Journal, *, dry_run: bool) -> str:
    """Of an unlocked journal: `dead, ...` if its job cannot run any more, a reason if that is not known, else nothing."""
    if book.kept is not None:
        return "dead, and kept until now" if book.is_over(note=not dry_run) else ""
    if book.waits_elsewhere:
        return "dead, its epilogue ended before the guest waited again"
    if book.waits is not None:
        return "dead, it waited for a job until its time was over" if book.waits.is_over else ""
    if not book.handed_over:
        return "dead, its prologue ended before the guest was ready"
    if book.start.owner.boot != clock.boot_id():
        return "dead, the node was booted since"
    for owned in book.resources:
        if isinstance(owned, Member) and (gone := owned.is_gone()) is not None:
            return "dead, the job has ended at its first node" if gone else ""
    system = BATCH.get(book.start.batch)
    if system is None:
        return f"a job of batch system {book.start.batch}, which this version does not know"
    gone = system.is_gone(book.start.job, book.start.script, book.start.leader)
    if gone is None:
        return "only the batch system knows whether it runs"
    if gone:
        return f"dead, {_why_gone(book.start)}"
    over = endmarker.shell_over(book.start, note=not dry_run)
    return "dead, its shell ended long ago, and no epilogue came" if over > _FORGOTTEN_SECONDS else ""
