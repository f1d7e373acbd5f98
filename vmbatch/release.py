"""What a start owns is released, or of a failed job kept for a while; its last line in trace and history."""

import contextlib
import os
import time
from collections.abc import Callable

from . import history, journal, trace
from . import status as statuses
from .config import Config
from .errors import DeadlineError, NodeError, VmBatchError
from .host import clock, file
from .host.log import LOG_ERR, Log, tell_user
from .hypervisor.domain import Domain
from .journal import Journal
from .spool.directory import Directory
from .status import utf8
from .units import Deadline

_OTHERS_SECONDS = 10.0
"""How long whoever else holds a journal may take."""
_MANY = 100
"""Of how many jobs something is kept at most, even if admins wish so."""


def release(book: Journal, why: str, config: Config, log: Log, *, orphaned: bool, status: int | None = None) -> bool:
    """Releases all that a journal lists; what cannot be released now stays listed. `why` the guest ends is for the trace."""
    try:
        with log.phase("release"):
            book.release(config.timeouts_release * config.timeouts_scale, orphaned=orphaned,
                         released=lambda: conclude(book, why, status, config, log))
        return True
    except (VmBatchError, OSError) as error:
        log.line(f"could not release everything: {error}; the epilogue or the sweep will try again")
        return False


def keep(book: Journal, why: str, config: Config, log: Log, *, orphaned: bool, status: int | None = None) -> bool:
    """Whether disks and console of a failed job are kept, as it asked; guest, keys and all else are released then."""
    if not book.start.keep or not config.requests_keep:
        return False
    until = time.time() + book.start.keep
    try:
        place = _put_aside(book, until, config.requests_keep, why, status, config, log, orphaned=orphaned)
    except (VmBatchError, OSError) as error:
        log.line(f"nothing of the job is kept: {error}")
        tell_user([f"vbkeep: nothing is kept: {error}"])
        return False
    tell_user([f"the guest's disks and console are kept until {clock.for_people(until)}; ask the admins for {place}"])
    return True


def _put_aside(book: Journal, until: float, most: int, why: str, status: int | None, config: Config, log: Log, *,
               orphaned: bool) -> str:
    """Releases all but disks and console, and the images below them; where they are. NodeError, OSError."""
    spool = os.path.join(config.spool_directory, book.start.unique)
    spared = [owned for owned in book.resources if isinstance(owned, Directory)
              and owned.path in (spool, os.path.join(config.images_directory, "uses", book.start.unique))]
    if not spared:
        raise NodeError("it has no disks yet", code="VB914")
    for owned in book.resources:
        if isinstance(owned, Domain):
            owned.freeze()
    patience = config.timeouts_release * config.timeouts_scale
    book.release(patience, orphaned=orphaned, spared=spared,
                 released=lambda: conclude(book, why, status, config, log))
    file.remove_tree(os.path.join(spool, "keys"), Deadline(patience))
    file.seal(spool)
    if not book.keep(until, why, most):
        raise NodeError(f"{most} other jobs' disks are kept on this node, and no more may be", code="VB914")
    log.line(f"kept until {clock.for_people(until)}: {spool}")
    return spool


def end_and_keep(job_id: str, seconds: float, why: str, config: Config, log: Log) -> str:
    """Ends a job's guest and keeps its disks and console for so long; where they are. NodeError."""
    journal.make_directories()
    try:
        book = Journal.open(journal.path_of(job_id), Deadline(0))
    except DeadlineError:
        raise NodeError(f"job {job_id} is just being started or ended", "try again", code="VB914") from None
    if book is None:
        raise NodeError(f"job {job_id} has no guest on this node", code="VB914")
    try:
        if not book.handed_over:
            raise NodeError(f"the guest of job {job_id} never got ready", code="VB914")
        return _put_aside(book, time.time() + seconds, _MANY, why, None, config, log, orphaned=True)
    except OSError as error:
        raise NodeError(f"job {job_id}: {error.strerror}", code="VB914") from None
    finally:
        book.close()


def release_kept(job_id: str, config: Config, log: Log) -> list[str]:
    """Releases what is kept of a job; a line for each."""
    said = []
    for path, start, _, _ in journal.kept():
        if start.job != job_id or (book := Journal.open(path, Deadline(_OTHERS_SECONDS))) is None:
            continue
        try:
            done = release(book, "", config, log, orphaned=True)
            said.append(f"released what was kept of job {job_id} of {start.user}" if done else
                        f"could not release what is kept of job {job_id}; see {log.path}")
        finally:
            book.close()
    return said


def conclude(book: Journal, why: str, status: int | None, config: Config, log: Log, *, goes_on: bool = False) -> None:
    """Writes down how a start has ended, unless that was done; a full disk must not keep us from what else there is to do.

    `goes_on`: its guest does, for another job.
    """
    if book.kept is not None:
        return
    start = book.start
    known = statuses.read(start.user, start.job, start.token)
    why = utf8(known.why if known is not None and known.why else why)
    if has_guest(book):
        event = (trace.GivenBack(time.time(), start.token, start.job, start.user, start.pooled, status) if goes_on
                 else trace.End(time.time(), start.token, start.job, start.user, why, status))
        _write(lambda: trace.write(config.log_trace, event), log)
    if known is not None:
        record = history.of(known if book.handed_over else known.never_ran(), why, status)
        _write(lambda: history.write(config.log_history, record), log)
    elif has_guest(book) and start.owner.boot != clock.boot_id():
        _write(lambda: history.write(config.log_history, _unwatched(book, why, status)), log)
    with contextlib.suppress(OSError):
        statuses.remove(start.user, start.job, start.token)


def _write(line: Callable[[], None], log: Log) -> None:
    try:
        line()
    except NodeError as error:
        log.line(str(error), priority=LOG_ERR)


def _unwatched(book: Journal, why: str, status: int | None) -> history.Record:
    """Of a start of which the node has forgotten, by a boot, all but its journal."""
    start = book.start
    return history.Record(
        job=start.job, token=start.token, user=start.user, queue=start.queue, batch=start.batch, node=os.uname().nodename,
        started=start.time, ended=time.time(), outcome=history.LOST, provisioning=0.0, status=status, why=why)


def has_guest(book: Journal) -> bool:
    return any(isinstance(owned, Domain) for owned in book.resources)
