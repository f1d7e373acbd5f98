"""Plays one case: hooks started by the lab's mom on the worker's node, interrupted, cleaned up after, and what is left."""

import contextlib
import functools
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab import loaded, mom, nest, place
from lab.fakeport import begun, taken
from lab.remains import Node, in_child
from vmbatch import ending, guard, journal
from vmbatch.host import nft
from vmbatch.host.log import Log

from . import hooks, sister, state
from .case import NOT_REACHED, Answer, Case
from .tracer import Point, Trace, Tracer, Wanted
from .trouble import TROUBLES

JOURNALS = "/var/lib/vmbatch/jobs/"
_HOOK_SECONDS = 30
_SLICE_SECONDS = 0.15
Hook = subprocess.Popen[bytes]


class Player:
    """All kinds of cases, by the name of a method."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.mom = loaded.LoadedMom(hooks.prepare)
        loaded.preload()
        nft.apply(guard.BASE)  # a node's first start makes what is for all, and so has more points
        self.kept: dict[str, state.Kept] = {}

    def play(self, case: Case) -> Answer:
        """The answer to a case; the node is as new before it."""
        kinds: dict[str, Callable[[Case], Answer]] = {
            "prologue": self.prologue, "epilogue": self.epilogue, "overlap": self.overlap, "torn": self.torn,
            "moment": self.moment, "schedule": self.schedule, "refill": self.refill,
            **{name: functools.partial(act, self) for name, act in TROUBLES.items()},
        }
        self.node.clear()
        with self.node.configured(nest.EXPORTING if case.begin == "exported" else nest.CONFIG):
            return kinds[case.kind](case)

    # The matrix: a kill at a point; at point 0 there is none, and the answer has all points.

    def prologue(self, case: Case) -> Answer:
        """`begin`: `nothing`, `failing` for a guest that fails, `keeping` for one of which something is kept, `remains` for
        another job's remains on the node, `own` for an image of the user's, `party` for a job on two nodes, `disk` for a context
        in the guest's disk, `exported` for a watched guest with an exported part of the share,
        `waiting` for a guest that waited."""
        if case.begin == "remains":
            self.kept_state("crashed").restore(self.node)
        if case.begin == "waiting":
            kept = self.kept_state("waiting")
            for before in (begun(nest.PORT), taken(nest.PORT)):
                before.unlink(missing_ok=True)
            kept.restore(self.node)
            _until(begun(nest.PORT).exists, _HOOK_SECONDS)
        asked = {"own": nest.OWN, "keeping": nest.KEEPING}.get(case.begin, "")
        job = self.accept(nest.FAILING if case.begin in ("failing", "keeping") else "alice", other=asked,
                          queue={"disk": nest.DISK_QUEUE, "exported": nest.EXPORT_QUEUE,
                                 "waiting": nest.POOL_QUEUE}.get(case.begin, nest.QUEUE),
                          hosts=sister.HOSTS if case.begin == "party" else (sister.FIRST,))
        with sister.joining(job) if case.begin == "party" else contextlib.nullcontext():
            trace = self._killed(self._traced_prologue(job, case.mutation), case)
        kinds = _kinds()
        said = [] if case.at or bool(trace.status) == (job.user == nest.FAILING) else [
            f"the prologue ended with {trace.status}: {job.errors.decode()}"]
        if case.begin == "waiting":
            said += _wait_untouched() if case.at or taken(nest.PORT).exists() else ["the guest that waits was not taken"]
        said += self.clean(job, case.cleanup)
        if case.begin == "waiting":
            said += self._vmbatch("sweep") + _wait_untouched() + self._vmbatch("pool", "drain")
        if case.begin == "remains":
            said += self.clean(self.kept_state("crashed").job, "sweep")
        if case.begin == "keeping":
            said += self._vmbatch("sweep", "--release", job.id)
        answer = self.answer(trace, said)
        answer.kinds = kinds
        return answer

    def epilogue(self, case: Case) -> Answer:
        """`begin`: `handed-over`, `crashed` or `taken`, the state of the job when its first epilogue starts."""
        kept = self.kept_state(case.begin)
        if case.begin == "taken":
            begun(nest.PORT).unlink(missing_ok=True)
            taken(nest.PORT).touch()
        kept.restore(self.node)
        if case.begin == "taken":
            _until(begun(nest.PORT).exists, _HOOK_SECONDS)
        trace = self._killed(self.mom.start_epilogue(kept.job, name=hooks.hook("epilogue", case.mutation)).pid, case)
        said = [] if case.begin != "taken" else _wait_untouched() + (
            ["the guest does not wait again"] if not (case.at or journal.waiting()) else [])
        said += self.clean(kept.job, case.cleanup)
        if case.begin == "taken":
            said += self._vmbatch("sweep") + self._vmbatch("pool", "drain")
        return self.answer(trace, said)

    def refill(self, case: Case) -> Answer:
        """`vmbatch pool refill`; a guest that waits in the end is whole."""
        with open(os.memfd_create("said"), "w+b") as out:
            trace = self._killed(loaded.begin(("pool", "refill"), out.fileno(), hooks.hold), case)
            out.seek(0)
            said = [] if case.at or trace.status == 0 else [f"it ended with {trace.status}: {out.read().decode()}"]
        said += self._vmbatch("sweep")
        waiting, guests = len(journal.waiting()), len(self.node.domains())
        if waiting != guests or not (waiting or case.at):
            said.append(f"{waiting} wait, and there are {guests} guests")
        return self.answer(trace, said + self._vmbatch("pool", "drain"))

    def _killed(self, leader: int, case: Case) -> Trace:
        tracer = Tracer(leader, lambda number, _: number == case.at)
        if case.after:
            tracer.after = tracer.kill
        else:
            tracer.before = tracer.kill
        return tracer.run()

    def answer(self, trace: Trace, said: list[str]) -> Answer:
        where = str(trace.reached or NOT_REACHED)
        return Answer(leaks=said + self.node.left(), where=where, points=[] if trace.reached else trace.points)

    def accept(self, user: str = "alice", job_id: str = "", other: str = "", queue: str = nest.QUEUE,
               hosts: tuple[str, ...] = (sister.FIRST,)) -> mom.Job:
        """A job of ours."""
        return self.mom.accept(b"#!/bin/sh\n", user=user, queue=queue, job_id=job_id, other=other, hosts=hosts)

    def _traced_prologue(self, job: mom.Job, mutation: str = "") -> int:
        return self.mom.start_prologue(job, hooks.hook("prologue", mutation)).pid

    def clean(self, job: mom.Job, how: str) -> list[str]:
        """An `epilogue`, or the `sweep` once the job's script is gone; what went wrong."""
        if how == "epilogue":
            status = self.mom.start_epilogue(job).wait(_HOOK_SECONDS)
            log = Path("/var/log/vmbatch") / f"{job.file_id}.log"
            return [] if status == 0 else [f"the epilogue ended with {status}: {job.errors.decode()}{log.read_text()}"]
        self.mom.forget(job)
        return self._vmbatch("sweep")

    def _vmbatch(self, *words: str) -> list[str]:
        status, said = loaded.vmbatch(words, _HOOK_SECONDS)
        return [] if status == 0 else [f"vmbatch {' '.join(words)} ended with {status}: {said}"]

    def kept_state(self, name: str) -> state.Kept:
        """A job's state after a whole prologue (`handed-over`), or killed when its guest is up (`crashed`), or at a promise.

        `waiting`: there is no job yet, but a guest that waits for it; `taken`: the job has one that waited.
        """
        if name == "taken" and name not in self.kept:
            self.kept[name] = self._keep_taken()
        if name == "waiting" and name not in self.kept:
            self.kept[name] = self._keep_waiting()
        if name not in self.kept:
            wanted: dict[str, Wanted] = {
                "handed-over": lambda number, point: False,
                "crashed": lambda number, point: point.call == "connect" and point.what.startswith("port"),
            }
            self.kept[name] = self._keep(name, wanted[name], after=False)
        return self.kept[name]

    def _keep(self, name: str, wanted: Wanted, *, after: bool) -> state.Kept:
        self.node.clear()
        job = self.accept()
        tracer = Tracer(self._traced_prologue(job), wanted)
        if after:
            tracer.after = tracer.kill
        else:
            tracer.before = tracer.kill
        tracer.run()
        return state.keep(name, job, self.node)

    def _keep_waiting(self) -> state.Kept:
        """A guest waits, and there is no job."""
        self.node.clear()
        said = self._vmbatch("pool", "refill")
        assert not said, said
        job = self.accept()
        self.mom.forget(job)
        return state.keep("waiting", job, self.node)

    def _keep_taken(self) -> state.Kept:
        """As `handed-over`, of a guest that waited, and may have a further job."""
        waiting = self.kept_state("waiting")
        for before in (begun(nest.PORT), taken(nest.PORT)):
            before.unlink(missing_ok=True)
        waiting.restore(self.node)
        _until(begun(nest.PORT).exists, _HOOK_SECONDS)
        job = self.accept(queue=nest.POOL_QUEUE)
        verdict = self.mom.finish_prologue(self.mom.start_prologue(job))
        assert (verdict, taken(nest.PORT).exists()) == ("run", True), job.errors.decode()
        return state.keep("taken", job, self.node)

    def torn(self, case: Case) -> Answer:
        """The journal's line number `at` (the first has 1) cut at every third byte; the prologue died before it acted on it.

        tests/contract/test_journal_read.py reads it cut at each byte.
        """
        seen: list[Point] = []

        def wanted(_: int, point: Point) -> bool:
            if point.call == "write" and point.what.startswith(JOURNALS):
                seen.append(point)
            return len(seen) == case.at

        kept = self._keep(f"torn-{case.at}", wanted, after=True)
        data = kept.journal.read_bytes()
        lines = data.splitlines(keepends=True)
        assert len(lines) == case.at, lines
        size = len(lines[-1])
        answer = Answer(runs=0, where=f"line {case.at} of the journal")
        for cut in sorted({1, 2, size - 1, size, *range(1, size, 3)}):
            kept.restore(self.node)
            kept.journal.write_bytes(data[:-cut])
            said = in_child(lambda: self._epilogue_here(kept.job.id))
            answer.runs += 1
            answer.leaks += [f"{cut} bytes cut off: {leak}" for leak in said + self.node.left()]
        return answer

    def _epilogue_here(self, job_id: str) -> list[str]:
        ending.epilogue(job_id, self.node.config, Log(self.node.config.log_directory, job_id, "epilogue"))
        return []

    def moment(self, case: Case) -> Answer:
        """The session killed `at` milliseconds after its start."""
        job = self.accept()
        hook = self.mom.start_prologue(job)
        time.sleep(case.at / 1000)
        mom.kill_session(hook.pid)
        hook.wait()
        return Answer(leaks=self.clean(job, "epilogue") + self.node.left(), where=f"{case.at} ms")

    # Hooks beside each other.

    def overlap(self, case: Case) -> Answer:
        """A prologue is held at a point while others start, then goes on. `begin` says which others:

        `epilogue`; `killed`, an epilogue and then a kill of the prologue after its call; `two` epilogues at once; `prologue`, a
        second start of the same job. `mutation` is the prologue's, or with `cleanup` set to `mutant` the epilogue's.
        """
        job = self.accept()
        ending = hooks.mutated("epilogue", case.mutation) if case.cleanup == "mutant" else "epilogue"
        tracer = Tracer(self._traced_prologue(job, "" if case.cleanup == "mutant" else case.mutation),
                        lambda number, _: number == case.at)
        others: list[Hook] = []

        def begin() -> None:
            if case.begin == "prologue":
                others.append(self.mom.start_prologue(self.accept(job_id=job.id)))
            else:
                others.extend(self.mom.start_epilogue(job, name=ending) for _ in range(2 if case.begin == "two" else 1))
            self._until_seen(job, others, 0.3 if ending != "epilogue" else 3)
            if case.begin == "killed":
                _until(lambda: others[0].poll() is not None, _SLICE_SECONDS if ending == "epilogue" else 3)

        tracer.before = begin
        tracer.after = tracer.kill if case.begin == "killed" else None
        trace = tracer.run()
        said = []
        for other in others:
            status = other.wait(_HOOK_SECONDS)
            status = tracer.others.get(other.pid, status)
            if status and case.begin != "prologue":
                said.append(f"the epilogue ended with {status}: {job.errors.decode()}")
            if status == 0 and case.begin == "prologue" and not self.node.domains():
                said.append("the later start succeeded, but its guest is gone")
        if case.begin != "prologue" and not tracer.killed and trace.reached is not None:
            said += _promises_after(trace)
        if case.begin == "prologue" or not others:
            said += self.clean(job, "epilogue")
        elif tracer.killed and trace.reached is not None and trace.reached.call == "linkat":
            said += self.clean(job, "sweep")  # a journal that got its name when the epilogue was over owns nothing
        return self.answer(trace, said)

    def _until_seen(self, job: mom.Job, others: list[Hook], seconds: float) -> None:
        """Until another hook has ended, or has set the mark that ends the prologue."""
        mark = Path("/run/vmbatch/ended") / job.file_id
        _until(lambda: mark.exists() or any(other.poll() is not None for other in others), seconds)

    def schedule(self, case: Case) -> Answer:
        """A random order of hooks, kills and sweeps at random times; then one epilogue."""
        chance = random.Random(case.seed)  # noqa: S311 (to be repeated)
        job = self.accept()
        hooks: list[Hook] = []
        done = []
        for _ in range(chance.randint(3, 7)):
            act = chance.choice(("prologue", "prologue", "kill", "epilogue", "epilogue", "sweep"))
            done.append(act)
            if act == "prologue":
                job = self.accept(job_id=job.id)
                hooks.append(self.mom.start_prologue(job))
            elif act == "epilogue":
                hooks.append(self.mom.start_epilogue(job))
            elif act == "sweep":
                hooks.append(subprocess.Popen([place.ENVIRONMENT / "bin/vmbatch", "sweep"], start_new_session=True))
            elif hooks:
                mom.kill_session(chance.choice(hooks).pid)
            pause = chance.choice((0.0, 0.02, 0.1, 0.3)) * chance.random()
            done.append(f"{pause:.3f}")
            time.sleep(pause)
        said = []
        for hook in hooks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                hook.wait(_HOOK_SECONDS)
            if hook.returncode is None:
                said.append(f"a hook hangs: {hook.args!r}")
        return Answer(leaks=said + self.clean(job, "epilogue") + self.node.left(), where=" ".join(done))


def _kinds() -> list[str]:
    """Of all resources in all journals."""
    lines = [line for path in Path(JOURNALS).glob("*") for line in path.read_bytes().splitlines()]
    return sorted({json.loads(line)["kind"] for line in lines if line.endswith(b"}")})


def _wait_untouched() -> list[str]:
    """A line if a guest waits although it has heard of a job."""
    return [f"{start.job} waits, and is a job's" for _path, start, _waits in journal.waiting() if taken(nest.PORT).exists()]


def _promises_after(trace: Trace) -> list[str]:
    """What the prologue began although it had been ended; the point at which it was held may still be a promise."""
    def promises(points: list[Point]) -> list[Point]:
        return [point for point in points if point.call == "write" and point.what.startswith(JOURNALS)]

    first = 0 if promises(trace.points[: trace.number]) else 1  # a journal is begun before anybody looks whether it is over
    return [f"the prologue went on after its end: {point}" for point in promises(trace.points[trace.number:])[first:]]


def _until(true: Callable[[], bool], seconds: float) -> None:
    over = time.monotonic() + seconds
    while not true() and time.monotonic() < over:
        time.sleep(0.002)
