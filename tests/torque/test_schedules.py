"""Random schedules: what users, admins and accidents do to one or two jobs at random moments, in every order that was seen."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lab import loaded, mom
from lab.remains import in_child
from lab.torque import Torque

from .pool import Pool
from .stage import Stage

pytestmark = pytest.mark.torque
_AT_ONCE = 4
_SCHEDULES = 500
ACTS = ("qdel", "purge", "qrerun", "walltime", "-p", "-r", "-q", "-P", "forget", "double", "kill", "kill all", "epilogue",
        "sweep")
"""Options are those with which mom is started again."""


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    """Acts with the milliseconds before each and the job that they befall, and how mom and the jobs are."""
    act = st.tuples(st.sampled_from(ACTS), st.sampled_from([0, 5, 20, 40, 80]) | st.integers(0, 250), st.integers(0, 1))
    return {
        "acts": draw(st.lists(act, min_size=1, max_size=4)),
        "jobs": draw(st.integers(1, 2)),
        "eager": draw(st.booleans()),
        "seconds": draw(st.sampled_from([0.0, 0.1, 0.2])),
        "user": draw(st.sampled_from(["alice", "alice", "alice", "bob"])),
    }


def schedule(stage: Stage, acts: list[tuple[str, int, int]], jobs: int, eager: bool, seconds: float, user: str) -> list[str]:
    """Plays it; a line for each promise that was broken. Bob's guests fail."""
    torque = stage.torque(execute=loaded.called, eager=eager, kill_delay=0.1, patience=0.1, most=4)
    names = [stage.submit(torque, user=user, seconds=seconds) for _ in range(jobs)]
    for act, milliseconds, chosen in acts:
        over = time.monotonic() + milliseconds / 1000
        while time.monotonic() < over:
            torque.step(0.005)
        _act(stage, torque, act, names[chosen % jobs])
    if not torque.run(20):
        return stage.hanging(torque)
    for name in names:
        if name not in torque.ended:
            stage.house.forget(torque.latest(name).job)
    in_child(stage.sweep)
    torque.close()
    return stage.wrong(torque)


def _act(stage: Stage, torque: Torque, act: str, job_id: str) -> None:
    latest = torque.latest(job_id)
    if act in ("qdel", "purge"):
        torque.qdel(job_id, purge=act == "purge")
    elif act in ("-p", "-r", "-q", "-P"):
        torque.restart(act)
    elif act == "forget":
        torque.restart("-p", saved=False)
    elif act == "kill" and latest.phase == "prologue":
        _kill(torque.prologues().get(latest.number))
    elif act == "kill all" and latest.phase == "prologue":
        mom.kill_session(torque.prologues().get(latest.number, -1))
    elif act == "epilogue":
        torque.stray(job_id)
    elif act == "sweep":
        in_child(stage.sweep)
    elif act in ("qrerun", "walltime", "double"):
        getattr(torque, act)(job_id)


def _kill(pid: int | None) -> None:
    """The prologue alone: a stranger's mistake, or the kernel's."""
    with contextlib.suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(_AT_ONCE)
    yield made
    made.close()


@settings(max_examples=_SCHEDULES // _AT_ONCE, deadline=None, database=None, derandomize=True, print_blob=False,
          phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(several=st.lists(schedules(), min_size=_AT_ONCE, max_size=_AT_ONCE))
def test_random_schedules(pool: Pool, several: list[dict[str, Any]]) -> None:
    """Nothing left, no job beside itself, none in another start's guest, none outside of its guest."""
    for case, wrong in zip(several, pool.play(schedule, several), strict=True):
        assert not wrong, "\n".join([str(case), *wrong])
