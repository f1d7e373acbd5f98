"""The hooks for a job that is, or may be, ours: configuration, log, lifecycle, and an exit status."""

import functools
import os
import subprocess
import sys
import syslog
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from . import native
from .batch.leader import parent
from .batch.remedy import plain
from .batch.system import Call, System
from .config import Config, parse
from .errors import EndedError, InputError, JobError, NodeError, VmBatchError
from .host import clock, file, process
from .host.log import Log, tell_user
from .job import check_job_id
from .registry import BATCH, EXIT_STATUS


def load_config() -> Config:
    """The site's configuration, from a file that only root can change. SiteError."""
    return parse(file.read_trusted(native.CONFIG), native.CONFIG)


def _check_own_files() -> None:
    """SiteError if others than root can change this hook, VmBatch, or where Python finds all else."""
    own = (module.__file__ for name, module in sys.modules.items() if name.startswith("vmbatch."))
    families = (entry.path for entry in os.scandir(os.path.dirname(__file__)) if entry.is_dir())  # more is loaded later
    libraries = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(msgspec.__file__)))
    file.check_trusted(sys.argv[0], sys.executable, *filter(None, own), *families, *libraries)


_ALIVE_SECONDS = 0.2
_REQUEUE = 2
_SISTER_SECONDS = 20.0
"""For an earlier start of the job to end; mom does nothing else meanwhile, and would put the node out of service in the end."""
State = dict[str, Any]
"""Directory, umask, groups, environment and signals that mom gave a hook, for subprocess.Popen."""


def prologue(batch: str, site: str | None, as_from_mom: State) -> int:
    """Exit status: 0 start the job, 1 abort it, 2 back into its queue; or the one of the site's own hook."""
    from .lifecycle import prologue as start

    system, call = BATCH[batch], _call(as_from_mom)
    job_id = system.job_id(call)
    config, log = parse(b"", "defaults"), None
    try:
        check_job_id(job_id)
        config = load_config()
        if config.template_path(system.queue(call, "prologue")) is None:
            return _run_site_hook(site, as_from_mom)
        _check_own_files()
        log = Log(config.log_directory, job_id, "prologue")
        start(system, call, config, log, None if site is None else functools.partial(_require, site, as_from_mom))
        return 0
    except _SiteHookFailed as failed:
        return failed.status
    except VmBatchError as error:
        return _failed(system, error, call, config, log)
    except OSError as error:
        _report_defect(log)
        return _failed(system, _of_system(error), call, config, log)
    except BaseException:
        _report_defect(log)
        return _failed(system, NodeError("a defect in VmBatch; the node's log has the details", code="VB912"), call, config, log)


def sister_prologue(batch: str, site: str | None, as_from_mom: State) -> int:
    """Exit status: 0, or the one of the site's own hook. Mom takes a node whose `prologue.parallel` fails out of service.

    Mom does nothing else on this node until the hook ends. So the guest is made by a process apart, and the hook ends as soon as
    the job's first node can see that this one has begun.
    """
    try:
        status = _run_site_hook(site, as_from_mom)
        if status == 0:
            process.apart(functools.partial(_sister_start, BATCH[batch], _call(as_from_mom)), _SISTER_SECONDS)
        return status
    except VmBatchError as error:
        _report(error, None)
        return _REQUEUE
    except BaseException:
        _report_defect(None)
        return 0


def _sister_start(system: System, call: Call, met: Callable[[], None]) -> None:
    """A sister's guest, from start to hand-over; what goes wrong is for the first node to tell the user."""
    from .lifecycle import excuse
    from .lifecycle import prologue as start

    job_id = system.job_id(call)
    config, log, begun = parse(b"", "defaults"), None, False

    def begin() -> None:
        nonlocal begun
        begun = True
        met()

    try:
        check_job_id(job_id)
        config = load_config()
        if config.template_path(system.queue(call, "prologue")) is None:
            return
        _check_own_files()
        log = Log(config.log_directory, job_id, "prologue.parallel")
        start(system, call, config, log, None, begin)
    except BaseException as error:
        if isinstance(error, OSError):
            _report_defect(log)
            error = _of_system(error)
        if not begun:
            excuse(job_id, clock.new_token(), error, config)
        if not isinstance(error, VmBatchError):
            _report_defect(log)
            return
        _report(error, log)
        if not isinstance(error, EndedError | JobError):
            system.failed(error, call, config, log)


def _call(as_from_mom: State) -> Call:
    return Call(list(sys.argv), as_from_mom["env"], os.path.dirname(os.path.abspath(sys.argv[0])), parent())


def _failed(system: System, error: VmBatchError, call: Call, config: Config, log: Log | None) -> int:
    """The exit status of a prologue whose job could not start; the user and the admin are told why."""
    from .lifecycle import end_lines, pause, refuse

    _report(error, log)
    outcome = system.failed(error, call, config, log)
    lines = end_lines(error, system.job_id(call), outcome.text)
    if outcome.refusal is not None and log is not None:
        try:
            refuse(system, call, outcome.refusal, end_lines(error, system.job_id(call), outcome.refusal.outcome), config, log)
            return 0
        except EndedError:
            return outcome.status
        except (VmBatchError, OSError) as trouble:
            log.line(f"the job's shell cannot say why the job does not run: {trouble}", priority=syslog.LOG_ERR)
            tell_user(lines)
            return outcome.status or 1
    tell_user(lines)
    if outcome.pause and log is not None:
        log.line(f"keeping the job from its queue for {outcome.pause:.0f} s: too many starts have failed here lately")
        pause(system.job_id(call), outcome.pause)
    return outcome.status


def sister_epilogue(batch: str, site: str | None, as_from_mom: State) -> int:
    """Exit status: 0, or that of the site's own hook. What could not be removed is for the sweep; the node stays in service."""
    _end(batch, as_from_mom, sister=True)
    try:
        return _run_site_hook(site, as_from_mom)
    except VmBatchError as error:
        _report(error, None)
        return 1


def epilogue(batch: str, site: str | None, as_from_mom: State) -> int:
    """Exit status of the site's own hook, else 0, or 1 if something could not be removed."""
    status, log = _end(batch, as_from_mom)
    try:
        return _run_site_hook(site, as_from_mom) or status
    except VmBatchError as error:
        _report(error, log)
        return 1


def _end(batch: str, as_from_mom: State, *, sister: bool = False) -> tuple[int, Log | None]:
    """Ends the job, with or without a configuration: (1 if something could not be removed, the log)."""
    from .ending import epilogue as end

    call = _call(as_from_mom)
    job_id = BATCH[batch].job_id(call)
    status = 0
    log = None
    try:
        check_job_id(job_id)
        try:
            config = load_config()
        except VmBatchError as error:
            syslog.syslog(syslog.LOG_ERR, f"{job_id} epilogue: {error}; using the defaults")
            config = parse(b"", "defaults")
        log = Log(config.log_directory, job_id, "epilogue.parallel" if sister else "epilogue")
        status_of = EXIT_STATUS.get(batch)
        end(job_id, config, log, None if status_of is None else status_of(call), sister=sister,
            alarm=None if sister else lambda: BATCH[batch].alarm(call, config))
    except VmBatchError as error:
        _report(error, log)
        status = 1
    except OSError as error:
        _report_defect(log)
        _report(_of_system(error), log)
        status = 1
    except BaseException:
        _report_defect(log)
        status = 1
    return status, log


def health(as_from_mom: State) -> int:
    """Tells Torque, by a line with ERROR (resmom/mom_server.c, check_state), or Slurm why this node is to get no jobs."""
    from .batch.slurm import drain
    from .health import problems

    try:
        found = problems(load_config())
    except VmBatchError as error:
        found = error.lines()[:1]
    except Exception:
        _report_defect(None)
        found = ["a defect in VmBatch; the node's log has the details"]
    if not found:
        return 0
    reason = plain(f"VmBatch: {'; '.join(found)}")
    environ = as_from_mom["env"]
    if "SLURMD_NODENAME" not in environ:
        sys.stdout.write(f"ERROR {reason}\n")
        sys.stdout.flush()
        return 0
    try:
        drain(environ, reason)
        return 0
    except VmBatchError as error:
        _report(error, None)
        return 1


_NOT_SERVED = 3


def openpbs(verb: str, about: str) -> int:
    """Exit status: `serves`: 0 or 3; `stop`, which ends a start that goes on, and `release`: 0, or 1 if something is left."""
    if verb == "serves":
        return 0 if load_config().template_path(about) else _NOT_SERVED
    from .ending import epilogue as end
    from .ending import stop

    log = None
    try:
        check_job_id(about)
        config = load_config()
        log = Log(config.log_directory, about, verb)
        if verb == "stop":
            stop(about)
        elif verb == "release":
            end(about, config, log)
        else:
            raise NodeError(f"{verb[:80]!r} is neither serves nor stop nor release", code="VB902")
        return 0
    except VmBatchError as error:
        _report(error, log)
        return 1


def _of_system(error: OSError) -> NodeError:
    """What the node's kernel refuses: a full disk, an end of descriptors or memory."""
    return NodeError(": ".join(filter(None, (str(error.filename or ""), error.strerror or str(error)))),
                     "the node's log says what was being done", code="VB906")


class _SiteHookFailed(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _require(site: str, as_from_mom: State) -> None:
    status = _run_site_hook(site, as_from_mom)
    if status:
        raise _SiteHookFailed(status)


def _run_site_hook(site: str | None, as_from_mom: State) -> int:
    """Runs the site's hook as mom would have. NodeError if it dies of a signal, which mom would take for success."""
    if site is None:
        return 0
    try:
        hook = subprocess.Popen([site, *sys.argv[1:]], **as_from_mom)
    except OSError as error:
        raise NodeError(f"the site's hook {site} cannot be run: {error.strerror}", code="VB913") from None
    while True:
        try:
            code = hook.wait(_ALIVE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            process.alive()  # as mom itself does, we leave the site's hook of a job that is over to its own end
    if code < 0:
        raise NodeError(f"the site's hook {site} died of signal {-code}", code="VB913")
    return code


def _report(error: VmBatchError, log: Log | None) -> None:
    first, *rest = error.lines()
    for line in (error.coded(first), *(rest if isinstance(error, InputError) else ())):
        if log is None:
            syslog.syslog(syslog.LOG_ERR, line)
        else:
            log.line(line, priority=syslog.LOG_ERR)


def _report_defect(log: Log | None) -> None:
    for line in traceback.format_exc().splitlines():
        if log is None:
            syslog.syslog(syslog.LOG_CRIT, line)
        else:
            log.line(line, priority=syslog.LOG_CRIT)
