"""What only Torque's server knows of a job for certain: its resources one by one, and the variables of `qsub -v`.

`qstat -x JOB` writes XML in one line: `<Data><Job><Job_Id>42.vm</Job_Id>..<Resource_List><mem>512mb</mem>..</Resource_List>
<Variable_List>PBS_O_HOME=/home/alice,..</Variable_List>..</Job></Data>`. What users wrote is in it, escaped.
"""

import re

import msgspec

from ..config import Config
from ..errors import CommandError, JobError, NodeError, SiteError
from ..host import file, process
from ..job import Job
from ..units import Deadline
from .amount import memory, slots
from .system import Call
from .wishes import parse_other, parse_variables

_LARGE = 60 << 10
_TOKEN = re.compile(r"<(/?)([A-Za-z_][A-Za-z0-9_.-]*)(/?)>|([^<>]+)")
_HEADER = re.compile(r"\s*(<\?xml [^<>]*\?>)?\s*")


def ask(call: Call, job: Job, config: Config) -> Job:
    """The job with what the server says of its memory and of what it asks of VmBatch. NodeError, SiteError, JobError."""
    if not config.requests_qstat:
        return job
    file.check_trusted(config.requests_qstat)
    try:
        said = process.run([config.requests_qstat, "-x", job.id], Deadline(config.requests_patience), quiet=True)
    except CommandError as error:
        if "Unauthorized" in error.output:
            raise SiteError("the batch system's server tells this node nothing about its jobs",
                            "qmgr -c 'set server query_other_jobs = True', or leave [requests] qstat empty",
                            code="VB915") from None
        raise
    if len(said) > _LARGE and not said.lstrip().startswith("<"):
        raise JobError("the job has more variables than its prologue can read", "leave out qsub -V, and name them with -v",
                       code="VB210")
    job_id, resources, variables, queued = read(said)
    if job_id != job.id:
        raise NodeError(f"asked about job {job.id}, the server tells about job {job_id[:80]!r}", code="VB915")
    wishes = parse_other(resources.get("other", ""))
    for name, value in parse_variables(variables).items():
        if wishes.setdefault(name, value) != value:
            raise JobError(f"{name} is asked for twice: by -l other= and by -v", code="VB203")
    amount = memory(resources, slots(call.environ, job.node_file))
    return msgspec.structs.replace(job, wishes=wishes, memory=amount, queued=queued)


def read(text: str) -> tuple[str, dict[str, str], str, float | None]:
    """(job id, resources, variables, since when it could run) of the one job in the answer. NodeError for what is not just that.

    The time, in seconds since 1970, is the job's `etime`; None where the server does not say it.
    """
    start = _HEADER.match(text)
    at = start.end() if start else 0
    path: list[str] = []
    values: dict[tuple[str, ...], str] = {}
    seen: set[tuple[str, ...]] = set()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _strange()
        at = match.end()
        closing, name, empty, content = match.groups()
        if content is not None:
            values[tuple(path)] = values.get(tuple(path), "") + content
            continue
        if not closing:
            path.append(name)
            if tuple(path) in seen:
                raise _strange()
            seen.add(tuple(path))
        if (closing or empty) and (not path or path.pop() != name):
            raise _strange()
    if path:
        raise _strange()
    import html

    found = {"/".join(place): html.unescape(value) for place, value in values.items()}
    resources = {name.removeprefix("Data/Job/Resource_List/"): value for name, value in found.items()
                 if name.startswith("Data/Job/Resource_List/")}
    eligible = found.get("Data/Job/etime", "")
    queued = float(eligible) if re.fullmatch("[0-9]{1,12}", eligible) else None
    return found.get("Data/Job/Job_Id", ""), resources, found.get("Data/Job/Variable_List", ""), queued


def _strange() -> NodeError:
    return NodeError("the server's answer about the job cannot be understood", "see qstat -x; or leave [requests] qstat empty",
                     code="VB915")
