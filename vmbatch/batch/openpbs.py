"""OpenPBS: a prologue with three arguments, the rest from our hook in pbs_mom; what becomes of a job that cannot start.

The facts are from OpenPBS's sources: resmom/prolog.c (run_pelog), resmom/start_exec.c (finish_exec, job_nodes_inner) and
resmom/mom_hook_func.c (run_hook, mom_process_hooks).
"""

import os
import re
import stat

import msgspec

from ..config import Config
from ..errors import BusyError, EndedError, Fault, JobError, NodeError, VmBatchError
from ..host import file
from ..host.log import Log
from ..job import Job, Leader, Script, check_job_id, check_name, slug
from . import failures, pbsfacts
from .account import parse_user
from .momconfig import prologalarm
from .pbsfacts import Facts
from .script import identify, is_gone
from .system import Call, Outcome

START, ABORT, REQUEUE = 0, 1, 2
_DEFAULT_ALARM = 30
"""prolog.c, PBS_PROLOG_TIME."""
_HOOK_SECONDS = 2.0
"""Kept of the hook's alarm for pbs_python itself."""
_EPILOGUE_QUEUE = 8
HOME = "/var/spool/pbs"
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


class OpenPBS:
    """OpenPBS and PBS Professional, by mom_priv's scripts and by pbs_mom's hooks."""

    name = "openpbs"
    silent = False

    def job_id(self, call: Call) -> str:
        """The first argument of every hook."""
        return call.argv[1] if len(call.argv) > 1 else ""

    def queue(self, call: Call, hook: str) -> str:
        """The eighth argument of an epilogue; a prologue is not told. NodeError."""
        if hook == "epilogue":
            return call.argv[_EPILOGUE_QUEUE] if len(call.argv) > _EPILOGUE_QUEUE else ""
        return pbsfacts.of(self.job_id(call)).queue

    def parse(self, call: Call, token: str, job_directory: str | None) -> Job:
        """The job of a prologue: job id, user, group; all else is what pbs_mom or the server know of it."""
        if len(call.argv) < 4:
            raise NodeError(f"the prologue was given {len(call.argv) - 1} arguments instead of 3", "it is to be run by pbs_mom",
                            code="VB902")
        identifier, user, group = call.argv[1:4]
        check_job_id(identifier)
        known = pbsfacts.of(identifier)
        check_name(known.queue, "queue")
        person = parse_user(user, group)
        nodes, rank = hosts(known)
        cores, memory = share(known, nodes[rank] if nodes else "")
        home = pbsfacts.setting("PBS_HOME", HOME)
        script = os.path.join(job_directory or os.path.join(home, "mom_priv/jobs"), f"{identifier}.SC")
        return Job(
            batch=self.name, id=identifier, token=token, user=person, name=known.name, queue=known.queue, account=known.account,
            resources=",".join(f"{name}={value}" for name, value in known.resources.items()),
            script=None if known.interactive or rank else identify(script, person),
            node_file=_node_file(os.path.join(home, "aux", identifier)), wishes=wishes(known), nodes=nodes, rank=rank,
            cores=cores, memory=memory, interactive=known.interactive,
        )

    def alarm(self, call: Call, config: Config) -> float:
        """The hook's own alarm, or `$prologalarm` of mom's configuration for a prologue that mom runs itself."""
        known = pbsfacts.of(self.job_id(call))
        return prologalarm(call.directory, _DEFAULT_ALARM) if known.alarm is None else known.alarm - _HOOK_SECONDS

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """A job's own fault deletes it. For others the hook, if one runs us, is told what the site wants done."""
        verdict = _verdict(error, config)
        told = False
        try:
            job_id = self.job_id(call)
            if verdict == "offline" and not failures.is_the_nodes(error, job_id, "".join(call.argv[2:3]), config):
                verdict = "rerun"
            if pbsfacts.of(job_id).alarm is not None:
                text = " ".join(f"job {slug(job_id)} could not start: {error.coded(error.lines()[0])}".split())
                file.replace(pbsfacts.path_of(job_id, "verdict"), msgspec.json.encode({"verdict": verdict, "text": text}), 0o600)
                told = True
        except (VmBatchError, OSError) as trouble:
            (log or Log(None, "-", "prologue")).line(f"the hook cannot be told what to do: {trouble}")
        if verdict == "delete":
            return Outcome(ABORT, "the job is deleted")
        words = {"hold": "the job is held until an administrator releases it",
                 "offline": "the job goes back into its queue, and this node takes no more jobs"}
        return Outcome(REQUEUE, words.get(verdict, _BACK) if told else _BACK)

    def unwanted(self, call: Call, config: Config) -> str:
        """Never: mom runs the hook's events beside the prologue."""
        return ""

    def is_gone(self, job_id: str, script: Script | None, leader: Leader | None) -> bool | None:
        """Mom keeps the job's script, and for every job a file of its own, until it forgets the job."""
        if script is not None:
            return is_gone(script)
        jobs = os.path.join(pbsfacts.setting("PBS_HOME", HOME), "mom_priv/jobs")
        return not os.path.lexists(os.path.join(jobs, f"{job_id}.JB")) if os.path.isdir(jobs) else None


_BACK = "the job goes back into its queue"


def _verdict(error: VmBatchError, config: Config) -> str:
    """What the hook is to do: delete, rerun, hold, or offline."""
    if error.fault is Fault.JOB:
        return "delete"
    if isinstance(error, EndedError | BusyError):
        return "rerun"
    wanted = config.openpbs_node_fault if error.fault is Fault.NODE else config.openpbs_site_fault
    return "rerun" if wanted == "requeue" else wanted


def hosts(known: Facts) -> tuple[tuple[str, ...], int]:
    """The job's hosts, each once, the first node first, and this node's place. NodeError.

    `exec_host2` has an entry for each chunk: `host.domain:15002/0*2+other.domain:15002/1`; `exec_host` has `host/0*2+other/1`.
    """
    names = tuple(dict.fromkeys(_host(entry) for entry in known.exec_host.split("+") if entry))
    if len(names) <= 1:
        return names, 0
    if known.first:
        return names, 0
    own = [place for place, name in enumerate(names) if _short(name) == _short(known.node)]
    if len(own) != 1:
        raise NodeError(f"job's hosts {known.exec_host[:200]!r} do not name this node, {known.node}", code="VB902")
    return names, own[0]


def _host(entry: str) -> str:
    name = re.split("[:/]", entry, maxsplit=1)[0]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", name):
        raise NodeError(f"{name[:80]!r} is no name of a host", code="VB902")
    return name


def _short(name: str) -> str:
    return name.partition(".")[0].lower()


def share(known: Facts, host: str) -> tuple[int | None, int | None]:
    """Cores and memory (bytes) that the job has on one host: the sum of its chunks there. None where nothing is said.

    `exec_vnode` has an entry for each of exec_host's: `(vnode:ncpus=2:mem=1gb+vnode2:ncpus=1)+(other:ncpus=1)`.
    """
    chunks = [inner or bare for inner, bare in re.findall(r"\(([^()]*)\)|([^+()]+)", known.exec_vnode)]
    entries = [_host(entry) for entry in known.exec_host.split("+") if entry]
    if len(chunks) != len(entries):
        return None, None
    wanted = [part for chunk, entry in zip(chunks, entries, strict=True) if entry == host for part in re.split("[:+]", chunk)]
    cores = [int(found[1]) for part in wanted if (found := re.fullmatch(r"ncpus=(\d{1,6})", part))]
    memory = [_size(part.removeprefix("mem=")) for part in wanted if part.startswith("mem=")]
    return (sum(cores) if cores else None), (sum(memory) if memory else None)


def _size(text: str) -> int:
    """OpenPBS's sizes: `10gb`, `512mw` (words of eight bytes), `1024`, which is bytes (Libattr/attr_fn_size.c). NodeError."""
    match = re.fullmatch(r"(\d{1,18})([kmgtp]?)([bw]?)", text.lower())
    if match is None:
        raise NodeError(f"{text[:80]!r} is no size of OpenPBS's", code="VB902")
    return (int(match[1]) << _UNITS[match[2]]) * (8 if match[3] == "w" else 1)


def wishes(known: Facts) -> dict[str, str]:
    """What the submitter asks of VmBatch: resources that the site has made (`-l vbX=VALUE`), and variables (`-v vbX=VALUE`)."""
    found = {name: value for name, value in known.resources.items() if name.startswith("vb")}
    for name, value in known.variables.items():
        if name.startswith("vb"):
            if found.get(name, value) != value:
                raise JobError(f"{name[:80]} is asked for as a resource and as a variable, differently", "use -l or -v",
                               code="VB203")
            found[name] = value
    empty = [name for name, value in found.items() if not value]
    if empty:
        raise JobError(f"{empty[0][:80]}: a value is missing", f"write {empty[0][:80]}=VALUE", code="VB203")
    return found


def _node_file(path: str) -> str | None:
    """The node file that mom made: root's, in a directory of root's (start_exec.c, generate_pbs_nodefile)."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISREG(status.st_mode) and status.st_uid == 0 else None
