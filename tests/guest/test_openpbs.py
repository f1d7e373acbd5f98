"""Jobs of OpenPBS in real guests: through the hook in pbs_mom, and through the classic scripts."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.openpbs import EVENTS, Job, Mom

from .conftest import Configure, _booted

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

NOTES = Path("/run/vmbatch/openpbs")
CLASSIC = tuple(event for event in EVENTS if event not in ("execjob_prologue", "execjob_epilogue"))
SCRIPT = b"""#!/bin/sh
echo "host $(hostname)"
echo "mine $MINE, odd $ODD, queue $PBS_QUEUE, loader $LD_DEBUG"
env | grep -c VMBATCH_JOB_
id -un
exit 7
"""
HERS = {"MINE": "yes", "ODD": "a,b\\c", "LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": "/home/alice/trace"}
"""With these any loader says what it loads; only the guest's may."""


@pytest.fixture
def mom() -> Iterator[Mom]:
    made = Mom()
    (made.home / "mom_priv/config").write_text("$prologalarm 120\n")
    yield made
    assert [path.name for path in NOTES.glob("*")] == []


def booted(job: Job) -> None:
    log = Path(f"/var/log/vmbatch/{job.id.replace('[', '-').replace(']', '')}.log")
    if re.search(r"phase start \d", log.read_text()):
        _booted.append(job.id)


@pytest.mark.parametrize(("job_id", "events"), [("31[7].lab", EVENTS), ("", CLASSIC)], ids=["hook", "classic"])
def test_a_job_runs_in_its_guest(mom: Mom, job_id: str, events: tuple[str, ...]) -> None:
    mom.events = events
    job, verdict, code = mom.play(SCRIPT, job_id=job_id, variables=HERS)
    booted(job)
    assert (verdict, code) == ("accept", 7), job.errors.decode()
    number = re.sub(r"\D+", "-", job.id.removesuffix(".lab")).strip("-")
    assert job.output.decode().splitlines() == [
        f"host vm-{number}", "mine yes, odd a,b\\c, queue busybox, loader libs", "0", "alice"]
    assert job.errors == b""
    assert list(Path("/home/alice").glob("trace*")) == [], "the node's loader has seen the user's variables"


def test_programs_tasks_and_a_forged_queue(mom: Mom) -> None:
    """`qsub -- PROGRAM`, and what the job starts by tm_spawn, in one guest; no variable leads out of it."""
    job = mom.accept(words=["/bin/sh", "-c", "hostname; echo \"$1\"", "x", "it's $HOME"])
    assert mom.prologue(job).verdict == "accept"
    booted(job)
    assert mom.start_shell(job).wait() == 0
    task = mom.start_shell(job, task=["hostname"], variables={"PBS_QUEUE": "native", "PBS_JOBID": "1.lab"})
    assert task.wait() == 0
    name = f"vm-{job.id.removesuffix('.lab')}"
    assert job.output.decode().splitlines() == [name, "it's $HOME", name]
    mom.end(job)


def test_a_users_fault_deletes_the_job(mom: Mom, configure: Configure) -> None:
    with configure('[users]\ndeny = ["alice"]'):
        job = mom.accept()
        answer = mom.prologue(job)
        mom.end(job, -17)
    assert (answer.verdict, answer.found["vnodes"]) == ("delete", {})
    assert answer.message.startswith(f"job {job.id} could not start: ")
    assert job.errors.decode().splitlines()[1] == "vmbatch: the job is deleted [VB206]"
    assert answer.message.split(": ", 1)[1].split(" (")[0] in job.errors.decode()


@pytest.mark.parametrize(("remedy", "verdict", "vnodes", "words"), [
    ("requeue", "rerun", [], "the job goes back into its queue"),
    ("hold", "hold", [], "the job is held until an administrator releases it"),
    ("offline", "rerun", ["node1", "node1[0]"], "the job goes back into its queue, and this node takes no more jobs"),
])
def test_a_nodes_fault(
    mom: Mom, configure: Configure, tmp_path: Path, remedy: str, verdict: str, vnodes: list[str], words: str,
) -> None:
    spool = tmp_path / "open"
    spool.mkdir()
    spool.chmod(0o777)
    with configure(f'[openpbs]\nnode_fault = "{remedy}"\n[spool]\ndirectory = "{spool}"'):
        job = mom.accept()
        answer = mom.prologue(job)
        mom.end(job, -16)
    assert (answer.verdict, sorted(answer.found["vnodes"])) == (verdict, vnodes)
    assert answer.message.startswith(f"job {job.id} could not start: {spool} is not a directory that only root can write")
    assert all(found["comment"] == f"VmBatch: {answer.message}" for found in answer.found["vnodes"].values())
    assert job.errors.decode().splitlines()[1] == f"vmbatch: {words} [VB106]"


def test_a_sites_fault_holds_the_job(mom: Mom, configure: Configure) -> None:
    with configure('[timeouts]\nmargin = "1000s"'):
        job = mom.accept()
        answer = mom.prologue(job)
        mom.end(job, -16)
    assert (answer.verdict, answer.found["vnodes"]) == ("hold", {})
    assert "[timeouts] margin keeps 1000 s of that" in answer.message


def test_a_job_that_is_killed_while_its_guest_boots(mom: Mom) -> None:
    """qdel: execjob_preterm comes while the prologue is at work; it stops at once, and nothing is left."""
    job = mom.accept(queue="silent")
    hook = mom.start_hook(job, "execjob_prologue")
    log = Path(f"/var/log/vmbatch/{job.id}.log")
    for _ in range(600):
        if log.exists() and re.search(r"phase start \d", log.read_text()):
            break
        time.sleep(0.05)
    begin = time.monotonic()
    assert mom.run_hook(job, "execjob_preterm").verdict == "accept"
    answer = mom.finish_hook(*hook)
    assert time.monotonic() - begin < 30, "it has waited for the guest"
    booted(job)
    assert answer.verdict == "rerun"
    assert "was ended by the batch system while its guest was being prepared" in answer.message
    mom.end(job, 271)


def test_a_prologue_that_the_alarm_has_killed(mom: Mom) -> None:
    """SIGKILL to the hook's whole group: the guest lives on, and goes when the start is aborted."""
    job = mom.accept(queue="silent")
    process, base = mom.start_hook(job, "execjob_prologue", deaf=True)
    log = Path(f"/var/log/vmbatch/{job.id}.log")
    for _ in range(600):
        if log.exists() and re.search(r"phase start \d", log.read_text()):
            break
        time.sleep(0.05)
    mom.alarm = 0
    assert mom.finish_hook(process, base).verdict == "error"
    booted(job)
    assert Path(f"/var/lib/vmbatch/jobs/{job.id}.journal").exists()
    mom.alarm = 120
    assert mom.run_hook(job, "execjob_abort").verdict == "accept"
    mom.forget(job)


def test_a_launch_without_a_prologue(mom: Mom) -> None:
    """A hook that was skipped (pbs_python could not start): no job of ours runs on the node."""
    job = mom.accept(b"#!/bin/sh\nhostname\n")
    assert mom.start_shell(job).wait() == 255
    assert (job.output, b"has no guest: its prologue has not handed one over" in job.errors) == (b"", True)
    mom.end(job)


def test_the_guest_of_an_earlier_start(mom: Mom) -> None:
    """A requeued job comes with a new script; the old guest is none of its own."""
    job = mom.accept(b"#!/bin/sh\nhostname\n")
    assert mom.prologue(job).verdict == "accept"
    booted(job)
    again = mom.accept(b"#!/bin/sh\nhostname\n", job_id=job.id)
    assert mom.start_shell(again).wait() == 255
    assert b"the guest was made for an earlier start of this job" in again.errors
    mom.end(again)


def test_a_private_sandbox(mom: Mom) -> None:
    """Its line on standard input goes there first."""
    job = mom.accept(b"#!/bin/sh\npwd\n")
    assert mom.prologue(job).verdict == "accept"
    booted(job)
    read, write = os.pipe()
    os.write(write, f"cd /tmp;{job.script}\n".encode())
    os.close(write)
    assert mom.start_shell(job, stdin=read).wait() == 0
    os.close(read)
    assert job.output == b"/tmp\n"
    mom.end(job)


def test_classic_scripts_without_any_hook(mom: Mom, configure: Configure) -> None:
    """Then the server is asked what the prologue is not told, and a failed start can only be given back or aborted."""
    mom.events = ()
    qstat = Path("/opt/pbs/bin/qstat")
    qstat.parent.mkdir(parents=True, exist_ok=True)
    qstat.write_text("#!/bin/sh\n[ \"$*\" = \"-f -F json $(cat /opt/pbs/id)\" ] && cat /opt/pbs/answer\n")
    qstat.chmod(0o755)
    try:
        for queue, status in (("native", 0), ("busybox", 1), (None, 2)):
            job = mom.accept(queue=queue or "busybox")
            Path("/opt/pbs/id").write_text(job.id)
            known = {"queue": queue, "Job_Name": "job"} if queue else {}
            Path("/opt/pbs/answer").write_text(json.dumps({"Jobs": {job.id: known}}))
            with configure('[users]\ndeny = ["alice"]'):
                prologue = mom.start_classic(job, "prologue", [job.id, job.user, job.group])
                assert mom.finish_classic(prologue) == status
            said = {0: "", 1: "the job is deleted", 2: f"{qstat} does not describe job {job.id}"}[status]
            assert said in job.errors.decode()
            assert (job.errors == b"") == (status == 0)
            mom.end(job)
    finally:
        shutil.rmtree("/opt/pbs")
