"""A job's start: with `ending` the only module that orders effects."""

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import msgspec

from . import (
    admission,
    boot,
    claim,
    digest,
    drain,
    endmarker,
    facts,
    history,
    journal,
    pool,
    sshargs,
    status,
    sweep,
    template,
    trace,
    wanted,
)
from .batch.system import Call, Refusal, System
from .config import Config
from .errors import DeadlineError, EndedError, NodeError, SiteError, TakenError, VmBatchError
from .exchange import address as addresses
from .exchange.meeting import Meeting
from .exchange.member import leave_note
from .format import FormatError
from .grant import Grant, grant, template_name
from .guest import Way
from .handover import Handover, Mark, ScriptMark
from .host import clock, console, distant, file, interrupt, process, virt
from .host.log import Log
from .hypervisor.domain import Domain
from .job import Job, Leader, Script, slug
from .journal import Journal
from .phase import RUN
from .plan import Plan, check_user, member, plan
from .record import Start
from .registry import ASK
from .release import conclude, has_guest, keep, release
from .resource import Piece, Resource, SlowResource, Work
from .spool import directory
from .status import Board, Status, failure_of, utf8
from .units import Deadline

T = TypeVar("T")
_END_PATIENCE_SECONDS = 10.0
_SWEEP_SECONDS = 10.0
"""Of a start's time for what dead jobs have left: the sweep goes on by its timer."""
_PAUSE_SECONDS = 0.1


def prologue(system: System, call: Call, config: Config, log: Log, site: Callable[[], None] | None,
             met: Callable[[], None] = lambda: None) -> None:
    """Brings the job's guest up and hands it over, or leaves nothing behind; `site` runs the site's own hook. VmBatchError.

    On a job's sister node `met` is called once the first node can see that there is this start.
    """
    begin = time.monotonic()
    alarm = system.alarm(call, config)
    deadline = _deadline(alarm, config)
    with _refusals(system, call, config, log):
        job, form = read(system, call, clock.new_token(), config, log)
        check_user(job, config)
        drain.check()
        granted = grant(job, form, config)
        wishes = facts.choose(form, job.wishes, config)
        make_places(config, form)
        entry = member(job, config, os.uname().nodename, alarm)
        if entry is not None:
            _make_distant(config.meeting)
            if job.rank:  # nobody kills it, and the first node, which gives up in time, begins later
                deadline = Deadline(2 * alarm)
        start = Start(job.id, job.token, job.user.name, job.queue, job.script, clock.this_process(), time.time(), system.name,
                      granted.keep, job.leader, uid=job.user.uid)
        process.watch(lambda: _check(start, None))
        here = admission.room(config)
        claimed = admission.claim(job, form, granted, config, start.owner)
        admission.check(claimed, granted, here)
        others = Log(config.log_directory, sweep.LOG, "prologue")
        sweep.journals(config, others, dry_run=False, kept=False, patience=deadline.earlier(_SWEEP_SECONDS))
        waited = None if form.pool is None else _from_pool(job, form, granted, config, log, alone=entry is None)
        if waited is not None:
            job, start = waited.job(job), waited.start(start)
        book = _take(start, deadline, config, log, waited)
    board = Board.new(_status(job, form, granted, start), log.detail)
    log.tell(board.step)
    over = wanted.ask(system, call, start, config, log)
    gathered = facts.Gathered()
    meeting = None if entry is None else Meeting(entry)
    work = Work(deadline, lambda: _check(start, meeting), log.detail)
    process.watch(work.alive, deadline)
    try:
        if entry is not None:
            book.promise(entry)
            entry.acquire()
            book.acted()
            met()
        if waited is None:
            with log.phase("admission"):
                work.alive()
                act(claimed, book, work)
                admission.enter(claimed, here, config, work, pool.Spare(config, others))
        if site is not None:
            with log.phase("site hook"):
                site()
        suspects = " ".join([form.path, *(place for own in wishes.values() for place in own.places)])
        if waited is not None:
            known = waited.known
        else:
            with log.phase("images"), _suspected(suspects):
                known = facts.gather(form, wishes, job, config, gathered, work)
                if form.resume:
                    from . import resume

                    known = resume.seek(known, form, granted, config, gathered.hold)
        with _suspected(suspects if wishes else ""):
            chosen = plan(job, form, config, known, entry)
        for note in chosen.notes:
            log.line(note)
        board.learn(guest=chosen.domain.name)
        if waited is None:
            with log.phase("turn"):
                if entry is None:
                    admission.begin(claimed, config, work)
                else:
                    admission.begin_at_once(claimed)
        else:
            trace.write(config.log_trace, _taken(chosen, start))
        with console_of_failure(chosen.console, config, log):
            with _suspected(suspects if wishes else ""):
                chosen = reserve(chosen, lambda: plan(
                    job, form, config, facts.addressed(known, form, job.token, config), entry), book, work, log)
                make(chosen, book, work, config, log)
            _show_console(chosen, log)
            gathered.close()
            with _suspected(suspects), _distrusted(chosen, log):
                way = boot.bring_up(chosen, start, config, log, deadline, meeting, None if waited is None else waited.channel,
                                    act=lambda made: act(made, book, work))
            if chosen.recorded:
                _show_console(chosen, log)
            trace.write(config.log_trace, trace.Ready(time.time(), job.token, job.id, way.address))
            if meeting is not None and not job.rank:
                with log.phase("sisters"):
                    meeting.wait_ready(work)
                    meeting.ready()
            board.learn(address=way.address)
            if not job.rank:
                board.step(RUN)
            _hand_over(chosen, book, way, call.environ, x11=config.guest_display)
            if meeting is not None and job.rank:
                meeting.ready()
                with log.phase("first node"):
                    meeting.wait_ready(work)
                board.step(RUN)
    except BaseException as error:
        if meeting is not None and job.rank:
            excuse(job.id, job.token, error, config)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        process.watch(None)
        interrupted = isinstance(error, KeyboardInterrupt)
        board.failed(error, cancelled=interrupted or isinstance(error, EndedError))
        why = "it was interrupted" if interrupted else f"it could not start: {error}"
        if not (has_guest(book) and isinstance(error, VmBatchError) and not isinstance(error, EndedError)
                and keep(book, why, config, log, orphaned=False)):
            release(book, why, config, log, orphaned=False)
        raise
    finally:
        over.set()
        gathered.close()
        book.close()
        if waited is not None:
            waited.channel.close()
        if form.pool is not None:
            pool.want()
    seconds = time.monotonic() - begin
    log.line(f"guest {chosen.domain.name} of {job.user.name} is ready at {way} after {seconds:.3f} s")


def _status(job: Job, form: template.Template, granted: Grant, start: Start) -> Status:
    """What is known of a start when it has its journal."""
    cores, memory = admission.size(form, granted)
    queued = None if job.queued is None else round(max(0.0, start.time - job.queued), 3)
    return Status(
        job=job.id, token=job.token, user=job.user.name, uid=job.user.uid, queue=job.queue, batch=job.batch,
        node=os.uname().nodename, template=form.path, cores=cores, memory=memory, started=start.time, queued=queued,
        owner=start.owner, steps=status.begin(), pooled=job.pooled)


@contextmanager
def _refusals(system: System, call: Call, config: Config, log: Log) -> Iterator[None]:
    """A start that fails before it has a journal is in the history, too."""
    began = time.time()
    try:
        yield
    except EndedError:
        raise
    except VmBatchError as error:
        job_id = system.job_id(call)
        record = history.Record(
            job=job_id, token=clock.new_token(), user="", queue=utf8(system.queue(call, "prologue")), batch=system.name,
            node=os.uname().nodename, started=began, ended=time.time(), outcome=history.FAILED,
            provisioning=round(max(0.0, time.time() - began), 3), why=utf8(f"it could not start: {error}"),
            failure=failure_of(error))
        try:
            history.write(config.log_history, record)
        except NodeError as trouble:
            log.line(str(trouble))
        raise


def _check(start: Start, meeting: Meeting | None) -> None:
    """Whether this start is still wanted, here and at the job's other nodes. VmBatchError, KeyboardInterrupt."""
    interrupt.check()
    endmarker.check_not_ended(start)
    if meeting is not None:
        meeting.check()


def excuse(job_id: str, token: str, error: BaseException, config: Config) -> None:
    """Tells the first node of a job why its sister failed, where that is not the first node's own doing."""
    if not isinstance(error, EndedError):
        cause = error if isinstance(error, VmBatchError) else NodeError("a defect in VmBatch; the node's log has the details",
                                                                        code="VB912")
        leave_note(config.meeting, job_id, os.uname().nodename, token, cause)


def _deadline(alarm: float, config: Config) -> Deadline:
    """Until when a start may go on, so that it can be undone before mom kills it. SiteError."""
    if alarm <= config.timeouts_margin:
        kept = f"[timeouts] margin keeps {config.timeouts_margin:.0f} s of that"
        raise SiteError(f"mom kills a prologue after {alarm:.0f} s, and {kept}",
                        "raise $prologalarm in mom's config, or lower margin in vmbatch.conf", code="VB903")
    return Deadline(alarm - config.timeouts_margin)


def read(system: System, call: Call, token: str, config: Config, log: Log) -> tuple[Job, template.Template]:
    """The job, whose user can read its log from now on, and its template. VmBatchError."""
    job = system.parse(call, token, None)
    log.show_to(job.user.uid)
    job = _asked(system, call, job, config)
    path = config.template_path(job.queue, template_name(job, config))
    if path is None:
        raise SiteError(f"queue {job.queue} has no template", "see [queues] in vmbatch.conf", code="VB102")
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
    for place, mode in ((config.spool_directory, 0o711), (sshargs.HANDOVER, 0o711), (claim.DIRECTORY, 0o700)):
        file.make_state_directory(place, mode)
    if form.messages == "SHARE":
        _check_share(config)
    if any(interface.pools for interface in form.interfaces):
        _make_distant(config.reservations)
    if any(interface.network and not interface.pools for interface in form.interfaces):
        file.make_state_directory(addresses.HERE, 0o700)


def _check_share(config: Config) -> None:
    try:
        owner, mode = distant.call(config.share_directory, lambda: _access(config.share_directory), tuple[int, int])
    except OSError as error:
        raise NodeError(f"the share {config.share_directory}: {error.strerror}", "mount it, or set [share] directory",
                        code="VB606") from None
    if owner != 0 or mode & 0o066:
        raise SiteError(f"the share {config.share_directory} must be root's and show no guest the names of others' directories",
                        f"chown root {config.share_directory}; chmod 711 {config.share_directory}", code="VB605")


def _access(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_uid, status.st_mode


def _make_distant(path: str) -> None:
    """A directory that nodes may share. NodeError."""
    distant.call(os.path.dirname(path), lambda: file.make_state_directory(path, 0o700))


def _from_pool(job: Job, form: template.Template, granted: Grant, config: Config, log: Log, *, alone: bool) -> pool.Taken | None:
    """A guest for the job that waits, unless it has guests on other nodes, too. VmBatchError."""
    if not alone:
        log.line("no guest that waits is taken: the job has guests on other nodes, which its own must know from the start")
        return None
    with log.phase("take"):
        return pool.take(job, form, granted, config, log)


def _take(start: Start, deadline: Deadline, config: Config, log: Log, waited: pool.Taken | None = None) -> Journal:
    """This start's journal, of the guest that `waited` if there is one; an earlier start of the same job is ended first.

    EndedError for a later one, DeadlineError.
    """
    create = Journal.create if waited is None else waited.book.become
    try:
        return _first(start, deadline, config, log, functools.partial(create, start))
    except BaseException:
        if waited is not None:
            waited.give_up(config, log)
        raise


def _first(start: Start, deadline: Deadline, config: Config, log: Log, create: Callable[[], Journal | None]) -> Journal:
    """As `_take`; the journal is what `create` makes of it."""
    while (book := create()) is None:
        known = journal.peek(journal.path_of(start.job))
        if known is not None:
            _check_earlier(known[0], start)
        endmarker.mark(start.job, start.owner)
        log.line("an earlier start of this job is being ended")
        earlier = Journal.open(journal.path_of(start.job), deadline)
        if earlier is not None:
            try:
                _check_earlier(earlier.start, start)
                earlier.release(config.timeouts_release * config.timeouts_scale, released=functools.partial(
                    conclude, earlier, "another start of the job took its place", None, config, log))
            finally:
                earlier.close()
    return book


def _check_earlier(other: Start, start: Start) -> None:
    """EndedError if the other start of the job began after this one, and thereby ended it."""
    if other.owner.boot == start.owner.boot and other.owner.started > start.owner.started:
        raise EndedError(f"job {start.job} was started again by the batch system, and this start is over")


def reserve(chosen: Plan, again: Callable[[], Plan], book: Journal, work: Work, log: Log) -> Plan:
    """The plan, or where others were quicker `again` another one, once its addresses are this start's. VmBatchError."""
    while chosen.reservations:
        try:
            with log.phase("addresses"):
                for step in chosen.reservations:
                    work.alive()
                    act(step, book, work)
            break
        except TakenError as error:
            if work.deadline.passed():
                raise
            log.detail(f"{error}; another one is chosen")
            for step in reversed(chosen.reservations):
                step.release(work.deadline, last=False)
            chosen = again()
    return chosen


def make(chosen: Plan, book: Journal, work: Work, config: Config, log: Log) -> None:
    """Everything else in the plan, each thing promised before it is made; what is slow, while the rest is made."""
    with ExitStack() as begun:
        finishes: list[Callable[[], None]] = []
        for phase in chosen.phases:
            with log.phase(phase.name):
                for step in phase.steps:
                    work.alive()
                    if step is chosen.domain:
                        for finish in finishes:
                            finish()
                        _start(chosen, book, work, config, log)
                    elif isinstance(step, SlowResource):
                        book.promise(step)
                        with _named(step):
                            finishes.append(begun.enter_context(step.begin()))
                    else:
                        act(step, book, work)


def _start(chosen: Plan, book: Journal, work: Work, config: Config, log: Log) -> None:
    """Starts the guest; one that cannot go on from its saved one, which is then not used any more, is booted."""
    def begin() -> None:
        trace.write(config.log_trace, _begin(chosen, book.start))

    restore = chosen.domain.restore
    try:
        act(chosen.domain, book, work, begin)
        return
    except NodeError as error:
        if restore is None or isinstance(error, EndedError | DeadlineError):
            raise
        from .image import saved

        log.line(error.coded(f"the guest is booted, as it cannot go on from the saved one: {error}"))
        saved.discard(os.path.dirname(restore.memory))
    chosen.domain.release(work.deadline, last=True)
    for piece in chosen.instead:
        act(piece, book, work)
    act(msgspec.structs.replace(chosen.domain, restore=None), book, work)


def _show_console(chosen: Plan, log: Log) -> None:
    """To the job's user, whose guest it is."""
    try:
        console.show_to(chosen.console, chosen.job.user.uid)
    except OSError as error:
        log.detail(f"the job's user cannot read the guest's console: {error.strerror}")


def _begin(chosen: Plan, start: Start) -> trace.Begin:
    job, domain = chosen.job, chosen.domain
    return trace.Begin(
        time=time.time(), token=job.token, job=job.id, user=job.user.name, uid=job.user.uid, queue=job.queue, batch=job.batch,
        node=os.uname().nodename, started=start.time, guest=domain.name, uuid=domain.uuid, template=chosen.template,
        macs=chosen.macs, addresses=chosen.addresses, images=chosen.images)


def _taken(chosen: Plan, start: Start) -> trace.Taken:
    job = chosen.job
    return trace.Taken(time=time.time(), token=job.token, job=job.id, user=job.user.name, uid=job.user.uid, queue=job.queue,
                       batch=job.batch, started=start.time)


def act(step: Resource | Piece, book: Journal, work: Work, begin: Callable[[], None] = lambda: None) -> None:
    """Makes a thing, promised before if it must be released; `begin` is called before a guest starts. VmBatchError."""
    with _named(step):
        if isinstance(step, Resource):
            book.promise(step)
            if isinstance(step, Domain):
                begin()
            step.acquire()
            book.acted()
        else:
            step.make(work)


@contextmanager
def _named(step: Resource | Piece) -> Iterator[None]:
    """Says of an error of the system's what it is about. NodeError, SiteError."""
    try:
        yield
    except OSError as error:
        raise NodeError(f"{step}: {error.strerror or error}", code="VB906") from None
    except FormatError as error:
        raise SiteError(f"{step}: the image {error.what}", error.hint, code="VB303") from None


def _hand_over(chosen: Plan, book: Journal, way: Way, environ: Mapping[str, str], *, x11: bool) -> None:
    """Lets the job run: the record is the last thing that is made."""
    job = chosen.job
    record = Handover(
        job=job.id, token=job.token, user=job.user.name, uid=job.user.uid, address=way.address, port=way.port, alias=chosen.alias,
        console=way.terminal, template=chosen.template, node_file=job.node_file is not None, x11=x11,
        script=_script_mark(job.script), leader=_mark(job.leader), guest=_guest_mark(chosen.domain),
        environment={name: digest.of_text(value) for name, value in environ.items()},
    )
    endmarker.check_not_ended(book.start)
    book.hand_over()
    for owned in book.resources:
        owned.hand_over()
    file.replace(os.path.join(chosen.handover, "record"), record.encode(), 0o440, job.user.group.gid)


def _script_mark(script: Script | None) -> ScriptMark | None:
    return None if script is None else ScriptMark(script.path, script.device, script.inode, script.mtime_ns)


def _guest_mark(domain: Domain) -> Mark | None:
    """The guest's process on this node, where it has one that is known."""
    pid = virt.pid_of(domain.uri, domain.name, domain.uuid)
    started = None if pid is None else clock.started(pid)
    return None if pid is None or started is None else Mark(pid, started)


def _mark(leader: Leader | None) -> Mark | None:
    return None if leader is None else Mark(leader.pid, leader.started)


@contextmanager
def _suspected(images: str) -> Iterator[None]:
    """Says of an error that these images may be at fault."""
    try:
        yield
    except VmBatchError as error:
        error.suspect = images
        raise


@contextmanager
def _distrusted(chosen: Plan, log: Log) -> Iterator[None]:
    """Of a saved guest from which the job's did not get ready no more are made."""
    try:
        yield
    except EndedError:
        raise
    except VmBatchError:
        if chosen.domain.restore is not None:
            from .image import saved

            saved.discard(os.path.dirname(chosen.domain.restore.memory))
            log.line("the guest went on from a saved one, which is not used any more")
        raise


@contextmanager
def console_of_failure(path: str, config: Config, log: Log) -> Iterator[None]:
    """Adds the last lines of the guest's console log at `path` to an error, and keeps more of it in the job's log."""
    try:
        yield
    except VmBatchError as error:
        text = console.read_tail(path)
        for line in console.printable_lines(text):
            log.detail(f"console: {line}")
        shown = console.printable_lines(text)[-config.guest_console_lines:] if config.guest_console_lines else []
        if shown:
            error.detail = (*error.detail, "the guest's console ended with:", *(f"  {line}" for line in shown))
        raise


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
        act(place, book, Work(Deadline(_END_PATIENCE_SECONDS), lambda: None, log.detail))
        book.hand_over()
        text = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        file.replace(os.path.join(place.path, "refusal"), text, 0o440, to.gid)
        if to.script is not None:
            proof = Handover(
                job=job_id, token=start.token, user=to.user, uid=to.uid, address="", alias="", console="", template="",
                node_file=False, script=_script_mark(to.script), leader=_mark(to.leader), environment={})
            file.replace(os.path.join(place.path, "record"), proof.encode(), 0o440, to.gid)
        endmarker.check_not_ended(start)
    except BaseException:
        release(book, "", config, log, orphaned=False)
        raise
    finally:
        book.close()
    log.line("the job's shell tells the user why the job does not run")


def pause(job_id: str, seconds: float) -> None:
    """Waits, unless the job is ended meanwhile."""
    me, over = clock.this_process(), Deadline(seconds)
    while not over.passed() and not endmarker.is_ended(job_id, me):
        time.sleep(min(_PAUSE_SECONDS, over.left()))


def end_lines(error: VmBatchError, job_id: str, outcome: str) -> list[str]:
    """What the user is told of a start that failed: why, what becomes of the job, and what else is known."""
    first, *rest = error.lines()
    if isinstance(error, EndedError):
        return [error.coded(first), *rest]
    first = f"job {slug(job_id)} could not start: {first}"
    return [first, error.coded(outcome), *rest] if outcome else [error.coded(first), *rest]
