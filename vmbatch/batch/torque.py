"""Torque: arguments and environment of its hooks, exit statuses, the alarm. Facts from TORQUE 6.1.3, measured."""

import os
import re
import stat
from collections.abc import Mapping

from ..config import Config
from ..errors import Fault, NodeError, SiteError, VmBatchError
from ..host.log import Log
from ..job import Job, Script, check_job_id, check_name
from .account import parse_user
from .amount import memory, slots, unambiguous
from .leader import parent
from .script import identify, is_gone
from .system import Call, Outcome
from .wishes import parse_wishes

START, ABORT, REQUEUE = 0, 1, 2
_DEFAULT_ALARM = 300
_SCRIPT_SUFFIX = ".SC"
_PROLOGUE_QUEUE, _EPILOGUE_QUEUE = 6, 8


class Torque:
    """Torque, as far as a job's own hooks on its first node go."""

    name = "torque"

    def job_id(self, call: Call) -> str:
        """The first argument of every hook."""
        return _argument(call, 1)

    def queue(self, call: Call, hook: str) -> str:
        """The sixth argument of a prologue, the eighth of an epilogue."""
        return _argument(call, _PROLOGUE_QUEUE if hook == "prologue" else _EPILOGUE_QUEUE)

    def parse(self, call: Call, token: str, job_directory: str | None) -> Job:
        """The job of a prologue: job id, user, group, job name, resource list, queue, account, path of the script file."""
        argv = call.argv
        if len(argv) < 8:
            raise NodeError(f"the prologue was given {len(argv) - 1} arguments instead of 8", "it is to be run by pbs_mom")
        identifier, user, group, name, resources, queue, account = argv[1:8]
        check_job_id(identifier)
        check_name(queue, "queue")
        script = argv[8] if len(argv) > 8 and argv[8] else None
        if script is None and job_directory is not None:
            script = os.path.join(job_directory, identifier.replace("[", "-").replace("]", "") + _SCRIPT_SUFFIX)
        person = parse_user(user, group)
        found = None if script is None else identify(script, person)
        node_file = _node_file(call.environ.get("PBS_NODEFILE", ""))
        rank, nodes = _place(call.environ, node_file)
        share = slots(call.environ, node_file)
        leader = (call.parent or parent()) if found is None else None
        return Job(
            batch=self.name, id=identifier, token=token, user=person, name=name, queue=queue, account=account,
            resources=resources, script=found, leader=leader, rank=rank, nodes=nodes,
            node_file=node_file, wishes=parse_wishes(resources), type=_type(argv[0]), cores=None if share is None else share[0],
            memory=memory(unambiguous(resources, call.environ.get("PBS_RESOURCE_NODES", "")), share),
        )

    def alarm(self, call: Call, config: Config) -> float:
        """`$prologalarm` of mom's configuration, less the 10 s that 6.1.3 takes off."""
        return alarm(call.directory)

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """A job's own fault aborts it, anything else puts it back into its queue."""
        if error.fault is Fault.JOB:
            return Outcome(ABORT, "the job is aborted")
        return Outcome(REQUEUE, "the job goes back into its queue")

    def is_gone(self, job_id: str, script: Script | None) -> bool | None:
        """Mom keeps a job's script file until the epilogue has ended; an interactive job has none."""
        return None if script is None else is_gone(script)


def _argument(call: Call, number: int) -> str:
    return call.argv[number] if len(call.argv) > number else ""


def _type(path: str) -> str:
    """The job type, `qsub -T NAME`, for which mom runs `prologue.NAME` where there is one."""
    name = os.path.basename(path).partition(".")[2].removeprefix("parallel").removeprefix(".")
    return "" if name == "user" else name


def exit_status(call: Call) -> int | None:
    """Of the job that an epilogue is about: its tenth argument; negative where mom ended it."""
    text = _argument(call, 10)
    return int(text) if re.fullmatch("-?[0-9]{1,4}", text) else None


def _node_file(path: str) -> str | None:
    """The node file that mom made, if it made one: root's, in a directory of root's (resmom/start_exec.c, TMomFinalizeChild)."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISREG(status.st_mode) and status.st_uid == 0 else None


def _place(environ: Mapping[str, str], node_file: str | None) -> tuple[int, tuple[str, ...]]:
    """(this node's number, hosts of the job): a sister has no node file, and knows the first node alone. NodeError.

    Mom sets both variables of each hook herself, the number by the order of the node file (resmom/prolog.c,
    setup_pelog_environment).
    """
    number = environ.get("PBS_NODENUM", "0")
    if not re.fullmatch("[0-9]{1,6}", number):
        raise NodeError(f"mom says that this is the job's node number {number[:80]!r}", "it is to be run by pbs_mom")
    if int(number):
        return int(number), (environ.get("PBS_MSHOST", ""),)
    if node_file is None:
        return 0, ()
    with open(node_file, encoding="utf-8", errors="replace") as opened:
        return 0, tuple(dict.fromkeys(line.strip() for line in opened if line.strip()))


def alarm(mom_directory: str) -> float:
    """Seconds until mom kills a hook: `$prologalarm` of its configuration, less the 10 s that 6.1.3 takes off."""
    seconds = _DEFAULT_ALARM
    try:
        with open(os.path.join(mom_directory, "config"), encoding="utf-8", errors="replace") as config:
            for line in config:
                if match := re.match(r"\s*\$prologalarm\s+(\d{1,6})\s*(#.*)?$", line):
                    seconds = int(match[1])
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SiteError(f"{mom_directory}/config: {error.strerror}") from None
    return seconds - 10 if seconds > 10 else seconds
