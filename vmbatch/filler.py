"""Has guests wait for jobs, as many as templates want: boots those that lack, ends those that are of no use any more.

Each is a start like any other, with a journal, whose owner leaves it once its guest waits.
"""

import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from . import admission, boot, drain, facts, journal, pool, sweep, template, trace
from .batch import local
from .config import Config
from .errors import DeadlineError, NodeError, SiteError, VmBatchError
from .grant import Grant
from .host import clock, file, interrupt, lock, process, ssh, virt
from .host.log import Log
from .job import Job
from .journal import Journal
from .lifecycle import act, console_of_failure, make, make_places, reserve
from .plan import Plan, plan
from .record import Start, Waits
from .release import release
from .resource import Work
from .template import Template
from .units import Deadline

_TURN_SECONDS = 2.0
"""For others to let go of the claims: shorter than any boot, so that no turn is waited for."""
_SSHD_SECONDS, _PAUSE_SECONDS = 60.0, 0.5
_LOG = "pool"


def templates(config: Config, wrong: Callable[[VmBatchError], None]) -> list[Template]:
    """Those of all queues whose guests are to wait; `wrong` is told of those that cannot be read."""
    found = []
    for name in dict.fromkeys(name for names in config.queues.values() for name in names):
        path = os.path.join(config.templates_directory, name)
        try:
            form = template.parse(file.read_trusted(path), path)
        except VmBatchError as error:
            wrong(error)
        else:
            found += [form] if form.pool is not None else []
    return found


def alone() -> AbstractContextManager[bool]:
    """Whether no other process fills the pool just now; while the `with` lasts none begins to."""
    file.make_state_directory(pool.DIRECTORY, 0o700)
    return lock.alone(os.path.join(pool.DIRECTORY, "lock"))


def prune(forms: list[Template], config: Config) -> list[str]:
    """Ends guests that no job would take: of other templates than these, of an earlier form of these, or dead; a line for each.

    On a node that is drained that is all.
    """
    wanted: dict[str, str] = {}
    said = []
    for form in () if drain.look() else forms:
        wanted[form.path] = ""
        with contextlib.suppress(VmBatchError):  # who fills says what is wrong; until then all are left
            wanted[form.path] = pool.key(facts.seen(form, config), form, Grant(), config)
    log = Log(config.log_directory, sweep.LOG, _LOG)
    sweep.journals(config, log, dry_run=False, kept=False)
    for path, start, waits in journal.waiting():
        why = _why_useless(path, waits, wanted)
        if why and pool.end(path, why, config, log):
            said.append(f"ended {start.unique}: {why}")
    return said


def _why_useless(path: str, waits: Waits, wanted: dict[str, str]) -> str:
    if waits.template not in wanted:
        return f"no guest of {waits.template} is to wait any more" if drain.look() is None else "this node is drained"
    if waits.key != (wanted[waits.template] or waits.key):
        return f"{waits.template}, its images, vmbatch.conf or VmBatch have changed since"
    known = journal.peek(path)
    domain = None if known is None else journal.domain_of(known[1])
    state = None if domain is None else virt.state(domain.uri, domain.uuid)
    return "" if state in (None, "running") else f"its domain is {state}"


def lacking(form: Template) -> int:
    """How many guests of a template should wait, and do not."""
    return 0 if form.pool is None or drain.look() is not None else max(0, form.pool.size - pool.count(form))


def fill(form: Template, config: Config) -> str:
    """Has one more guest of a template wait; what it took, in words. VmBatchError; BusyError if jobs need the room.

    KeyboardInterrupt where `interrupt` has one.
    """
    why = pool.why_not(form, config)
    if why or form.pool is None:
        raise SiteError(f"{form.path}: its guests cannot wait for jobs: {why or 'it does not say <vbstart>POOL</vbstart>'}",
                        code="VB717")
    drain.check()
    make_places(config, form)
    job = local.of_node(journal.pool_id(local.new_number()), "pool")
    log = Log(config.log_directory, job.id, _LOG)
    deadline = Deadline(config.images_wait + config.images_transfer + config.timeouts_boot * config.timeouts_scale
                        + config.timeouts_margin)
    book = Journal.create(Start(job.id, job.token, job.user.name, job.queue, None, clock.this_process(), time.time(), job.batch,
                                leader=job.leader))
    if book is None:
        raise NodeError(f"there is a job {job.id} already", "try again", code="VB907")
    work = Work(deadline, interrupt.check, log.detail)
    process.watch(work.alive, deadline)
    began = time.monotonic()
    try:
        chosen = _bring_up(job, form, book, config, work, log)
    except BaseException as error:
        process.watch(None)
        release(book, f"it was to wait for jobs: {error}", config, log, orphaned=False)
        raise
    finally:
        process.watch(None)
        book.close()
    return f"{form.path}: guest {chosen.domain.name} waits, after {time.monotonic() - began:.1f} s"


def _bring_up(job: Job, form: Template, book: Journal, config: Config, work: Work, log: Log) -> Plan:
    """A guest that waits, as its journal says in the end. VmBatchError; it does not stand in any row before a job."""
    here, at_once = admission.room(config), msgspec.structs.replace(config, admission_wait=0.0)
    claimed = admission.claim(job, form, Grant(), config, book.start.owner)
    with log.phase("admission"):
        act(claimed, book, work)
        admission.check(claimed, Grant(), here)
        admission.enter(claimed, here, at_once, work)
    with contextlib.closing(facts.Gathered()) as gathered:
        with log.phase("images"):
            known = facts.gather(form, {}, job, config, gathered, work)
        key = pool.key(known, form, Grant(), config)
        chosen = plan(job, form, config, known, nobody=True)
        with log.phase("turn"):
            admission.begin(claimed, at_once, msgspec.structs.replace(work, deadline=Deadline(_TURN_SECONDS)))

        def again() -> Plan:
            nonlocal known
            known = facts.addressed(known, form, job.token, config)
            return plan(job, form, config, known, nobody=True)

        with console_of_failure(chosen.console, config, log):
            chosen = reserve(chosen, again, book, work, log)
            make(chosen, book, work, config, log)
            gathered.close()
            address = boot.lay_by(chosen, book.start, config, log, work.deadline, act=lambda made: act(made, book, work))
            with log.phase("sshd"):
                _see_sshd(chosen, address, config, work)
    for each in book.resources:
        each.hand_over()
    wanted = form.pool or template.Pool()
    until = clock.uptime() + wanted.lifetime
    book.wait(Waits(template=form.path, key=key, address=address, addresses=known.addresses, boot=clock.boot_id(), until=until,
                    jobs=wanted.jobs, idle=wanted.idle, lifetime=until))
    trace.write(config.log_trace, trace.Ready(time.time(), job.token, job.id, address))
    return chosen


def _see_sshd(chosen: Plan, address: str, config: Config, work: Work) -> None:
    """Waits until the guest's sshd shows the key that was made for it: no job is the first that it hears of. DeadlineError."""
    keys = os.path.join(os.path.dirname(chosen.console), "keys")
    wanted = ssh.public_key(ssh.key_files(keys)[1])
    over = work.deadline.earlier(_SSHD_SECONDS * config.timeouts_scale)
    while (shown := ssh.shown_key(address, config.images_account, over)) != wanted:
        if over.passed():
            said = shown or "no answer"
            raise DeadlineError(f"the guest's sshd at {address} does not show the key that was made for it: {said}",
                                "see whether its image starts sshd, and lets the kit give it a host key", code="VB704")
        time.sleep(_PAUSE_SECONDS)
