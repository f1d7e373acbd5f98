"""Slurm: the environment of its Prolog and Epilog, what their failures mean, and what only slurmctld knows.

Facts from Slurm 22.05: prolog_epilog.html and slurm.conf(5), and measured. slurmd sets the SLURM_ variables of a Prolog from the
job's credential, which slurmctld signs; of what a user can name, only what begins with SPANK_ comes along. A Prolog that does
not end with 0, killed or not, drains its node, and the job is requeued and held; its Epilog runs nevertheless. scancel and
requeue leave a Prolog alone, and wait for it. What scontrol prints of a job cannot be parsed, as its name may have line breaks.
"""

import os
import re
import time
from collections.abc import Mapping

from ..config import Config
from ..errors import BusyError, CommandError, EndedError, Fault, JobError, NodeError, VmBatchError
from ..host import process
from ..host.log import Log
from ..job import Job, Leader, Script, check_job_id, check_name
from ..units import Deadline
from . import failures
from .account import user_of
from .system import Call, Outcome, Refusal
from .wishes import parse_other

DRAIN, HOLD, REQUEUE = "drain", "hold", "requeue"
_CONFIG = "/etc/slurm/slurm.conf"
_WISHES = "SPANK__SLURM_SPANK_OPTION_vmbatch_vmbatch"
_NO_ALARM_SECONDS = 86400.0
_ASK_SECONDS = 15.0
_TEXT_LIMIT = 200
_FILES = 16
_UNLIMITED = 65534
_WANTED = frozenset(("CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"))
_ALIVE = _WANTED | {"COMPLETING", "STAGE_OUT"}


class Slurm:
    """Slurm, for jobs on one node each."""

    name = "slurm"
    silent = True

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._alive: set[str] | None = None
        self._asked = time.monotonic()

    def job_id(self, call: Call) -> str:
        """The number that no other job has; a task of an array has one of its own."""
        return call.environ.get("SLURM_JOB_ID", "")

    def queue(self, call: Call, hook: str) -> str:
        """The partition."""
        return call.environ.get("SLURM_JOB_PARTITION", "")

    def parse(self, call: Call, token: str, job_directory: str | None) -> Job:
        """The job of a Prolog; its script is not on the node yet. JobError, NodeError."""
        identifier, queue = self.job_id(call), self.queue(call, "prologue")
        check_job_id(identifier)
        check_name(queue, "partition")
        nodes = _number(call.environ, "SLURM_JOB_NUM_NODES")
        if nodes != 1:
            raise JobError(f"the job has {nodes} nodes, and jobs of partition {queue} run in one guest", "submit with --nodes=1",
                           code="VB208")
        if any(name in call.environ for name in ("SLURM_HET_JOB_ID", "SLURM_HET_SIZE")):
            raise JobError(f"heterogeneous jobs do not run in partition {queue}", "submit its parts as jobs of their own",
                           code="VB208")
        host = call.environ.get("SLURMD_NODENAME", "")
        user = user_of(_number(call.environ, "SLURM_JOB_UID"), _number(call.environ, "SLURM_JOB_GID"))
        cores = _number(call.environ, "SLURM_JOB_CPUS_PER_NODE")
        size, queued = _allocation(call.environ, identifier)
        return Job(
            batch=self.name, id=identifier, token=token, name="", queue=queue, account="", script=None,
            resources=self._wishes(call),
            node_file=None, user=user, nodes=(host,) if host else (), cores=cores, memory=size, queued=queued,
            features=features(call.environ.get("SLURM_JOB_CONSTRAINTS", "")),
            wishes=parse_other(self._wishes(call)),
        )

    def _wishes(self, call: Call) -> str:
        """What the user gave to the plugin's option --vmbatch."""
        return call.environ.get(_WISHES, "")

    def alarm(self, call: Call, config: Config) -> float:
        """PrologEpilogTimeout of slurm.conf; without it, slurmd waits for ever."""
        return alarm(call.environ.get("SLURM_CONF") or _CONFIG)

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """A job's own fault is shown by its shell, and the node stays; for any other the job goes back into the queue."""
        environ = call.environ
        reader = _reader(environ)

        def told(text: str) -> Outcome:
            return Outcome(0, text, refusal=None if reader is None else Refusal(str(reader[0]), *reader, outcome=text))

        if isinstance(error, EndedError) and not self._left():
            return told("the job is over")
        reason = "vmbatch: " + "".join(char for char in error.what if char.isprintable())[:_TEXT_LIMIT]
        job_id = self.job_id(call)
        try:
            if error.fault is Fault.JOB:
                _ask(environ, "scontrol", "update", f"JobId={job_id}", f"AdminComment={reason}")
                return told("the job has failed")
            remedy = REQUEUE if isinstance(error, BusyError) else config.slurm_node_fault
            if remedy == DRAIN and not failures.is_the_nodes(error, job_id, environ.get("SLURM_JOB_UID", ""), config):
                remedy = REQUEUE
            if remedy == DRAIN and not self._left():
                node = environ.get("SLURMD_NODENAME", "")
                _ask(environ, "scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}")
            hold = remedy == HOLD
            _ask(environ, "scontrol", "requeuehold" if hold else "requeue", job_id)
            return told("the job is held" if hold else "the job goes back into its queue")
        except VmBatchError as trouble:
            if log is not None:
                log.line(f"Slurm was to be told what becomes of the job, but {trouble}")
            answered = isinstance(trouble, CommandError) and "Unable to contact" not in trouble.output
            if error.fault is Fault.JOB or (answered and reader is not None):
                return told("the job has failed")
            return Outcome(1, "Slurm drains the node, and holds the job if it can")

    def unwanted(self, call: Call, config: Config) -> str:
        """Slurm lets a Prolog go on whatever becomes of its job, and of slurmd. Asks slurmctld now and then."""
        if self._left():
            return "slurmd has ended, and nobody waits for this Prolog"
        if time.monotonic() - self._asked < config.slurm_ask:
            return ""
        self._asked = time.monotonic()
        state = _state(call.environ, self.job_id(call))
        return f"the job is {state.lower() or 'gone'}" if state is not None and state not in _WANTED else ""

    def is_gone(self, job_id: str, script: Script | None, leader: Leader | None) -> bool | None:
        """slurmctld knows; it is asked once for all jobs."""
        if self._alive is None:
            try:
                said = _ask(os.environ, "squeue", "--noheader", f"--states={','.join(sorted(_ALIVE))}", "--format=%A")
            except VmBatchError:
                return None
            self._alive = set(said.split())
        return job_id not in self._alive

    def _left(self) -> bool:
        """Whether slurmd has ended since this hook began: its children become another's."""
        return os.getppid() != self._parent


def drain(environ: Mapping[str, str], reason: str) -> None:
    """Drains the node on which slurmd runs a HealthCheckProgram, unless it is drained already. VmBatchError."""
    node = environ.get("SLURMD_NODENAME", "")
    if "drain" not in _ask(environ, "sinfo", "--noheader", f"--nodes={node}", "--format=%T"):
        _ask(environ, "scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}")


def exit_status(call: Call) -> int | None:
    """How the job ended, as its Epilog is told: `STATUS:SIGNAL`; 128 + n for a death by signal n. None if that is not known."""
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,2})", call.environ.get("SLURM_JOB_EXIT_CODE2", ""))
    if match is None:
        return None
    return 128 + int(match[2]) if int(match[2]) else int(match[1])


def features(constraints: str) -> tuple[str, ...]:
    """The features that a constraint names, each once: `a&b`, `[a|b*2]`, `(a|b)&c` (sbatch(1), --constraint)."""
    return tuple(dict.fromkeys(re.findall(r"[A-Za-z_][A-Za-z0-9_.:=+-]*", constraints)))


def memory(tres: str) -> int | None:
    """Bytes of `cpu=2,mem=300M,node=1`; None where Slurm does not count memory."""
    match = re.search(r"(?:^|,)mem=([0-9]{1,12}(?:\.[0-9]{1,6})?)([KMGTP]?)(?:,|$)", tres)
    return None if match is None else int(float(match[1]) * (1 << 10 * " KMGTP".index(match[2] or " ")))


def alarm(path: str) -> float:
    """Seconds of PrologEpilogTimeout in slurm.conf and what that includes; the last one counts, as for Slurm itself."""
    stated = settings(path).get("prologepilogtimeout", [])
    number = re.match(r"[0-9]{1,9}\b", stated[-1]) if stated else None
    return float(number[0]) if number and 0 < int(number[0]) < _UNLIMITED else _NO_ALARM_SECONDS


def settings(path: str) -> dict[str, list[str]]:
    """The values of each setting in slurm.conf and what that includes, in their order, by its name in small letters."""
    found: dict[str, list[str]] = {}
    for line in _lines(path)[1]:
        if match := re.match(r"\s*([A-Za-z]+)\s*=\s*([^\s#]*)", line):
            found.setdefault(match[1].lower(), []).append(match[2])
    return found


def included(path: str) -> list[str]:
    """A file of Slurm's that can be read, and those that it includes."""
    return _lines(path)[0]


def _lines(path: str) -> tuple[list[str], list[str]]:
    """(files, their lines); slurmd has read what matters, and what cannot be read here has none."""
    files, read, lines = [path], [], []
    for place in files:
        try:
            with open(place, encoding="utf-8", errors="replace") as opened:
                text = opened.read().splitlines()
        except (OSError, ValueError):
            continue
        read.append(place)
        lines += text
        for line in text:
            if (match := re.match(r"\s*Include\s+(\S+)", line, re.IGNORECASE)) and len(files) < _FILES:
                files.append(os.path.join(os.path.dirname(path), match[1]))
    return read, lines


def _number(environ: Mapping[str, str], name: str) -> int:
    """A number that slurmd gives to a Prolog: `2`, or `2(x1)` for the processors of one node. NodeError."""
    match = re.fullmatch(r"([0-9]{1,10})(\(x1\))?", environ.get(name, ""))
    if match is None:
        raise NodeError(f"the Prolog was not given {name}", "it is to be run by slurmd, of Slurm 22.05 or later", code="VB902")
    return int(match[1])


def _reader(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Who may read why the job did not start: uid and gid."""
    try:
        return _number(environ, "SLURM_JOB_UID"), _number(environ, "SLURM_JOB_GID")
    except NodeError:
        return None


def _allocation(environ: Mapping[str, str], job_id: str) -> tuple[int | None, float | None]:
    """Bytes of the job's allocation, all of which is on this node, and since when it could run, in seconds since 1970. NodeError.

    None for what Slurm does not count, or say.
    """
    said = _ask(environ, "squeue", "--noheader", f"--jobs={job_id}", "--Format=JobID:20,EligibleTime:25,tres-alloc:400")
    row = next((row for row in map(str.split, said.splitlines()) if len(row) == 3 and row[0] == job_id), None)
    return (None, None) if row is None else (memory(row[2]), _moment(row[1]))


def _moment(text: str) -> float | None:
    """A time as Slurm's commands write it, in the node's time zone: `2024-02-29T13:00:00`, or `Unknown`, `N/A`."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _state(environ: Mapping[str, str], job_id: str) -> str | None:
    """The job's state, '' for a job that slurmctld does not know, None if it does not answer."""
    try:
        said = _ask(environ, "squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%A %T")
    except CommandError as error:
        return "" if "Invalid job id" in error.output else None
    except VmBatchError:
        return None
    rows = (line.split() for line in said.splitlines())
    return next((row[1] for row in rows if len(row) == 2 and row[0] == job_id), "")


def _ask(environ: Mapping[str, str], *argv: str) -> str:
    """What one of Slurm's commands says, by the slurm.conf that slurmd has. CommandError, DeadlineError."""
    conf = environ.get("SLURM_CONF")
    return process.run([*(("env", f"SLURM_CONF={conf}") if conf else ()), *argv], Deadline(_ASK_SECONDS))
