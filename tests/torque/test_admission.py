"""A node with less room than there are jobs: who waits, who goes back, who is refused; and a crash gives its room back."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lab.torque import Torque
from vmbatch import claim
from vmbatch.batch import failures

from .pool import Worker
from .stage import Stage
from .test_events import begins, settle

pytestmark = pytest.mark.torque
CONFIG = Path("/etc/vmbatch/vmbatch.conf")
FOLLOWS = "<vbresources cores='job' maxcores='64'/>"


def room(stage: Stage, settings: str) -> None:
    """Guests that follow their job's cores, on a node with these settings of [admission]."""
    CONFIG.write_text(CONFIG.read_text().replace('cores = "none"\n', f"{settings}\n"))
    template = Path("/etc/vmbatch/domains/crash.xml")
    template.write_text(template.read_text().replace("</vbconfig>", f"{FOLLOWS}</vbconfig>"))


def claims() -> list[tuple[int, str]]:
    """Cores and state."""
    return [(each.cores, state) for each, state in claim.look(claim.DIRECTORY)]


def counted() -> bool:
    return Path(failures.PATH).exists()


def codes(torque: Torque, job: str) -> int:
    """How often it was started."""
    return sum(start.job.id == job for start in torque.starts)


def a_full_node(stage: Stage) -> None:
    """The second job goes back, and back again, until the first has ended; the node has not failed."""
    room(stage, 'cores = 4\nwait = "0.2s"')
    torque = stage.torque(most=50)
    first = stage.submit(torque, seconds=1.5, slots=3)
    assert torque.run(20, lambda: claims() == [(3, "running")]), stage.told(torque)
    second = stage.submit(torque, slots=2)
    assert torque.run(30), stage.hanging(torque)
    torque.close()
    assert [torque.ended[job].status for job in (first, second)] == [0, 0], stage.told(torque)
    assert codes(torque, first) == 1
    assert codes(torque, second) > 1
    assert "this node has no room for the guest now: it needs 2 cores, and 1 of 4 are free" in stage.log(second)
    assert not counted()
    assert not stage.node.left()


def test_a_full_node(nest: Worker) -> None:
    nest.play(a_full_node)


def room_that_comes_in_time(stage: Stage) -> None:
    """A job that ends within the time for which the next one waits costs that no second start."""
    room(stage, 'cores = 4\nwait = "15s"')
    torque = stage.torque()
    first = stage.submit(torque, seconds=0.5, slots=4)
    assert torque.run(20, lambda: claims() == [(4, "running")]), stage.told(torque)
    second = stage.submit(torque, slots=1)
    settle(stage, torque)
    assert [codes(torque, job) for job in (first, second)] == [1, 1]
    assert begins(stage) == [1, 2]


def test_room_that_comes_in_time(nest: Worker) -> None:
    nest.play(room_that_comes_in_time)


def a_job_that_never_fits(stage: Stage) -> None:
    room(stage, "cores = 4")
    torque = stage.torque()
    job = stage.submit(torque, slots=5)
    settle(stage, torque)
    ended = torque.ended[job]
    assert (ended.state, ended.status, begins(stage)) == ("C", 255, [])
    assert ended.errors is not None
    assert "the guest needs 5 cores, and this node has 4 for guests (ask for less, or for another node)" in ended.errors.decode()
    assert claims() == []


def test_a_job_that_never_fits(nest: Worker) -> None:
    nest.play(a_job_that_never_fits)


def a_crash_gives_its_room_back(stage: Stage) -> None:
    """To a job that waits for it."""
    stage.template("silent")
    room(stage, 'cores = 4\nwait = "15s"')
    torque = stage.torque()
    job = stage.submit(torque, slots=4)
    assert torque.run(20, lambda: claims() == [(4, "starting")]), stage.told(torque)
    waiting = stage.submit(torque, slots=4)
    assert torque.run(20, lambda: (4, "asking") in claims()), stage.told(torque)
    os.kill(torque.prologues()[1], signal.SIGKILL)
    assert torque.run(20, lambda: claims() == [(4, "starting")] and job in torque.ended), stage.told(torque)
    torque.qdel(waiting)
    settle(stage, torque)


def test_a_crash_gives_its_room_back(nest: Worker) -> None:
    nest.play(a_crash_gives_its_room_back)


def one_start_at_a_time(stage: Stage) -> list[Any]:
    """Three at once; none is turned away, and no two start together."""
    room(stage, "starts = 1")
    torque = stage.torque()
    jobs = [stage.submit(torque) for _ in range(3)]
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, sum(state == "starting" for _, state in claims()))
        return len(torque.ended) == 3

    assert torque.run(40, done), stage.hanging(torque)
    torque.close()
    stage.check(torque)
    return [most, [codes(torque, job) for job in jobs], sorted(begins(stage))]


def test_one_start_at_a_time(nest: Worker) -> None:
    assert nest.play(one_start_at_a_time) == [1, [1, 1, 1], [1, 2, 3]]
