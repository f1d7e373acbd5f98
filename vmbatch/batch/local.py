"""Jobs that an admin or a user makes by hand, without a batch system: what that would say of a job stands in an order."""

from collections.abc import Mapping

import msgspec

from ..config import Config
from ..errors import NodeError, VmBatchError
from ..host import clock
from ..host.log import Log
from ..job import Group, Job, Leader, Script, User, check_job_id
from .account import parse_user
from .system import Call, Outcome

QUEUE = "local"
"""Of every such job; see `alone`."""
_NUMBERS = 10**9


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job made by hand: as `Job` has it, user and group by name.

    `kind` is the word behind the number in the job's id; who makes a job is its leader, and removes it.
    """

    kind: str
    user: str
    group: str
    name: str
    cores: int | None = None
    memory: int | None = None
    wishes: dict[str, str] = {}


class Local:
    """No batch system: nobody kills a start, and a job is over when the process that made it is."""

    name = "local"
    silent = False

    def job_id(self, call: Call) -> str:
        """The first argument of `call`'s."""
        return call.argv[1]

    def queue(self, call: Call, hook: str) -> str:
        """The same for all."""
        return QUEUE

    def parse(self, call: Call, token: str, job_directory: str | None) -> Job:
        """The job that was ordered. JobError, NodeError."""
        check_job_id(call.argv[1])
        order = msgspec.json.decode(call.argv[2], type=Order)
        return Job(
            batch=self.name, id=call.argv[1], token=token, user=parse_user(order.user, order.group), name=order.name, queue=QUEUE,
            account="", resources="", script=None, node_file=None, wishes=order.wishes, cores=order.cores, memory=order.memory,
            leader=call.parent)

    def alarm(self, call: Call, config: Config) -> float:
        """As long as a start can take when nobody kills it: all its waits, one after the other."""
        return (config.admission_wait + config.images_wait + config.images_transfer
                + config.timeouts_boot * config.timeouts_scale + config.timeouts_margin)

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """There is no queue into which the job could go back."""
        return Outcome(1, "")

    def unwanted(self, call: Call, config: Config) -> str:
        """Never: who does not want it any more ends it by a signal."""
        return ""

    def is_gone(self, job_id: str, script: Script | None, leader: Leader | None) -> bool | None:
        """With the process that made it."""
        return leader is None or clock.started(leader.pid) != leader.started


def new_number() -> int:
    """For a job's id."""
    import secrets

    return secrets.randbelow(_NUMBERS)


def of_node(job_id: str, name: str) -> Job:
    """A start of the node's own, for whose guest there is no job, or none yet; this process leads it."""
    me = clock.this_process()
    root = User("root", 0, Group("root", 0), (), "/", "/bin/sh")
    return Job(id=job_id, token=clock.new_token(), user=root, name=name, queue=QUEUE, account="", resources="", script=None,
               node_file=None, batch=Local.name, leader=Leader(me.pid, me.started))


def call(order: Order, environ: Mapping[str, str] | None = None) -> Call:
    """This process's call for a new job. NodeError."""
    me = clock.this_process()
    if not me.started:
        raise NodeError("this process is not to be seen in /proc", "mount /proc without hidepid for root", code="VB906")
    number = f"{new_number()}.{order.kind}"
    return Call(["vmbatch", number, msgspec.json.encode(order).decode()], environ or {}, "/", Leader(me.pid, me.started))
