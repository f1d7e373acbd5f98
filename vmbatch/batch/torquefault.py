"""What becomes of a job that Torque could not start, by whose fault it is and as the site wants it.

Torque starts a job again at once that its prologue gave back, about four times a second, without limit (measured with 6.1.3).
A few failures may be a mishap; in a row of them a remedy is due, and a job that goes back all the same is kept for a while first.
"""

import os

from ..config import Config
from ..errors import BusyError, Fault, SisterError, VmBatchError
from ..host.log import LOG_ERR, Log
from ..job import check_job_id
from ..units import Deadline
from . import failures, remedy
from .account import parse_user
from .leader import parent
from .momconfig import job_starter
from .script import identify
from .system import Call, Outcome, Refusal

START, ABORT, REQUEUE = 0, 1, 2
ABORTED = "the job is aborted"
BACK = "the job goes back into its queue"


def failed(error: VmBatchError, call: Call, config: Config, log: Log | None, deadline: Deadline) -> Outcome:
    """What a prologue does with its job, all of it before the deadline; raises nothing."""
    job_id = call.argv[1] if len(call.argv) > 1 else ""
    log = log or Log(None, "-", "prologue")
    try:
        check_job_id(job_id)
        if isinstance(error, BusyError):
            return Outcome(REQUEUE, BACK)
        if error.fault is Fault.JOB:
            return _by_the_job(error, job_id, call, config, log, deadline)
        return _by_others(error, job_id, call, config, log, deadline)
    except (VmBatchError, OSError) as trouble:
        _say(log, f"what was to be done with the job failed: {trouble}")
        if error.fault is Fault.JOB:
            return Outcome(ABORT, ABORTED)
        return Outcome(REQUEUE, BACK, min(config.torque_pause, deadline.left()))


def _by_the_job(error: VmBatchError, job_id: str, call: Call, config: Config, log: Log, deadline: Deadline) -> Outcome:
    if config.torque_job_fault == "hold":
        _say(log, remedy.hold(job_id, "u", error.what, config, deadline))
        return Outcome(REQUEUE, f"the job is held; qrls {job_id} lets it start again, qdel {job_id} removes it")
    if config.torque_job_fault == "tell" and len(call.argv) > 8 and has_job_starter(call.directory):
        person = parse_user(call.argv[2], call.argv[3])
        script = identify(call.argv[8], person)
        if script is not None:  # qsub -I shows what its prologue says
            return Outcome(ABORT, ABORTED, refusal=Refusal(person.name, person.uid, person.group.gid, script, parent()))
    return Outcome(ABORT, ABORTED)


def _by_others(error: VmBatchError, job_id: str, call: Call, config: Config, log: Log, deadline: Deadline) -> Outcome:
    foreign = isinstance(error, SisterError)  # that node has its own remedy
    row = failures.note(job_id, error, config.torque_within, "".join(call.argv[2:3]))
    wanted = config.torque_node_fault if error.fault is Fault.NODE else config.torque_site_fault
    if wanted == "offline" and foreign:
        wanted = ""
    same = [failure for failure in row if failure.fault is error.fault and failure.job == job_id]
    if wanted == "offline":
        same = failures.against(row, error.fault)
    late = len(row) >= max(1, config.torque_failures)
    host = _own_name(call) or os.uname().nodename
    reason = f"VmBatch on {host}: {error.what}"
    if len(same) >= max(1, config.torque_failures):
        try:
            if wanted == "hold":
                _say(log, remedy.hold(job_id, "s", reason, config, deadline))
                return Outcome(REQUEUE, f"the job is held until an administrator releases it (qrls -h s {job_id})")
            if wanted == "offline":
                remedy.offline(host, reason, config, deadline)
                _say(log, f"took this node off-line after {len(same)} failed starts; pbsnodes -c {host} brings it back")
                return Outcome(REQUEUE, f"{BACK}, and this node takes no more jobs")
        except VmBatchError as trouble:
            _say(log, f"could not {'hold the job' if wanted == 'hold' else 'take the node off-line'}: {trouble}")
    return Outcome(REQUEUE, BACK, min(config.torque_pause, deadline.left()) if late else 0.0)


def _own_name(call: Call) -> str:
    """What Torque calls this node, where it is the job's first one; a sister is told the first one's name, not its own."""
    return call.environ.get("PBS_MSHOST", "") if call.environ.get("PBS_NODENUM", "0") == "0" else ""


def has_job_starter(mom_directory: str) -> bool:
    """Whether every job's shell is ours for sure: `$job_starter` of mom's configuration; a user can choose any other shell."""
    return os.path.basename(os.path.realpath(job_starter(mom_directory))) == "remoteshell"


def _say(log: Log, text: str) -> None:
    if text:
        log.line(text, priority=LOG_ERR)
