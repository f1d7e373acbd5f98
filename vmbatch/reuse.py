"""A guest that has had a job, and waits for another one of the same user: it cleans itself first, or ends as ever.

Nothing here is an error of the job: whatever is not certain, or takes long, is a reason to end the guest.
"""

import contextlib
import os
import select

from . import drain, status
from .config import Config
from .context.keys import renew
from .errors import DeadlineError, NodeError, SiteError, VmBatchError
from .exchange.channel import Channel, open_port
from .guest import JOB_OVER
from .host import virt
from .host.log import Log
from .hypervisor.domain import Domain
from .journal import Journal, domain_of
from .release import conclude
from .units import Deadline

_HEARING_SECONDS, _CLEANING_SECONDS = 3.0, 15.0
"""For the guest to hear that its job is over, and for all that it does then."""
_LEAST_SECONDS = 5.0
"""Of an epilogue's time, or nothing is begun: the guest may have to be ended after all."""


def give_back(book: Journal, exit_status: int | None, left: float, config: Config, log: Log) -> bool:
    """Whether the guest of this job, whose epilogue has the journal, waits again; else it is to be released, all of it.

    `exit_status` as the batch system says it; `left` are the seconds that the epilogue may take.
    """
    domain = domain_of(book.resources)
    if domain is None or book.waited is None or book.waited.jobs < 2 or not book.start.pooled:
        return False
    why = _why_not(book, domain, exit_status) or ("its epilogue has no time for that" if left < _LEAST_SECONDS else "")
    try:
        if not why:
            patience = Deadline(min(left, _CLEANING_SECONDS * config.timeouts_scale))
            _clean(book, domain, book.waited.address, patience, config, log)
            again = book.waited.again(book.start.user, book.start.uid)
            conclude(book, "", exit_status, config, log, goes_on=True)
            book.wait_again(again)
            log.line(f"the guest {domain.name} waits for another job of this user, after {again.had} of {again.jobs}")
            return True
    except (VmBatchError, OSError) as error:
        why = error.what if isinstance(error, VmBatchError) else str(error)
    log.line(f"the guest gets no further job: {why}")
    return False


def _why_not(book: Journal, domain: Domain, exit_status: int | None) -> str:
    """What stands against a further job for the guest, in words; '' if nothing does."""
    known = status.read(book.start.user, book.start.job, book.start.token)
    if exit_status != 0:
        return f"its job ended with status {exit_status}" if exit_status is not None else "nobody knows how its job ended"
    if book.start.uid <= 0:
        return "its user is not known"
    if known is not None and known.why:
        return known.why
    if book.waited is not None and book.waited.is_spent:
        return book.waited.is_spent
    if drain.look() is not None:
        return "this node is drained"
    state = virt.state(domain.uri, domain.uuid)
    return "" if state == "running" else f"its domain is {state or 'not known to libvirt'}"


def _clean(book: Journal, domain: Domain, address: str, over: Deadline, config: Config, log: Log) -> None:
    """What is of the job alone is gone from the node and, as it says itself, from the guest; there is a new key. VmBatchError."""
    with log.phase("clean"):
        book.release_own(config.timeouts_release * config.timeouts_scale)  # whoever watches the guest has its port
        with contextlib.closing(open_port(domain.uri, domain.uuid, book.start.token)) as channel:
            _await(channel, "busy", over.earlier(_HEARING_SECONDS * config.timeouts_scale), "it does not answer")
            if channel.read("waiting") is not None:
                raise NodeError("it says that it waits, and has not been told to", code="VB709")
            channel.send((JOB_OVER,), lambda: _check(over, "it does not listen"))
            said = _await(channel, "waiting", over, "it has not cleaned itself in time")
        if said != address:
            raise NodeError(f"it says that it waits at {said or 'no address'}", code="VB709")
        renew(os.path.join(os.path.dirname(domain.xml), "keys"), book.start.pooled, over)


def _await(channel: Channel, kind: str, over: Deadline, what: str) -> str:
    """The address in the guest's message of this kind. SiteError for one that failed, DeadlineError for a late one."""
    while (said := channel.read(kind)) is None:
        failed = channel.read("failed")
        if failed is not None:
            raise SiteError(f"it could not clean itself: {failed.text}", code="VB707")
        _check(over, what)
        select.select([channel.descriptor], [], [], over.left())
    return said.address


def _check(over: Deadline, what: str) -> None:
    if over.passed():
        raise DeadlineError(what, code="VB704")
