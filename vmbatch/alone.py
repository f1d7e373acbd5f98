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
from .host import process
from .host.log import Log
from .lifecycle import prologue

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def guest(call: Call, template: str, config: Config, hook: str,
          heard: Callable[[str, float | None], None] = lambda name, seconds: None) -> Iterator[Log]:
    """The guest of a job of `batch.local.call`, made from the template at this path: ready, until the `with` ends.

    Gives the job's log, in which the epilogue has lines, too; `hook` and `heard` are for it. VmBatchError. Signals that would end
    this process raise KeyboardInterrupt until the guest is being removed, which they do not disturb.
    """
    job_id = Local().job_id(call)
    log = Log(config.log_directory, job_id, hook, heard)
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with _removed(job_id, config, log):
            prologue(Local(), call, _for(template, config), log, None)
            process.watch(None)
            yield log
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _removed(job_id: str, config: Config, log: Log) -> Iterator[None]:
    """Ends the job, whatever happens; what went wrong first is what is raised."""
    try:
        yield
    except BaseException:
        with _undisturbed():
            process.watch(None)
            try:
                epilogue(job_id, config, log)
            except VmBatchError as error:
                log.line(str(error))
        raise
    with _undisturbed():
        epilogue(job_id, config, log)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end this process do so at the end of the `with`: blocked here, a thread of libvirt's would take them."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: noted.append(got)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt


def _for(template: str, config: Config) -> Config:
    """The settings, as if there were but one queue, with one template."""
    directory, name = os.path.split(os.path.abspath(template))
    return msgspec.structs.replace(config, queues={QUEUE: (name,)}, types={}, features={}, templates_directory=directory)
