"""A batch job as the node's batch system describes it to a prologue."""

import re

import msgspec

from .errors import JobError

_JOB_ID = re.compile(r"[0-9]{1,18}(\[[0-9]{0,9}\])?(\.[A-Za-z0-9][A-Za-z0-9._-]{0,120})?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}\$?")
_TOKEN = re.compile(r"[0-9a-f]{32}")


class Group(msgspec.Struct, frozen=True):
    """A group's name and number."""

    name: str
    gid: int


class User(msgspec.Struct, frozen=True):
    """The submitting user as the node knows it; `groups` are the supplementary ones."""

    name: str
    uid: int
    group: Group
    groups: tuple[Group, ...]
    home: str
    shell: str


class Script(msgspec.Struct, frozen=True):
    """The job's script file and its identity: the batch system makes a new file for each start of a job."""

    path: str
    device: int
    inode: int
    mtime_ns: int


class Leader(msgspec.Struct, frozen=True):
    """The process of the batch system that leads the job's session on this node; `started` in clock ticks since boot."""

    pid: int
    started: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One start of one job on this node; `token` is this start's own, `wishes` is what the submitter asks VmBatch for, unchecked.

    `batch` is the batch system's name in the registry. `nodes` are the job's hosts, each once, the first node first, and
    `rank` is this node's place among them; a sister, whose rank is not 0, may know the first alone. `cores` and `memory` (bytes)
    are what the job may use on this node, as the batch system says itself; None where it does not. `type` is Torque's job type,
    `features` are Slurm's constraints. `leader` proves a job's shell to be this start's, where the batch system's own process
    becomes that shell. `queued` is since when it could have run, in seconds since 1970, where the batch system says so.
    `pooled` is the id of the start that made its guest, where that waited for a job: its things keep their names.
    """

    id: str
    token: str
    user: User
    name: str
    queue: str
    account: str
    resources: str
    script: Script | None
    node_file: str | None
    wishes: dict[str, str] = {}
    batch: str = "torque"
    rank: int = 0
    nodes: tuple[str, ...] = ()
    cores: int | None = None
    memory: int | None = None
    type: str = ""
    features: tuple[str, ...] = ()
    interactive: bool = False
    leader: Leader | None = None
    queued: float | None = None
    pooled: str = ""

    @property
    def slug(self) -> str:
        """The id as a file name."""
        return slug(self.id)

    @property
    def maker(self) -> str:
        """As `slug`, of the start that makes the guest."""
        return slug(self.pooled or self.id)

    @property
    def unique(self) -> str:
        """The name of all that this start owns where others own things, too."""
        return unique(self.id, self.token, self.pooled)

    def unique_on(self, node: str) -> str:
        """As `unique`, where what other nodes own lies beside it; `node` is this one's host name, '' if it does not matter."""
        return f"{self.maker}{_at(node)}.{self.token}"


def unique(job_id: str, token: str, pooled: str) -> str:
    """The name of what the start `token` of a job owns; see `Job`."""
    return f"{slug(pooled or job_id)}.{token}"


def slug(job_id: str) -> str:
    """A checked job id as a file name, as Torque writes it: `42[1].vm` becomes `42-1.vm`."""
    check_job_id(job_id)
    return job_id.replace("[", "-").replace("]", "")


def is_of_node(name: str, node: str) -> bool:
    """Whether what is called so may be this node's: a name of `unique_on` says it."""
    return "@" not in name or re.search(rf"{re.escape(_at(node))}\.[0-9a-f]{{32}}$", name) is not None


def _at(node: str) -> str:
    return f"@{re.sub('[^A-Za-z0-9._-]', '_', node)}" if node else ""


def check_job_id(job_id: str) -> None:
    """JobError unless it has the form of a Torque job id: `42`, `42.server`, `42[1].server`."""
    if not _JOB_ID.fullmatch(job_id) or ".." in job_id:
        raise JobError(f"{job_id[:80]!r} is not a job id", "a job id looks like 42.server or 42[1].server", code="VB201")


def check_name(name: str, what: str) -> None:
    """JobError unless `name` can be the name of a user, group or queue."""
    if not _NAME.fullmatch(name):
        raise JobError(f"{name[:80]!r} is not the name of a {what}", code="VB201")


def check_token(token: str) -> None:
    """JobError unless `token` is 32 hexadecimal digits."""
    if not _TOKEN.fullmatch(token):
        raise JobError("a start's token has 32 hexadecimal digits", code="VB201")
