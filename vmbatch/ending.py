"""A job's end, which needs its journal alone; with `lifecycle` the only module that orders effects."""

import contextlib
import os
from collections.abc import Callable

from . import endmarker, journal, sshargs, status, verdict
from .config import Config
from .errors import DeadlineError, NodeError, VmBatchError
from .exchange.member import forget_note
from .host import clock, console, process, virtend
from .host.log import Log, tell_user
from .hypervisor.domain import Domain
from .job import slug
from .journal import Journal
from .phase import EPILOGUE
from .release import keep, release
from .status import Board
from .units import Deadline

_PATIENCE_SECONDS = 10.0
"""For a prologue to end that has been told to."""


def stop(job_id: str) -> None:
    """Ends every start of the job that began before now, and leaves it to them to release what they own. NodeError."""
    journal.make_directories()
    endmarker.mark(job_id, clock.this_process())


def epilogue(job_id: str, config: Config, log: Log, exit_status: int | None = None, *, sister: bool = False,
             alarm: Callable[[], float] | None = None) -> None:
    """Ends every start of the job that began before now, and releases what they own. VmBatchError.

    `exit_status`: how the job ended, if the batch system says it; of one that failed something may be kept. `alarm`: how many
    seconds the batch system lets an epilogue take; without it no guest is waited for.
    """
    if sister:
        forget_note(config.meeting, job_id, os.uname().nodename)
    me = clock.this_process()
    path = journal.path_of(job_id)
    patience = _PATIENCE_SECONDS * config.timeouts_scale
    unmarked = _mark_end(job_id, me)
    try:
        book = Journal.open(path, Deadline(patience))
    except DeadlineError:
        book = _open_by_force(path, patience, log)
    if book is None:
        log.detail("nothing to release")
        if unmarked is not None:
            raise unmarked
        return
    try:
        owner = book.start.owner
        if owner.boot == me.boot and owner.started > me.started:
            log.line("a later start of this job is left alone")
            return
        known = status.read(book.start.user, book.start.job, book.start.token)
        begun = known is not None and known.phase == EPILOGUE
        if known is not None:
            board = Board(known, log.detail)
            board.step(EPILOGUE)
            log.tell(board.step)
        if book.handed_over and not begun:  # else the guest has been ended by us
            fine = _look_at(book, log)
            if alarm is not None and unmarked is None and fine and _is_given_back(book, exit_status, alarm, config, log):
                return
            if alarm is not None:
                _shut_down(book, alarm, config, log)
        failed = bool(exit_status) and book.handed_over
        if not ((failed and keep(book, f"it ended with status {exit_status}", config, log, orphaned=True, status=exit_status))
                or release(book, "its epilogue has run", config, log, orphaned=True, status=exit_status)):
            raise NodeError(f"not everything of job {job_id} could be removed", f"see {log.path}; vmbatch sweep tries again",
                            code="VB911")
    finally:
        book.close()
    if unmarked is not None:
        raise unmarked


def _mark_end(job_id: str, me: clock.ProcessIdentity) -> NodeError | None:
    """Ends every start of the job that began before now. What a full disk says to that is for later."""
    try:
        journal.make_directories()
        endmarker.mark(job_id, me)
    except OSError as error:
        return NodeError(f"the end of job {job_id} cannot be marked in {endmarker.DIRECTORY}: {error.strerror}",
                         "a start of it that has only begun may go on; vmbatch sweep removes what that leaves", code="VB911")
    return None


def _is_given_back(book: Journal, exit_status: int | None, alarm: Callable[[], float], config: Config, log: Log) -> bool:
    """Whether the guest is left to another job of the same user: of a template that wants that."""
    if book.waited is None or book.waited.jobs < 2:
        return False
    from .reuse import give_back

    try:
        left = alarm() - config.timeouts_margin - clock.age(os.getpid())
    except VmBatchError:
        left = 0.0
    return give_back(book, exit_status, left, config, log)


def _look_at(book: Journal, log: Log) -> bool:
    """Says of a guest that was lost under its job what the job's shell, which is the user's, could not see; whether none was."""
    fine = True
    for owned in book.resources:
        if isinstance(owned, Domain):
            why = (console.panic(os.path.join(os.path.dirname(owned.xml), "console.log"))
                   or virtend.trouble(owned.uri, owned.name, owned.uuid))
            if why:
                fine = False
                log.line(f"when the job ended, its guest did not run any more: {why}")
                tell_user([f"when the job ended, its guest did not run any more: {why}"])
    return fine


def _shut_down(book: Journal, alarm: Callable[[], float], config: Config, log: Log) -> None:
    """Lets a guest that has had its job shut down, where its template gives it time for that and the batch system us."""
    for owned in book.resources:
        if isinstance(owned, Domain) and owned.grace:
            with contextlib.suppress(VmBatchError), log.phase("shutdown"):
                owned.shut_down(Deadline(alarm() - config.timeouts_margin))


def _open_by_force(path: str, patience: float, log: Log) -> Journal | None:
    """The journal of a prologue that hangs: it is killed. DeadlineError if something still holds the lock."""
    known = journal.peek(path)
    if known is not None:
        owner = known[0].owner
        log.line(f"the prologue {owner.pid} does not end; killing it")
        if owner.boot == clock.boot_id():
            process.kill(owner.pid, owner.started)
    return Journal.open(path, Deadline(patience))


def kill(job_id: str, why: str, config: Config, log: Log) -> str:
    """Ends a job's guest; what that means for the job, in words. VmBatchError.

    A job that has its guest ends as if the guest had died, with `why` in its stderr, and its epilogue releases the rest; a start
    that goes on is ended as by its epilogue.
    """
    known = journal.peek(journal.path_of(job_id))
    if known is None:
        raise NodeError(f"job {job_id} has no guest on this node", "vmbatch ps shows which have", code="VB920")
    start, resources, handed_over = known
    domains = [owned for owned in resources if isinstance(owned, Domain)]
    shown = status.read(start.user, start.job, start.token)
    if shown is not None:
        Board(shown).learn(why=why)
    log.line(why)
    if not (handed_over and domains):
        epilogue(job_id, config, log)
        return f"the start of job {job_id} has been ended; what becomes of the job is for the batch system"
    for domain in domains:
        verdict.end(domain, os.path.join(sshargs.HANDOVER, slug(job_id)), start.token, why)
    return f"the guest of job {job_id} has been ended; the job ends now, and its epilogue removes the rest"
