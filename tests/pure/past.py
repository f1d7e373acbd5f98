"""Starts that are over, as histories have them; and a month of two nodes, made up the same way each time."""

import hashlib
import random

import msgspec

from vmbatch import history
from vmbatch.host import clock
from vmbatch.status import Failure, Status, Step

from .sample import TOKEN

MOMENT = 1_700_000_000.0
STATUS = Status(
    job="42.vm", token=TOKEN, user="alice", uid=1500, queue="vm", batch="torque", node="node1",
    template="/etc/vmbatch/domains/debian.xml", cores=2, memory=512 << 20, started=MOMENT, queued=7.5,
    owner=clock.ProcessIdentity(1, 0, "boot"), guest="vmbatch-42.vm-01234567", address="10.0.0.20",
    steps=(Step("begin", 100.0), Step("admission", 100.25), Step("images", 100.5), Step("disks", 101.0),
           Step("network filter", 101.5), Step("context", 101.5), Step("start", 102.0), Step("boot", 103.0), Step("login", 113.0),
           Step("ready", 114.0), Step("run", 114.5), Step("epilogue", 174.5), Step("release", 175.0)))


def status(**changed: object) -> Status:
    return msgspec.structs.replace(STATUS, **changed)


def record(**changed: object) -> history.Record:
    """One that ran for a minute."""
    return msgspec.structs.replace(history.of(STATUS, "its epilogue has run", 0, 176.0), **changed)


FAILURES = (Failure("VB501", "site", "the guest was not ready within 240 s (phase boot: it has not announced its address)"),
            Failure("VB301", "node", "https://images.example.org/el9.qcow2: the server does not answer"),
            Failure("VB204", "job", "the guest needs 64 cores, and this node has 32 for guests"))


def month(starts: int = 400, days: float = 2.0) -> list[history.Record]:
    """Of two nodes and three templates, some of which failed; no two runs differ."""
    dice = random.Random(8)  # noqa: S311
    free: dict[tuple[str, int], float] = {}
    made = []
    for number in range(starts):
        template, boot, run = dice.choice((("debian", 9.0, 1800.0), ("debian", 9.0, 600.0), ("cernvm", 21.0, 5400.0),
                                           ("el9", 14.0, 3600.0)))
        node = dice.choice(("node1", "node1", "node2"))
        lane = min(range(6), key=lambda each: free.get((node, each), 0.0))
        at = max(free.get((node, lane), 0.0), number * days * 86400 / starts) + dice.expovariate(1 / 40)
        lengths = [("begin", 0.02), ("admission", dice.expovariate(1 / 0.05)), ("images", dice.choice((0.01, 0.01, 0.01, 24.0)) *
                   dice.uniform(0.7, 1.4)), ("disks", 0.06 * dice.uniform(0.5, 2)), ("context", 0.12 * dice.uniform(0.8, 1.5)),
                   ("start", 0.3 + 0.35 * dice.uniform(0.8, 1.6)),
                   ("boot", boot * dice.lognormvariate(0, 0.18)),
                   ("login", 0.9 * dice.uniform(0.7, 1.8)), ("ready", 0.05), ("run", run * dice.lognormvariate(0, 0.7)),
                   ("epilogue", 0.1), ("release", 0.5 * dice.uniform(0.7, 2))]
        failure = dice.choices((None, *FAILURES), (94, 3, 2, 1))[0]
        if failure is not None:
            cut = {"VB501": 8, "VB301": 3, "VB204": 1}[failure.code]
            lengths = [*lengths[:cut], ("release", 0.4)]
            if failure.code == "VB501":
                lengths[7] = ("boot", 240.0)
        steps, clock_ = [], 1000.0
        for name, length in lengths:
            steps.append(Step(name, clock_))
            clock_ += length
        token = hashlib.sha256(str(number).encode()).hexdigest()[:32]
        known = status(job=f"{4200 + number}.vm", token=token, user=dice.choice(("alice", "bob", "carol")), node=node,
                       template=f"/etc/vmbatch/domains/{template}.xml", cores=dice.choice((1, 2, 4)), started=MOMENT + at,
                       queued=round(dice.expovariate(1 / 300), 1), steps=tuple(steps), failure=failure,
                       memory=dice.choice((1, 2, 4)) << 30, address=f"10.0.0.{20 + lane}")
        why = "its epilogue has run" if failure is None else f"it could not start: {failure.what}"
        made.append(history.of(known, why, None if failure else dice.choices((0, 1, 271), (9, 1, 0.3))[0], clock_))
        free[(node, lane)] = at + clock_ - 1000.0
    return made
