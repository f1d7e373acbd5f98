"""A guest without a batch system: made, and removed, by the process that wants it, through the lifecycle of every job."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import msgspec

from .batch.local import QUEUE, Local
from .batch.system import Call
from .config import Config
from .ending import epilogue
from .errors import VmBatchError
from .host import interrupt, process
from .host.log import Log
from .lifecycle import prologue


@contextlib.contextmanager
def guest(call: Call, template: str, config: Config, hook: str,
          heard: Callable[[str, float | None], None] = lambda name, seconds: None) -> Iterator[Log]:
    """The guest of a job of `batch.local.call`, made from the template at this path: ready, until the `with` ends.

    Gives the job's log, in which the epilogue has lines, too; `hook` and `heard` are for it. VmBatchError. Signals that would end
    this process raise KeyboardInterrupt until the guest is being removed, which they do not disturb.
    """
    job_id = Local().job_id(call)
    log = Log(config.log_directory, job_id, hook, heard)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with interrupt.raised(), _removed(job_id, config, log):
            with interrupt.noted():
                prologue(Local(), call, _for(template, config), log, None)
            process.watch(None)
            yield log
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _removed(job_id: str, config: Config, log: Log) -> Iterator[None]:
    """Ends the job, whatever happens; what went wrong first is what is raised."""
    try:
        yield
    except BaseException:
        with interrupt.noted():
            process.watch(None)
            try:
                epilogue(job_id, config, log)
            except VmBatchError as error:
                log.line(str(error))
        raise
    with interrupt.noted():
        epilogue(job_id, config, log)


def _for(template: str, config: Config) -> Config:
    """The settings, as if there were but one queue, with one template."""
    directory, name = os.path.split(os.path.abspath(template))
    return msgspec.structs.replace(config, queues={QUEUE: (name,)}, types={}, features={}, templates_directory=directory)
