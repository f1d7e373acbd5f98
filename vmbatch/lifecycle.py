"""A job's start, end, and what is left of others: the only module that orders effects."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from . import digest, facts, journal, sshargs, template
from .batch import torque
from .config import Config
from .errors import DeadlineError, EndedError, NodeError, SiteError, VmBatchError
from .exchange.inbox import Inbox
from .format import FormatError
from .guest import Handover, Message
from .host import clock, console, file, process, ssh, virt
from .host.log import Log
from .host.watch import Watch
from .image import store
from .job import Job, slug
from .journal import Journal, Start
from .plan import Plan, check_user, plan
from .resource import Piece, Resource, Work
from .spool import directory
from .units import Deadline

if TYPE_CHECKING:
    import subprocess

T = TypeVar("T")
_LOOK_SECONDS = 1.0
_CHECK_SECONDS = 0.02
_POLL_SECONDS = 0.1
_LOGIN_PAUSE_SECONDS = 0.3
_END_PATIENCE_SECONDS = 10.0
_OLD_END_SECONDS = 3600.0


class Call(msgspec.Struct, frozen=True):
    """How a hook was called; `site` runs the site's own hook, and is None where there is none."""

    argv: list[str]
    environ: dict[str, str]
    mom_directory: str
    site: Callable[[], None] | None


def prologue(call: Call, config: Config, log: Log) -> None:
    """Brings the job's guest up and hands it over, or leaves nothing behind. VmBatchError."""
    begin = time.monotonic()
    deadline = _deadline(torque.alarm(call.mom_directory), config)
    job, form = read(call.argv, call.environ, clock.new_token(), config)
    check_user(job, config)
    wishes = facts.choose(form, job.wishes, config)
    make_places(config)
    start = Start(job.id, job.token, job.user.name, job.queue, job.script, clock.this_process(), time.time())
    sweep_journals(config, log, dry_run=False)
    book = _take(start, deadline, config, log)
    gathered = facts.Gathered()
    work = Work(deadline, lambda: journal.check_not_ended(start), log.detail)
    try:
        if call.site is not None:
            with log.phase("site hook"):
                call.site()
        with log.phase("images"):
            known = facts.gather(form, wishes, job.user, config, gathered, work)
        chosen = plan(job, form, config, known)
        for note in chosen.notes:
            log.line(note)
        with _console_of_failure(chosen, config, log):
            _make(chosen, book, work, log)
            gathered.close()
            address = _boot(chosen, start, config, log, deadline)
            _hand_over(chosen, book, address, call.environ)
    except BaseException:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        _release(book, config, log, orphaned=False)
        raise
    finally:
        gathered.close()
        book.close()
    log.line(f"guest {chosen.domain.name} of {job.user.name} is ready at {address} after {time.monotonic() - begin:.3f} s")


def _deadline(alarm: float, config: Config) -> Deadline:
    """Until when a start may go on, so that it can be undone before mom kills it. SiteError."""
    if alarm <= config.timeouts_margin:
        kept = f"[timeouts] margin keeps {config.timeouts_margin:.0f} s of that"
        raise SiteError(f"mom kills a prologue after {alarm:.0f} s, and {kept}",
                        "raise $prologalarm in mom's config, or lower margin in vmbatch.conf")
    return Deadline(alarm - config.timeouts_margin)


def read(argv: list[str], environ: dict[str, str], token: str, config: Config) -> tuple[Job, template.Template]:
    """The job and its template. VmBatchError."""
    path = config.template_path(torque.prologue_queue(argv))
    if path is None:
        raise SiteError(f"queue {torque.prologue_queue(argv)} has no template", "see [queues] in vmbatch.conf")
    form = template.parse(file.read_trusted(path), path)
    return torque.parse_prologue(argv, environ, token, form.job_directory), form


def make_places(config: Config) -> None:
    """The directories in which jobs get theirs. NodeError."""
    journal.make_directories()
    for place, mode in ((config.spool_directory, 0o711), (sshargs.HANDOVER, 0o711)):
        file.make_state_directory(place, mode)
    try:
        share = os.stat(config.share_directory)
    except OSError as error:
        raise NodeError(f"the share {config.share_directory}: {error.strerror}", "mount it, or set [share] directory") from None
    if share.st_uid != 0 or share.st_mode & 0o066:
        raise SiteError(f"the share {config.share_directory} must be root's and show no guest the names of others' directories",
                        f"chown root {config.share_directory}; chmod 711 {config.share_directory}")


def _take(start: Start, deadline: Deadline, config: Config, log: Log) -> Journal:
    """This start's journal; an earlier start of the same job is ended first. EndedError for a later one, DeadlineError."""
    while (book := Journal.create(start)) is None:
        known = journal.peek(journal.path_of(start.job))
        if known is not None:
            _check_earlier(known[0], start)
        journal.mark_end(start.job, start.owner)
        log.line("an earlier start of this job is being ended")
        earlier = Journal.open(journal.path_of(start.job), deadline)
        if earlier is not None:
            try:
                _check_earlier(earlier.start, start)
                earlier.release(config.timeouts_release * config.timeouts_scale)
            finally:
                earlier.close()
    return book


def _check_earlier(other: Start, start: Start) -> None:
    """EndedError if the other start of the job began after this one, and thereby ended it."""
    if other.owner.boot == start.owner.boot and other.owner.started > start.owner.started:
        raise EndedError(f"job {start.job} was started again by the batch system, and this start is over")


def _make(chosen: Plan, book: Journal, work: Work, log: Log) -> None:
    """Everything in the plan, each thing promised before it is made."""
    for phase in chosen.phases:
        with log.phase(phase.name):
            for step in phase.steps:
                work.alive()
                _act(step, book, work)


def _act(step: Resource | Piece, book: Journal, work: Work) -> None:
    try:
        if isinstance(step, Resource):
            book.promise(step)
            step.acquire()
        else:
            step.make(work)
    except OSError as error:
        raise NodeError(f"{step}: {error.strerror or error}") from None
    except FormatError as error:
        raise SiteError(f"{step}: the image {error.what}", error.hint) from None


class _Wait:
    """Waiting for a guest: woken by its messages, by libvirt, by the end of the job; never beyond the deadline."""

    def __init__(self, chosen: Plan, start: Start, config: Config, deadline: Deadline) -> None:
        self.chosen = chosen
        self.start = start
        self.seconds = min(config.timeouts_boot * config.timeouts_scale, deadline.left())
        self.deadline = deadline.earlier(self.seconds)
        self.next_check = 0.0
        self.interval = _LOOK_SECONDS if config.share_local else _POLL_SECONDS
        self.inbox = Inbox(chosen.inbox, chosen.job.token, local=config.share_local)
        self.watch = Watch()
        self.watch.directory(journal.ended_directory())
        self.watch.directory(chosen.inbox)
        virt.on_event(chosen.domain.uri, self.watch.wake)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """The first thing that `look` finds. VmBatchError if that cannot come any more."""
        while True:
            found = look()
            if found is not None:
                return found
            pause = self.next_check - time.monotonic()
            if pause <= 0:
                self.check(what)
                self.next_check = time.monotonic() + _CHECK_SECONDS
                pause = self.interval
            self.watch.wait(min(pause, self.deadline.left()))

    def check(self, what: str) -> None:
        """Whether it is still worth waiting."""
        journal.check_not_ended(self.start)
        failed = self.inbox.read("failed")
        if failed is not None:
            raise SiteError(f"the guest could not prepare itself for the job: {failed.text}")
        state = virt.state(self.chosen.domain.uri, self.chosen.domain.uuid)
        panic = console.panic(self.chosen.console)
        if panic is not None:
            raise SiteError(f"the guest's kernel died before the guest was ready ({what}): {panic}")
        if state not in ("running", None):
            raise SiteError(f"the guest ended before it was ready ({what}): its domain is {state}")
        if self.deadline.passed():
            raise DeadlineError(f"the guest was not ready within {self.seconds:.0f} s ({what})",
                                "more time: [timeouts] boot, and $prologalarm in mom's config")

    def message(self, kind: str, what: str) -> Message:
        """The guest's message of this kind."""
        return self.until(lambda: self.inbox.read(kind), what)

    def pause(self, seconds: float, what: str) -> None:
        """Waits for nothing but time."""
        over = Deadline(seconds)
        while not over.passed():
            self.check(what)
            self.watch.wait(over.left())

    def close(self) -> None:
        """Gives all descriptors back."""
        self.watch.close()
        self.inbox.close()


def _boot(chosen: Plan, start: Start, config: Config, log: Log, deadline: Deadline) -> str:
    """Waits until the guest is ready and its user has been seen to log in; the guest's address."""
    wait = _Wait(chosen, start, config, deadline)
    try:
        with log.phase("boot"):
            announced = wait.message("announce", "phase boot: it has not announced its address on the share")
        with log.phase("login"):
            _log_in(wait, announced.address, log)
        with log.phase("ready"):
            ready = wait.message("ready", "phase ready: it has announced itself, but has not written its ready file")
    finally:
        wait.close()
    if ready.address != announced.address:
        raise NodeError(f"the guest announced {announced.address}, but is ready at {ready.address}")
    return ready.address


def _log_in(wait: _Wait, address: str, log: Log) -> None:
    """Tries until the submitting user can log in."""
    chosen = wait.chosen
    said = "no answer yet"
    while True:
        attempt = ssh.prove_login(chosen.handover, chosen.job.user, address, chosen.alias)
        handle = os.pidfd_open(attempt.pid)
        wait.watch.descriptor(handle)
        try:
            status = wait.until(attempt.poll, f"phase login: {chosen.job.user.name} cannot log in at {address}: {said}")
            said = console.printable_tail(_output(attempt), 1) or f"ssh ended with {status}"
        finally:
            wait.watch.forget(handle)
            os.close(handle)
            process.end(attempt)
        if status == 0:
            return
        log.detail(f"login at {address}: {said}")
        wait.pause(_LOGIN_PAUSE_SECONDS, f"phase login: {chosen.job.user.name} cannot log in at {address}: {said}")


def _output(attempt: "subprocess.Popen[bytes]") -> bytes:
    """What a process of the user's has said; never waits, as another process of the user may hold the pipe open."""
    if attempt.stdout is None:
        return b""
    os.set_blocking(attempt.stdout.fileno(), False)
    try:
        return os.read(attempt.stdout.fileno(), 4096)
    except BlockingIOError:
        return b""


def _hand_over(chosen: Plan, book: Journal, address: str, environ: dict[str, str]) -> None:
    """Lets the job run: the record is the last thing that is made."""
    job = chosen.job
    record = Handover(
        job=job.id, token=job.token, user=job.user.name, uid=job.user.uid, address=address, alias=chosen.alias,
        template=chosen.template, script=job.script, node_file=job.node_file is not None,
        environment={name: digest.of_text(value) for name, value in environ.items()},
    )
    journal.check_not_ended(book.start)
    book.hand_over()
    for owned in book.resources:
        owned.hand_over()
    file.replace(os.path.join(chosen.handover, "record"), msgspec.json.encode(record), 0o440, job.user.group.gid)


@contextmanager
def _console_of_failure(chosen: Plan, config: Config, log: Log) -> Iterator[None]:
    """Adds the last lines of the guest's console to an error, and keeps more of it in the job's log."""
    try:
        yield
    except VmBatchError as error:
        text = console.read_tail(chosen.console)
        for line in console.printable_lines(text):
            log.detail(f"console: {line}")
        shown = console.printable_lines(text)[-config.guest_console_lines:] if config.guest_console_lines else []
        if shown:
            error.detail = (*error.detail, "the guest's console ended with:", *(f"  {line}" for line in shown))
        raise


def _release(book: Journal, config: Config, log: Log, *, orphaned: bool) -> bool:
    """Releases all that a journal lists; what cannot be released now stays listed."""
    try:
        with log.phase("release"):
            book.release(config.timeouts_release * config.timeouts_scale, orphaned=orphaned)
        return True
    except (VmBatchError, OSError) as error:
        log.line(f"could not release everything: {error}; the epilogue or the sweep will try again")
        return False


def epilogue(job_id: str, config: Config, log: Log) -> None:
    """Ends every start of the job that began before now, and releases what they own. VmBatchError."""
    me = clock.this_process()
    path = journal.path_of(job_id)
    patience = _END_PATIENCE_SECONDS * config.timeouts_scale
    journal.make_directories()
    journal.mark_end(job_id, me)
    try:
        book = Journal.open(path, Deadline(patience))
    except DeadlineError:
        book = _open_by_force(path, patience, log)
    if book is None:
        log.detail("nothing to release")
        return
    try:
        owner = book.start.owner
        if owner.boot == me.boot and owner.started > me.started:
            log.line("a later start of this job is left alone")
        elif not _release(book, config, log, orphaned=True):
            raise NodeError(f"not everything of job {job_id} could be removed", f"see {log.path}; vmbatch sweep tries again")
    finally:
        book.close()


def _open_by_force(path: str, patience: float, log: Log) -> Journal | None:
    """The journal of a prologue that hangs: it is killed. DeadlineError if something still holds the lock."""
    known = journal.peek(path)
    if known is not None:
        owner = known[0].owner
        log.line(f"the prologue {owner.pid} does not end; killing it")
        if owner.boot == clock.boot_id():
            process.kill(owner.pid, owner.started)
    return Journal.open(path, Deadline(patience))


def sweep(config: Config, log: Log, *, dry_run: bool) -> list[str]:
    """Releases what no living job owns; a line for each thing found, and for each that could not be judged."""
    things: list[Resource] = [
        found for parent in (config.spool_directory, config.share_directory, sshargs.HANDOVER,
                             *(os.path.join(config.images_directory, name) for name in ("uses", "once")))
        for found in directory.ours(parent)
    ]
    from .hypervisor.domain import Domain

    said = []
    try:
        things[:0] = [Domain(config.libvirt_uri, name, uuid, token, "") for name, uuid, token in virt.ours(config.libvirt_uri)]
    except VmBatchError as error:
        said.append(f"cannot see the domains: {error}")
    tokens, found = sweep_journals(config, log, dry_run=dry_run)
    said += found
    for thing in things:
        if getattr(thing, "token", None) not in tokens:
            said.append(_remove(thing, config, dry_run=dry_run))
    if not dry_run:
        journal.forget_old_ends(_OLD_END_SECONDS)
        for part in store.parts(config.images_directory):
            said += part.tidy()
    return said


def _remove(thing: Resource, config: Config, *, dry_run: bool) -> str:
    if dry_run:
        return f"would remove {thing}: no journal lists it"
    try:
        thing.release(Deadline(config.timeouts_release * config.timeouts_scale), last=False)
    except (VmBatchError, OSError) as error:
        return f"could not remove {thing}: {error}"
    return f"removed {thing}: no journal lists it"


def sweep_journals(config: Config, log: Log, *, dry_run: bool) -> tuple[set[str], list[str]]:
    """Releases the journals of dead starts; (tokens of all journals there were, a line for each found)."""
    tokens: set[str] = set()
    said: list[str] = []
    for path in journal.paths():
        try:
            known = journal.peek(path)
            if known is None:
                continue
            tokens.add(known[0].token)
            book = Journal.open(path, Deadline(0))
        except DeadlineError:
            continue
        except VmBatchError as error:
            said.append(f"left alone {path}: {error}")
            continue
        if book is None:
            continue
        try:
            verdict = _judge(book)
            if verdict.startswith("dead"):
                said.append(f"{'would release' if dry_run else 'released'} job {book.start.job} of {book.start.user}: {verdict}")
                if not dry_run and not _release(book, config, log, orphaned=True):
                    said[-1] = f"could not release job {book.start.job}; see {log.path}"
            elif verdict:
                said.append(f"left alone job {book.start.job} of {book.start.user}: {verdict}")
        finally:
            book.close()
    return tokens, said


def _judge(book: Journal) -> str:
    """Of an unlocked journal: `dead, ...` if its job cannot run any more, a reason if that is not known, else nothing."""
    if not book.handed_over:
        return "dead, its prologue ended before the guest was ready"
    if book.start.owner.boot != clock.boot_id():
        return "dead, the node was booted since"
    if book.start.script is None:
        return "an interactive job; only the batch system knows whether it runs"
    return "dead, the batch system has taken its script away" if torque.is_gone(book.start.script) else ""


def end_lines(error: VmBatchError, job_id: str) -> list[str]:
    """What the user is told of a start that failed."""
    if isinstance(error, EndedError):
        return error.lines()
    outcome = "the job is aborted" if torque.exit_status(error.fault) == torque.ABORT else "the job goes back into its queue"
    first, *rest = error.lines()
    return [f"job {slug(job_id)} could not start: {first}", *rest, outcome]
