"""Guests that wait for jobs: which there are, which a job takes, and which make room for one.

Each has a journal of its own, in which a line says that it waits. Who takes it adds a line, and the journal gets the job's name:
from then on the guest is the job's, and never anybody else's.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterable

import msgspec

from . import __version__, digest, facts, journal
from .claim import Claim
from .config import Config
from .errors import DeadlineError, EndedError, NodeError, VmBatchError
from .exchange.channel import Channel, open_port
from .facts import Facts
from .grant import Grant
from .host import file
from .host.log import Log
from .job import Job, User
from .journal import Journal, domain_of
from .record import Start, Waits
from .release import release
from .template import Template, digest_text, own_size, pool_obstacle
from .units import Deadline

DIRECTORY = "/run/vmbatch/pool"
"""Where prologues say that a guest may lack."""
_SHAPING = ("libvirt_", "share_", "network_", "spool_directory", "guest_")
"""Settings that a guest has when it waits."""
_BUSY_SECONDS, _BUSY_PAUSE_SECONDS = 0.3, 0.01
"""For others to look at a guest that waits, or to take it."""
_GREETING_SECONDS, _GREETINGS_SECONDS = 5.0, 8.0
"""For a guest that waits to say so, and for all that a job tries: rather it boots."""
_NONE = "none waits"


def why_not(form: Template, config: Config) -> str:
    """Why guests of a template cannot wait here, in words; '' if they can."""
    if form.messages == "SHARE" and config.share_export != "none":
        return f"[share] export = {config.share_export} shows a guest its share as the job's user, who is not known yet"
    return pool_obstacle(form)


def count(form: Template) -> int:
    """How many guests of a template wait, may go on waiting, and are nobody's."""
    return sum(waits.template == form.path and not waits.had and not waits.is_over for _path, _start, waits in journal.waiting())


def key(known: Facts, form: Template, granted: Grant, config: Config) -> str:
    """Of all that shapes a guest until it is a job's. SiteError."""
    from . import resume
    from .context.content import kit

    cores, memory = own_size(form.root)
    inputs = resume.inputs(known, form, [tar.archive for tar in form.archives])
    settings = msgspec.structs.asdict(config)
    return digest.of_text("\0".join((
        __version__, digest_text(form), f"{granted.cores or cores} {granted.memory or memory}",
        *(f"{name}={data.hex()}" for name, data in sorted(known.credentials.items())),
        *(f"{entry.name} {digest.of_bytes(entry.data)}" for entry in kit()),
        *(f"{each.content or each.path} {each.stamp}" for each in inputs),
        *(f"{name}={value}" for name, value in sorted(settings.items()) if name.startswith(_SHAPING)))))


class Taken:
    """A guest that waited, for one job: its journal is locked, its port open; `known` are the facts that the job still needs."""

    def __init__(self, book: Journal, waits: Waits, channel: Channel, known: Facts) -> None:
        self.book = book
        self.channel = channel
        self.known = msgspec.structs.replace(known, addresses=waits.addresses, waited=waits.address, spool_free=1 << 62)
        self.had = waits.had
        self._was = book.start

    def job(self, job: Job) -> Job:
        """The job, with what it owns by the names that it has."""
        return msgspec.structs.replace(job, token=self._was.token, pooled=self._was.job)

    def start(self, start: Start) -> Start:
        """The start, in the same way."""
        return msgspec.structs.replace(start, token=self._was.token, pooled=self._was.job)

    def give_up(self, config: Config, log: Log) -> None:
        """Leaves the guest to others, unless it is the job's already: then it ends."""
        self.channel.close()
        if self.book.waits is None:
            release(self.book, "the start that took it has ended", config, log, orphaned=False)
        self.book.close()


def take(job: Job, form: Template, granted: Grant, config: Config, log: Log) -> Taken | None:
    """A guest for the job, if one waits that is as the job's would be; else the log says why not. SiteError, NodeError."""
    why = why_not(form, config)
    if not why and any(tag.user is not None and tag.user.name in job.wishes for tag in form.disks):
        why = "the job has an image of its own"
    if not why:
        known = facts.seen(form, config)
        taken = _seek(job.user, form, known, key(known, form, granted, config), config, log)
        if isinstance(taken, Taken):
            if taken.had:
                log.line(f"a guest is taken that has had {taken.had} of this user's jobs")
            return taken
        why = taken
    log.line(f"no guest that waits is taken: {why}")
    return None


def _seek(user: User, form: Template, known: Facts, wanted: str, config: Config, log: Log) -> Taken | str:
    """The first that can be had, rather one that has had jobs of this user; or why there is none. Others' are not looked at."""
    over, patience = Deadline(_BUSY_SECONDS), Deadline(_GREETINGS_SECONDS * config.timeouts_scale)
    while True:
        why, busy = _NONE, False
        for path, _start, waits in sorted(journal.waiting(), key=lambda each: not each[2].had):
            if waits.template != form.path or waits.is_over:
                continue
            if not waits.is_for(user.name, user.uid):
                why = why if why != _NONE else "those that wait are for other users"
                continue
            if patience.passed():
                return "those that wait do not answer"
            if waits.key != wanted:
                why = "those that wait have other cores, memory, images, settings or kit than the job's"
                continue
            try:
                book = Journal.open(path, Deadline(0))
            except DeadlineError:
                why, busy = "those that wait are in use", True
                continue
            if book is not None and (channel := _greet(book, waits, patience, config, log)) is not None:
                return Taken(book, waits, channel, known)
        if not busy or over.passed():
            return why
        time.sleep(_BUSY_PAUSE_SECONDS)


def _greet(book: Journal, waits: Waits, patience: Deadline, config: Config, log: Log) -> Channel | None:
    """The port of a guest that answers; one that does not, though it waits, is ended."""
    domain = domain_of(book.resources)
    if book.waits != waits or domain is None:
        book.close()
        return None
    channel = None
    try:
        channel = open_port(domain.uri, domain.uuid, book.start.token)
        if _answers(channel, waits.address, patience.earlier(_GREETING_SECONDS * config.timeouts_scale)):
            return channel
        why = "it does not answer"
    except BaseException as error:
        if isinstance(error, EndedError) or not isinstance(error, VmBatchError):
            book.close()
            raise
        why = error.what
    if channel is not None:
        channel.close()
    log.line(f"the guest {domain.name}, which waited, is ended: {why}")
    release(book, f"it waited, and {why}", config, log, orphaned=True)
    book.close()
    return None


def _answers(channel: Channel, address: str, over: Deadline) -> bool:
    """Whether the guest says that it waits, and where. NodeError."""
    while (said := channel.read("waiting")) is None:
        if over.passed():
            return False
        select.select([channel.descriptor], [], [], over.left())
    return said.address == address


def end(path: str, why: str, config: Config, log: Log) -> bool:
    """Ends the guest of this journal, if it still waits; whether it did. NodeError."""
    try:
        book = Journal.open(path, Deadline(0))
    except DeadlineError:
        return False
    if book is None:
        return False
    with contextlib.closing(book):
        if book.waits is None:
            return False
        log.line(f"the guest {book.start.unique}, which waited, is ended: {why}")
        return release(book, why, config, log, orphaned=True)


class Spare:
    """Guests that wait, as far as they can make room for a job."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._tried: set[str] = set()

    def claims(self, all_claims: Iterable[Claim]) -> list[Claim]:
        """What they have of the node, among all that has been claimed; first of those that are one user's, who may not come."""
        waiting = {start.token: waits.had for _path, start, waits in journal.waiting() if start.token not in self._tried}
        return sorted((claim for claim in all_claims if claim.token in waiting), key=lambda claim: not waiting[claim.token])

    def end(self, chosen: Claim) -> None:
        """Ends one of them; tries it once."""
        self._tried.add(chosen.token)
        for path, start, _waits in journal.waiting():
            if start.token == chosen.token:
                with contextlib.suppress(NodeError):
                    end(path, f"a job needs its room, {chosen}", self._config, self._log)


def want() -> None:
    """Has the node's service see to it that guests wait; what cannot be told now, its timer sees."""
    with contextlib.suppress(OSError, NodeError):
        file.make_state_directory(DIRECTORY, 0o700)
        os.close(os.open(os.path.join(DIRECTORY, "wanted"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
