"""Rows of the events: what mom does to jobs, and what VmBatch makes of it."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from lab import place
from lab.remains import in_child
from lab.torque import LOST, RESTARTED, WALLTIME, Torque
from vmbatch import endmarker

from .pool import Worker
from .stage import Stage

pytestmark = pytest.mark.torque
PRECANCEL = "#!/bin/sh\necho \"$1 $(id -un)\" >> /run/fakeguest/outside.precancel; chmod 666 /run/fakeguest/outside.precancel\n"
SITE_EPILOGUE = "#!/bin/sh\necho \"$6|${10}\" >> /run/fakeguest/epilogues\nsleep ${PAUSE:-0}\n"


def running(stage: Stage, torque: Torque, **about: object) -> str:
    """A job whose guest it is in."""
    job = stage.submit(torque, **{"seconds": 60, **about})  # type: ignore[arg-type]
    assert torque.run(20, lambda: any(run["job"] == job for run in stage.runs())), torque.story
    return job


def starting(stage: Stage, torque: Torque, **about: object) -> str:
    """A job whose prologue waits for a guest that never announces itself."""
    stage.template("silent")
    job = stage.submit(torque, **about)  # type: ignore[arg-type]
    assert stage.at(torque, job, "phase start"), stage.told(torque)
    return job


def epilogues(stage: Stage) -> list[str]:
    """Resource list and exit status that each epilogue was given."""
    return Path("/run/fakeguest/epilogues").read_text().splitlines()


def watch_epilogues(stage: Stage) -> None:
    stage.hook("epilogue.site", SITE_EPILOGUE)
    Path("/run/fakeguest/epilogues").write_bytes(b"")


def settle(stage: Stage, torque: Torque) -> None:
    assert torque.run(20), stage.hanging(torque)
    torque.close()
    stage.check(torque)


def begins(stage: Stage) -> list[int]:
    """The starts whose jobs ran in a guest."""
    return [run["start"] for run in stage.runs() if run["event"] == "begin"]


def ran_once_more(stage: Stage) -> bool:
    """Whether a job ran once, and not in its first start: mostly in the second, but an epilogue that began in the same 10 ms as
    the second's prologue, or later, ends that too, and the job is queued again.
    """
    ran = begins(stage)
    return len(ran) == 1 and ran[0] > 1


def a_whole_job(stage: Stage) -> None:
    torque = stage.torque()
    job = stage.submit(torque, exits=5)
    settle(stage, torque)
    ended = torque.ended[job]
    assert (ended.state, ended.status, ended.errors) == ("C", 5, b""), ended
    assert ended.output is not None and ended.output.startswith(b"in guest "), ended


def test_a_whole_job(nest: Worker) -> None:
    nest.play(a_whole_job)


def qdel_of_a_running_job(stage: Stage) -> None:
    """TERM goes to the job in its guest, and its shell waits for it."""
    precancelled = Path("/run/fakeguest/outside.precancel")
    precancelled.touch()
    precancelled.chmod(0o666)
    stage.hook("epilogue.precancel", PRECANCEL)
    torque = stage.torque(kill_delay=5)
    job = running(stage, torque)
    torque.qdel(job)
    settle(stage, torque)
    assert torque.ended[job].status == 271
    assert [run.get("signal") for run in stage.runs()] == [None, "TERM"]
    assert precancelled.read_text() == f"{job} alice\n"
    precancelled.unlink()


def test_qdel_of_a_running_job(nest: Worker) -> None:
    nest.play(qdel_of_a_running_job)


def qdel_with_purge(stage: Stage) -> None:
    torque = stage.torque()
    job = running(stage, torque)
    torque.qdel(job, purge=True)
    settle(stage, torque)
    assert torque.ended[job].status == 265
    assert torque.ended[job].output is not None
    assert stage.runs()[-1]["lost"], "its guest was ended under it"


def test_qdel_with_purge(nest: Worker) -> None:
    nest.play(qdel_with_purge)


def a_shell_killed_before_the_guest_heard(stage: Stage) -> None:
    """kill_delay is over before the job has ended: the epilogue ends the guest."""
    torque = stage.torque(kill_delay=0.0)
    job = running(stage, torque)
    torque.qdel(job)
    settle(stage, torque)
    assert torque.ended[job].status == 271


def test_a_shell_killed_before_the_guest_heard(nest: Worker) -> None:
    nest.play(a_shell_killed_before_the_guest_heard)


def qdel_during_a_short_prologue(stage: Stage) -> None:
    """It ends within kill_delay: the shell lives for an instant."""
    torque = stage.torque(kill_delay=5)
    job = stage.submit(torque, seconds=60)
    assert stage.at(torque, job, "phase disks")
    torque.qdel(job)
    settle(stage, torque)
    assert torque.ended[job].status == 271


def test_qdel_during_a_short_prologue(nest: Worker) -> None:
    nest.play(qdel_during_a_short_prologue)


def qdel_during_a_long_prologue(stage: Stage) -> None:
    """At the KILL the epilogue runs beside the prologue, which stops; no shell starts."""
    torque = stage.torque(kill_delay=0.2)
    job = starting(stage, torque)
    torque.qdel(job)
    settle(stage, torque)
    assert (torque.ended[job].state, torque.ended[job].status) == ("C", 0)
    assert f"job {job} was ended by the batch system while its guest was being prepared" in torque.starts[0].job.errors.decode()
    assert "does not end; killing it" not in stage.log(job)
    assert begins(stage) == []


def test_qdel_during_a_long_prologue(nest: Worker) -> None:
    nest.play(qdel_during_a_long_prologue)


def walltime(stage: Stage) -> None:
    torque = stage.torque(kill_delay=5)
    job = running(stage, torque)
    torque.walltime(job)
    settle(stage, torque)
    ended = torque.ended[job]
    assert (ended.status, ended.errors) == (WALLTIME, b"=>> PBS: job killed: walltime 8 exceeded limit 5\n")
    assert stage.runs()[-1]["signal"] == "TERM"


def test_walltime(nest: Worker) -> None:
    nest.play(walltime)


def qrerun_of_a_running_job(stage: Stage) -> None:
    torque = stage.torque()
    job = running(stage, torque, seconds=0.5)
    torque.qrerun(job)
    settle(stage, torque)
    assert begins(stage) == [1, 2]
    assert [status for _, status, _ in torque.epilogues] == [271, 0]
    assert torque.ended[job].status == 0


def test_qrerun_of_a_running_job(nest: Worker) -> None:
    nest.play(qrerun_of_a_running_job)


def qrerun_during_a_prologue(stage: Stage, eager: bool) -> None:
    """The second prologue starts while the first still waits: that one stops, and the job runs once."""
    torque = stage.torque(eager=eager)
    job = starting(stage, torque)
    stage.template()
    torque.qrerun(job)
    settle(stage, torque)
    assert begins(stage) == [2]
    assert (torque.ended[job].state, torque.ended[job].status) == ("C", 0)


@pytest.mark.parametrize("eager", [False, True])
def test_qrerun_during_a_prologue(nest: Worker, eager: bool) -> None:
    nest.play(qrerun_during_a_prologue, eager=eager)


def mom_restarted(stage: Stage, option: str) -> None:
    """Under a running job."""
    watch_epilogues(stage)
    torque = stage.torque()
    job = running(stage, torque, seconds=1.5, exits=3)
    torque.restart(option)
    settle(stage, torque)
    again = option in ("-r", "-q")
    resources = "neednodes=1"
    assert begins(stage) == ([1, 2] if again else [1])
    expected = {"-p": [0], "-P": [0], "-r": [RESTARTED, 3], "-q": [RESTARTED, 3]}[option]
    assert [status for _, status, _ in torque.epilogues] == expected
    told = epilogues(stage)
    assert told[0] == f"{resources}|{expected[0]}", "the resource list is lost, and what is to be released is known all the same"
    assert torque.ended[job].status == expected[-1]
    if option == "-P":
        assert stage.runs()[-1]["lost"], "nothing of the job goes on in a guest"


@pytest.mark.parametrize("option", ["-p", "-r", "-q", "-P"])
def test_mom_restarted(nest: Worker, option: str) -> None:
    nest.play(mom_restarted, option=option)


def mom_restarted_during_a_prologue(stage: Stage, option: str) -> None:
    """The orphan goes on while epilogue and second prologue run; when it ends, its shell would start too."""
    torque = stage.torque(eager=True)
    job = starting(stage, torque)
    stage.template()
    torque.restart(option)
    settle(stage, torque)
    assert torque.epilogues[0][1] == {"-p": LOST, "-P": 0}.get(option, RESTARTED)
    assert begins(stage) == [] if option == "-P" else ran_once_more(stage)
    assert torque.ended[job].status == 0


@pytest.mark.parametrize("option", ["-p", "-r", "-q", "-P"])
def test_mom_restarted_during_a_prologue(nest: Worker, option: str) -> None:
    nest.play(mom_restarted_during_a_prologue, option=option)


def an_orphans_shell(stage: Stage) -> None:
    """The orphan's prologue hangs and is killed by the epilogue, which its starter takes for success. Its shell finds script and
    record of the second start, and does not run the job a second time.
    """
    stage.settings(more="[timeouts]\nscale = 0.2")
    torque = stage.torque(eager=True)
    job = starting(stage, torque, seconds=60)
    first = torque.starts[0]
    for pid in (first.pid, torque.prologues()[1]):
        os.kill(pid, signal.SIGSTOP)
    stage.template()
    torque.restart("-p")
    assert torque.run(20, lambda: bool(stage.runs())), stage.told(torque)
    os.kill(first.pid, signal.SIGCONT)
    assert torque.run(20, lambda: bool(first.ended[1:])), stage.hanging(torque)
    torque.qdel(job)
    settle(stage, torque)
    assert ran_once_more(stage)
    ended = torque.ended[job]
    assert ended.status == 256 + signal.SIGTERM
    assert ended.errors is not None
    assert b"the guest was made for another start of this job, and only that start's shell may use it" in ended.errors


def test_an_orphans_shell(nest: Worker) -> None:
    nest.play(an_orphans_shell)


def another_starts_shell(stage: Stage) -> None:
    """A shell with the right script, user, job id and record, but of another start."""
    torque = stage.torque()
    job = running(stage, torque, seconds=1)
    shell = stage.house.start_shell(torque.starts[0].job, way="starter")
    assert shell.wait() == 255
    settle(stage, torque)
    errors = torque.ended[job].errors
    assert errors is not None
    assert b"the guest was made for another start of this job, and only that start's shell may use it" in errors
    assert begins(stage) == [1]


def test_another_starts_shell(nest: Worker) -> None:
    nest.play(another_starts_shell)


def a_start_that_mom_forgets(stage: Stage) -> None:
    """mom died within five seconds of the start: no epilogue ever comes. The job runs, and the sweep ends its guest in time."""
    torque = stage.torque()
    job = stage.submit(torque, seconds=0.2)
    torque.restart("-p", saved=False)
    assert torque.run(20), stage.hanging(torque)
    assert begins(stage) == [1]
    assert torque.epilogues == []
    name = f"/var/lib/vmbatch/jobs/{job}.journal"
    for _ in range(2):
        in_child(stage.sweep)
        assert Path(name).exists(), "an epilogue may be late"
    (note,) = Path("/run/vmbatch/ended").glob(f"{job}.*")
    seen = msgspec.json.decode(note.read_bytes(), type=endmarker.EndMarker).ended_by
    earlier = msgspec.structs.replace(seen, started=seen.started - 1000 * os.sysconf("SC_CLK_TCK"))
    note.write_bytes(msgspec.json.encode(endmarker.EndMarker(earlier)))
    said = in_child(stage.sweep)
    assert said == [f"released job {job} of alice: dead, its shell ended long ago, and no epilogue came"], said
    stage.house.forget(torque.starts[0].job)
    settle(stage, torque)


def test_a_start_that_mom_forgets(nest: Worker) -> None:
    nest.play(a_start_that_mom_forgets)


def mom_dies_during_an_epilogue(stage: Stage) -> None:
    """A second one runs beside the first."""
    watch_epilogues(stage)
    stage.hook("epilogue.user", "#!/bin/sh\nsleep 0.3\n")
    torque = stage.torque()
    job = stage.submit(torque)
    assert torque.run(20, lambda: torque.starts[0].phase == "exiting")
    torque.restart("-p")
    settle(stage, torque)
    assert len(epilogues(stage)) == 2
    assert torque.ended[job].status == 0


def test_mom_dies_during_an_epilogue(nest: Worker) -> None:
    nest.play(mom_dies_during_an_epilogue)


def a_double_start(stage: Stage, phase: str) -> None:
    """Two starts of one id, without an epilogue between: the later one ends the first, whose epilogue ends what there is then."""
    torque = stage.torque()
    job = running(stage, torque, seconds=1) if phase == "running" else starting(stage, torque)
    stage.template()
    torque.double(job)
    settle(stage, torque)
    ran = begins(stage)
    assert ran[:1] == [1] if phase == "running" else 1 not in ran
    assert sorted(set(ran)) == ran
    assert torque.ended[job].state == "C"


@pytest.mark.parametrize("phase", ["starting", "running"])
def test_a_double_start(nest: Worker, phase: str) -> None:
    nest.play(a_double_start, phase=phase)


def an_array(stage: Stage) -> None:
    """Job `42[1].lab` has the script `42-1.lab.SC`, and each member its own guest."""
    torque = stage.torque()
    jobs = [stage.submit(torque, job_id=f"42[{number}].lab", name=f"arr-{number}", exits=number) for number in (1, 2)]
    assert [start.job.script.name for start in torque.starts] == ["42-1.lab.SC", "42-2.lab.SC"]
    settle(stage, torque)
    assert [torque.ended[job].status for job in jobs] == [1, 2]
    assert len({run["token"] for run in stage.runs()}) == 2


def test_an_array(nest: Worker) -> None:
    nest.play(an_array)


def a_shell_that_cannot_be_executed(stage: Stage) -> None:
    torque = stage.torque()
    shell = place.MOM / "mom_priv/remoteshell"
    shell.chmod(0o644)
    try:
        job = stage.submit(torque)
        settle(stage, torque)
    finally:
        shell.chmod(0o755)
    assert torque.ended[job].status == 254
    assert torque.ended[job].errors == f"PBS: exec of shell '{shell}' failed\n".encode()
    assert begins(stage) == []


def test_a_shell_that_cannot_be_executed(nest: Worker) -> None:
    nest.play(a_shell_that_cannot_be_executed)


def a_script_that_goes(stage: Stage) -> None:
    """Between prologue and shell; and before the prologue."""
    torque = stage.torque()
    job = starting(stage, torque)
    torque.starts[0].job.script.unlink()
    torque.qdel(job)
    settle(stage, torque)
    torque = stage.torque(most=1)
    stage.template()
    job = stage.submit(torque, interactive=True)  # no script, and no terminal
    settle(stage, torque)
    assert torque.ended[job].errors == f"vmbatch: job {job} has no script any more: mom has done with it [VB901]\n".encode()
    assert torque.epilogues[0][1] == -14
    assert begins(stage) == []


def test_a_script_that_goes(nest: Worker) -> None:
    nest.play(a_script_that_goes)


def signals(stage: Stage) -> None:
    """Four of each but TERM: the job gets one."""
    torque = stage.torque()
    job = running(stage, torque)
    torque.qsig(job, signal.SIGUSR1)
    settle(stage, torque)
    assert [run.get("signal") for run in stage.runs()] == [None, "USR1"]


def test_signals(nest: Worker) -> None:
    nest.play(signals)
