"""Torque: arguments and environment of its hooks, exit statuses, the alarm. Facts from TORQUE 6.1.3, measured."""

import os
import re
import stat
from collections.abc import Mapping

from ..config import Config
from ..errors import EndedError, NodeError, VmBatchError
from ..host import clock
from ..host.log import Log
from ..job import Job, Leader, Script, check_job_id, check_name
from ..units import Deadline
from .account import parse_user
from .amount import memory, slots, unambiguous
from .leader import parent
from .momconfig import prologalarm
from .script import identify, is_gone
from .system import Call, Outcome
from .torquefault import BACK, REQUEUE, failed
from .wishes import parse_wishes

_DEFAULT_ALARM = 300
_LAST_SECONDS = 2.0
"""Kept for a hook's own end before the alarm."""
_SCRIPT_SUFFIX = ".SC"
_PROLOGUE_QUEUE, _EPILOGUE_QUEUE = 6, 8


class Torque:
    """Torque, as far as a job's own hooks on its first node go."""

    name = "torque"
    silent = False

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
            raise NodeError(f"the prologue was given {len(argv) - 1} arguments instead of 8", "it is to be run by pbs_mom",
                            code="VB902")
        identifier, user, group, name, resources, queue, account = argv[1:8]
        check_job_id(identifier)
        check_name(queue, "queue")
        script = argv[8] if len(argv) > 8 and argv[8] else None
        if script is None and job_directory is not None:
            script = os.path.join(job_directory, identifier.replace("[", "-").replace("]", "") + _SCRIPT_SUFFIX)
        person = parse_user(user, group)
        found = None if script is None else identify(script, person)
        if script is not None and found is None and not _may_lack_a_script(call.environ):
            raise EndedError(f"job {identifier} has no script any more: mom has done with it")
        node_file = _node_file(call.environ.get("PBS_NODEFILE", ""), identifier)
        rank, nodes = _place(call.environ, node_file)
        share = slots(call.environ, node_file)
        leader = call.parent or parent()
        return Job(
            batch=self.name, id=identifier, token=token, user=person, name=name, queue=queue, account=account,
            resources=resources, script=found, leader=leader, rank=rank, nodes=nodes,
            node_file=node_file, wishes=parse_wishes(resources), type=_type(argv[0], call.environ.get("PBS_NODENUM", "0")),
            cores=None if share is None else share[0],
            memory=memory(unambiguous(resources, call.environ.get("PBS_RESOURCE_NODES", "")), share),
        )

    def alarm(self, call: Call, config: Config) -> float:
        """`$prologalarm` of mom's configuration, less the 10 s that 6.1.3 takes off."""
        return alarm(call.directory)

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """As the site wants it; a job that the batch system has ended already gets no remedy."""
        if isinstance(error, EndedError):
            return Outcome(REQUEUE, BACK)
        deadline = Deadline(max(0.0, alarm(call.directory) - clock.age(os.getpid()) - _LAST_SECONDS))
        return failed(error, call, config, log, deadline)

    def unwanted(self, call: Call, config: Config) -> str:
        """Never: mom starts an epilogue beside the prologue."""
        return ""

    def is_gone(self, job_id: str, script: Script | None, leader: Leader | None) -> bool | None:
        """Mom keeps a job's script file until the epilogue has ended; an interactive job has none."""
        return None if script is None else is_gone(script)


def _argument(call: Call, number: int) -> str:
    return call.argv[number] if len(call.argv) > number else ""


def _may_lack_a_script(environ: Mapping[str, str]) -> bool:
    """On a sister, and for `qsub -I`, whose prologue writes to the submitter's terminal (measured)."""
    return environ.get("PBS_NODENUM", "0") != "0" or os.isatty(1) or os.isatty(2)


def _type(hook: str, rank: str) -> str:
    """What `qsub -T` named, by the name under which mom runs the hook: `prologue.kvm`, on a sister `prologue.parallel.kvm`."""
    name = os.path.basename(hook).removeprefix("prologue.parallel" if rank != "0" else "prologue")
    return name[1:] if re.fullmatch(r"\.[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) else ""


def exit_status(call: Call) -> int | None:
    """Of the job that an epilogue is about: its tenth argument; negative where mom ended it."""
    text = _argument(call, 10)
    return int(text) if re.fullmatch("-?[0-9]{1,4}", text) else None


def _node_file(path: str, job_id: str) -> str | None:
    """The node file that mom made, if it made one: root's, called as the job (resmom/start_exec.c, TMomFinalizeChild)."""
    if os.path.basename(path) != job_id:
        return None
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
        raise NodeError(f"mom says that this is the job's node number {number[:80]!r}", "it is to be run by pbs_mom",
                        code="VB902")
    if int(number):
        return int(number), (environ.get("PBS_MSHOST", ""),)
    if node_file is None:
        return 0, ()
    with open(node_file, encoding="utf-8", errors="replace") as opened:
        return 0, tuple(dict.fromkeys(line.strip() for line in opened if line.strip()))


def alarm(mom_directory: str) -> float:
    """Seconds until mom kills a hook: `$prologalarm` of its configuration, less the 10 s that 6.1.3 takes off."""
    seconds = prologalarm(mom_directory, _DEFAULT_ALARM)
    return seconds - 10 if seconds > 10 else seconds
