"""What OpenPBS knows of a job and does not tell its prologue: noted by our hook in pbs_mom, or asked of the server.

The hook (scripts/openpbs/vmbatch_hook.py) writes one file for each job, root's alone: the queue on the first line, JSON behind
it. Without the hook there is `qstat -f -F json`, whose attributes have the same names as in pbs_mom (include/pbs_ifl.h).
"""

import functools
import os
from typing import Any

import msgspec

from ..errors import NodeError
from ..host import file, process
from ..job import check_job_id, slug
from ..units import Deadline

NOTES = "/run/vmbatch/openpbs"
_PBS_CONF = "/etc/pbs.conf"
_ASK_SECONDS = 20.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A job as OpenPBS describes it, word for word.

    `node` is this node's name as a vnode, `first` whether the job's first node is this one; `alarm` is the hook's, in seconds,
    None where no hook runs.
    """

    queue: str
    name: str
    account: str = ""
    resources: dict[str, str] = {}
    variables: dict[str, str] = {}
    exec_host: str = ""
    exec_vnode: str = ""
    node: str = ""
    first: bool = True
    interactive: bool = False
    alarm: float | None = None


def path_of(job_id: str, suffix: str = "facts") -> str:
    """The file that the hook writes for a job (`facts`), or reads (`verdict`). JobError."""
    return os.path.join(NOTES, f"{slug(job_id)}.{suffix}")


@functools.lru_cache(maxsize=1)
def of(job_id: str) -> Facts:
    """What is known of a job. JobError, NodeError."""
    check_job_id(job_id)
    path = path_of(job_id)
    if os.path.lexists(path):
        _, _, text = file.read_trusted(path).partition(b"\n")
        return _decode(text, path)
    return _ask(job_id)


def _decode(text: bytes, source: str) -> Facts:
    try:
        return msgspec.json.decode(text, type=Facts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NodeError(f"{source} does not describe a job: {error}", code="VB902") from None


def _ask(job_id: str) -> Facts:
    program = os.path.join(setting("PBS_EXEC", "/opt/pbs"), "bin/qstat")
    file.check_trusted(program)
    said = process.run([program, "-f", "-F", "json", job_id], Deadline(_ASK_SECONDS), quiet=True)
    try:
        jobs = msgspec.json.decode(said.encode(), type=dict[str, Any]).get("Jobs", {})
        known = jobs[job_id]
        return Facts(
            queue=_text(known["queue"]), name=_text(known.get("Job_Name")), account=_text(known.get("Account_Name")),
            resources=_texts(known.get("Resource_List")), variables=_texts(known.get("Variable_List")),
            exec_host=_text(known.get("exec_host2") or known.get("exec_host")), exec_vnode=_text(known.get("exec_vnode")),
            node=os.uname().nodename, interactive=_text(known.get("interactive")).lower() in ("true", "1"),
        )
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError):
        raise NodeError(f"{program} does not describe job {job_id}",
                        "let pbs_mom note its jobs: import vmbatch_hook.py with the event execjob_begin", code="VB902") from None


def _text(value: object) -> str:
    """qstat writes numbers bare."""
    return "" if value is None else str(value)


def _texts(values: dict[str, object] | None) -> dict[str, str]:
    return {name: _text(value) for name, value in (values or {}).items()}


def setting(name: str, default: str) -> str:
    """A path out of /etc/pbs.conf, which only root can change. SiteError."""
    if not os.path.lexists(_PBS_CONF):
        return default
    for line in file.read_trusted(_PBS_CONF).decode(errors="replace").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key == name and value.startswith("/"):
            return value.rstrip("/") or "/"
    return default
