"""A job's start, end, and what is left of others: the only module that orders effects."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from . import boot, digest, facts, journal, sshargs, template, wanted
from .batch.system import Call, Refusal, System
from .config import Config
from .errors import DeadlineError, EndedError, NodeError, SiteError, VmBatchError
from .exchange.address import look as reservations
from .exchange.address import stale
from .exchange.meeting import Meeting
from .exchange.member import Member, forget_note, leave_note
from .exchange.member import look as entries
from .exchange.member import stale as unread
from .format import FormatError
from .grant import grant, template_name
from .handover import Handover, Mark, ScriptMark
from .host import clock, console, file, process, virt
from .host.log import Log, tell_user
from .hypervisor.domain import Domain, forgotten
from .image import store
from .job import Job, Leader, Script, is_of_node, slug
from .journal import Journal, Start
from .plan import Plan, check_user, member, plan
from .registry import ASK, BATCH
from .resource import Piece, Resource, Work
from .spool import directory
from .spool.directory import Directory
from .units import Deadline

_END_PATIENCE_SECONDS = 10.0
_OLD_END_SECONDS = 3600.0
_PAUSE_SECONDS = 0.1
_FORGOTTEN_SECONDS = 900.0
"""How long an epilogue may be late: mom restarted within seconds of a job's start has forgotten it, and never runs one."""


def prologue(system: System, call: Call, config: Config, log: Log, site: Callable[[], None] | None,
             met: Callable[[], None] = lambda: None) -> None:
    """Brings the job's guest up and hands it over, or leaves nothing behind; `site` runs the site's own hook. VmBatchError.

    On a job's sister node `met` is called once the first node can see that there is this start.
    """
    begin = time.monotonic()
    alarm = system.alarm(call, config)
    deadline = _deadline(alarm, config)
    job, form = read(system, call, clock.new_token(), config)
    check_user(job, config)
    granted = grant(job, form, config)
    wishes = facts.choose(form, job.wishes, config)
    make_places(config, form)
    if any(interface.pools for interface in form.interfaces):
        file.make_state_directory(config.reservations, 0o700)
    entry = member(job, config, os.uname().nodename, alarm)
    if entry is not None:
        file.make_state_directory(config.meeting, 0o700)
        if job.rank:  # nobody kills it, and the first node, which gives up in time, begins later
            deadline = Deadline(2 * alarm)
    start = Start(job.id, job.token, job.user.name, job.queue, job.script, clock.this_process(), time.time(), system.name,
                  granted.keep, job.leader)
    process.watch(lambda: journal.check_not_ended(start))
    sweep_journals(config, log, dry_run=False)
    book = _take(start, deadline, config, log)
    over = wanted.ask(system, call, start, config, log)
    gathered = facts.Gathered()
    meeting = None if entry is None else Meeting(entry)
    work = Work(deadline, lambda: _check(start, meeting), log.detail)
    process.watch(work.alive)
    try:
        if entry is not None:
            book.promise(entry)
            entry.acquire()
            met()
        if site is not None:
            with log.phase("site hook"):
                site()
        with log.phase("images"):
            known = facts.gather(form, wishes, job, config, gathered, work)
        chosen = plan(job, form, config, known, entry)
        for note in chosen.notes:
            log.line(note)
        with _console_of_failure(chosen, config, log):
            _make(chosen, book, work, log, gathered)
            gathered.close()
            address, terminal = boot.bring_up(chosen, start, config, log, deadline, meeting)
            if meeting is not None and not job.rank:
                with log.phase("sisters"):
                    meeting.wait_ready(work)
                    meeting.ready()
            _hand_over(chosen, book, address, terminal, call.environ, x11=config.guest_display)
            if meeting is not None and job.rank:
                meeting.ready()
                with log.phase("first node"):
                    meeting.wait_ready(work)
    except BaseException as error:
        if meeting is not None and job.rank:
            excuse(job.id, job.token, error, config)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        process.watch(None)
        booted = any(isinstance(owned, Domain) for owned in book.resources)
        if not (booted and isinstance(error, VmBatchError) and not isinstance(error, EndedError)
                and _keep(book, f"it could not start: {error}", config, log, orphaned=False)):
            _release(book, config, log, orphaned=False)
        raise
    finally:
        over.set()
        gathered.close()
        book.close()
    seconds = time.monotonic() - begin
    log.line(f"guest {chosen.domain.name} of {job.user.name} is ready at {address or terminal} after {seconds:.3f} s")


def _check(start: Start, meeting: Meeting | None) -> None:
    """Whether this start is still wanted, here and at the job's other nodes. VmBatchError."""
    journal.check_not_ended(start)
    if meeting is not None:
        meeting.check()


def excuse(job_id: str, token: str, error: BaseException, config: Config) -> None:
    """Tells the first node of a job why its sister failed, where that is not the first node's own doing."""
    if not isinstance(error, EndedError):
        cause = error if isinstance(error, VmBatchError) else NodeError("a defect in VmBatch; the node's log has the details")
        leave_note(config.meeting, job_id, os.uname().nodename, token, cause)


def _deadline(alarm: float, config: Config) -> Deadline:
    """Until when a start may go on, so that it can be undone before mom kills it. SiteError."""
    if alarm <= config.timeouts_margin:
        kept = f"[timeouts] margin keeps {config.timeouts_margin:.0f} s of that"
        raise SiteError(f"mom kills a prologue after {alarm:.0f} s, and {kept}",
                        "raise $prologalarm in mom's config, or lower margin in vmbatch.conf")
    return Deadline(alarm - config.timeouts_margin)


def read(system: System, call: Call, token: str, config: Config) -> tuple[Job, template.Template]:
    """The job and its template. VmBatchError."""
    job = _asked(system, call, system.parse(call, token, None), config)
    path = config.template_path(job.queue, template_name(job, config))
    if path is None:
        raise SiteError(f"queue {job.queue} has no template", "see [queues] in vmbatch.conf")
    form = template.parse(file.read_trusted(path), path)
    if job.script is None and form.job_directory is not None:
        job = msgspec.structs.replace(job, script=system.parse(call, token, form.job_directory).script)
    return job, form


def _asked(system: System, call: Call, job: Job, config: Config) -> Job:
    ask = ASK.get(system.name)
    return job if ask is None else ask(call, job, config)


def make_places(config: Config, form: template.Template) -> None:
    """The directories in which jobs get theirs. NodeError."""
    journal.make_directories()
    for place, mode in ((config.spool_directory, 0o711), (sshargs.HANDOVER, 0o711)):
        file.make_state_directory(place, mode)
    if form.messages != "SHARE":
        return
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


def _make(chosen: Plan, book: Journal, work: Work, log: Log, gathered: facts.Gathered) -> None:
    """Everything in the plan, each thing promised before it is made."""
    for phase in chosen.phases:
        with log.phase(phase.name):
            for step in phase.steps:
                work.alive()
                _act(step, book, work)
        if phase is chosen.phases[0]:
            gathered.chosen()


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


def _hand_over(chosen: Plan, book: Journal, address: str, terminal: str, environ: Mapping[str, str], *, x11: bool) -> None:
    """Lets the job run: the record is the last thing that is made."""
    job = chosen.job
    record = Handover(
        job=job.id, token=job.token, user=job.user.name, uid=job.user.uid, address=address, alias=chosen.alias, console=terminal,
        template=chosen.template, node_file=job.node_file is not None, x11=x11,
        script=_script_mark(job.script), leader=_mark(job.leader),
        environment={name: digest.of_text(value) for name, value in environ.items()},
    )
    journal.check_not_ended(book.start)
    book.hand_over()
    for owned in book.resources:
        owned.hand_over()
    file.replace(os.path.join(chosen.handover, "record"), record.encode(), 0o440, job.user.group.gid)


def _script_mark(script: Script | None) -> ScriptMark | None:
    return None if script is None else ScriptMark(script.path, script.device, script.inode, script.mtime_ns)


def _mark(leader: Leader | None) -> Mark | None:
    return None if leader is None else Mark(leader.pid, leader.started)


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


def _keep(book: Journal, why: str, config: Config, log: Log, *, orphaned: bool) -> bool:
    """Whether disks and console of a failed job are kept, as it asked; guest, keys and all else are released then."""
    unique = f"{slug(book.start.job)}.{book.start.token}"
    spool = os.path.join(config.spool_directory, unique)
    spared = [owned for owned in book.resources if isinstance(owned, Directory)
              and owned.path in (spool, os.path.join(config.images_directory, "uses", unique))]
    if not book.start.keep or not config.requests_keep or not spared:
        return False
    until = time.time() + book.start.keep
    try:
        book.release(config.timeouts_release * config.timeouts_scale, orphaned=orphaned, spared=spared)
        file.remove_tree(os.path.join(spool, "keys"))
        kept = book.keep(until, why, config.requests_keep)
    except (VmBatchError, OSError) as error:
        log.line(f"nothing of the job is kept: {error}")
        return False
    if kept:
        log.line(f"kept until {clock.for_people(until)}: {spool}; {why}")
        tell_user([f"the guest's disks and console are kept until {clock.for_people(until)}; ask the admins for {spool}"])
    else:
        few = f"{config.requests_keep} other jobs' disks are kept on this node, and no more may be"
        log.line(f"nothing of the job is kept: {few}")
        tell_user([f"vbkeep: nothing is kept: {few}"])
    return kept


def release_kept(job_id: str, config: Config, log: Log) -> list[str]:
    """Releases what is kept of a job; a line for each."""
    said = []
    for path, start, _, _ in journal.kept():
        if start.job != job_id or (book := Journal.open(path, Deadline(_END_PATIENCE_SECONDS))) is None:
            continue
        try:
            done = _release(book, config, log, orphaned=True)
            said.append(f"released what was kept of job {job_id} of {start.user}" if done else
                        f"could not release what is kept of job {job_id}; see {log.path}")
        finally:
            book.close()
    return said


def stop(job_id: str) -> None:
    """Ends every start of the job that began before now, and leaves it to them to release what they own. NodeError."""
    journal.make_directories()
    journal.mark_end(job_id, clock.this_process())


def epilogue(job_id: str, config: Config, log: Log, status: int | None = None, *, sister: bool = False) -> None:
    """Ends every start of the job that began before now, and releases what they own. VmBatchError.

    `status`: how the job ended, if the batch system says it; of one that failed something may be kept.
    """
    if sister:
        forget_note(config.meeting, job_id, os.uname().nodename)
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
        elif status and book.handed_over and _keep(book, f"it ended with status {status}", config, log, orphaned=True):
            pass
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
    node = os.uname().nodename
    things: list[Resource] = [
        found for parent in (config.spool_directory, config.share_directory, sshargs.HANDOVER,
                             *(os.path.join(config.images_directory, name) for name in ("uses", "once")))
        for found in directory.ours(parent) if is_of_node(os.path.basename(found.path), node)
    ]
    reserved = list(reservations(config.reservations))
    met = list(entries(config.meeting, node))
    said = []
    try:
        things[:0] = [Domain(config.libvirt_uri, name, uuid, token, "") for name, uuid, token in virt.ours(config.libvirt_uri)]
        things[:0] = forgotten(config.libvirt_uri, Deadline(config.timeouts_release * config.timeouts_scale))
    except VmBatchError as error:
        said.append(f"cannot see the domains: {error}")
    tokens, found = sweep_journals(config, log, dry_run=dry_run)
    said += found
    gone, left = stale(reserved, node, tokens)
    things += [*gone, *unread(met, tokens)]
    said += left
    for thing in things:
        token = getattr(thing, "token", "")
        if not any(known.startswith(token) for known in tokens if token):
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
        process.alive()
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
            verdict = _judge(book, dry_run=dry_run)
            if verdict.startswith("dead"):
                said.append(f"{'would release' if dry_run else 'released'} job {book.start.job} of {book.start.user}: {verdict}")
                if not dry_run and not _release(book, config, log, orphaned=True):
                    said[-1] = f"could not release job {book.start.job}; see {log.path}"
            elif verdict:
                said.append(f"left alone job {book.start.job} of {book.start.user}: {verdict}")
        finally:
            book.close()
    return tokens, said


def _judge(book: Journal, *, dry_run: bool) -> str:
    """Of an unlocked journal: `dead, ...` if its job cannot run any more, a reason if that is not known, else nothing."""
    if book.kept is not None:
        return "dead, and kept until now" if book.kept.until <= time.time() else ""
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
    gone = system.is_gone(book.start.job, book.start.script)
    if gone is None:
        return "only the batch system knows whether it runs"
    if gone:
        return "dead, the batch system " + ("does not run it" if book.start.script is None else "has taken its script away")
    over = journal.shell_over(book.start, note=not dry_run)
    return "dead, its shell ended long ago, and no epilogue came" if over > _FORGOTTEN_SECONDS else ""


def refuse(system: System, call: Call, to: Refusal, lines: list[str], config: Config, log: Log) -> None:
    """Has the job's shell start and say why the job does not run; the epilogue removes what that takes. VmBatchError."""
    job_id = system.job_id(call)
    journal.make_directories()
    file.make_state_directory(sshargs.HANDOVER, 0o711)
    start = Start(job_id, clock.new_token(), to.user, system.queue(call, "prologue"), to.script, clock.this_process(),
                  time.time(), system.name, leader=to.leader)
    book = _take(start, Deadline(_END_PATIENCE_SECONDS), config, log)
    try:
        place = directory.Directory(os.path.join(sshargs.HANDOVER, slug(job_id)), start.token, 0o711)
        _act(place, book, Work(Deadline(_END_PATIENCE_SECONDS), lambda: None, log.detail))
        book.hand_over()
        text = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        file.replace(os.path.join(place.path, "refusal"), text, 0o440, to.gid)
        if to.script is not None:
            proof = Handover(
                job=job_id, token=start.token, user=to.user, uid=to.uid, address="", alias="", console="", template="",
                node_file=False, script=_script_mark(to.script), leader=_mark(to.leader), environment={})
            file.replace(os.path.join(place.path, "record"), proof.encode(), 0o440, to.gid)
        journal.check_not_ended(start)
    except BaseException:
        _release(book, config, log, orphaned=False)
        raise
    finally:
        book.close()
    log.line("the job's shell tells the user why the job does not run")


def pause(job_id: str, seconds: float) -> None:
    """Waits, unless the job is ended meanwhile."""
    me, over = clock.this_process(), Deadline(seconds)
    while not over.passed() and not journal.is_ended(job_id, me):
        time.sleep(min(_PAUSE_SECONDS, over.left()))


def end_lines(error: VmBatchError, job_id: str, outcome: str) -> list[str]:
    """What the user is told of a start that failed, and of what becomes of the job."""
    if isinstance(error, EndedError):
        return error.lines()
    first, *rest = error.lines()
    return [f"job {slug(job_id)} could not start: {first}", *rest, *([outcome] if outcome else [])]
