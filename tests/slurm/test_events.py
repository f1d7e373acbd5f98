"""What happens to a job, to slurmd, and to a node, and what VmBatch makes of it."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from lab import leftover
from lab.process import run
from lab.slurm import HOOKS, Slurm, field, wait

from .conftest import Configure

pytestmark = pytest.mark.slurm
SLEEP = "#!/bin/bash\necho up\nsleep 300\n"
UNTIL_A_STEP = "#!/bin/sh\necho up\nuntil [ -e /tmp/end ]; do sleep 0.1; done\necho end\n"
_CREDENTIALS_SECONDS = 2.1


def up(slurm: Slurm, job: str) -> None:
    wait(lambda: slurm.output(job) == "up\n", f"job {job} does not run", lambda: slurm.show(job) + slurm.log(job))


def phase(slurm: Slurm, job: str, text: str) -> None:
    wait(lambda: text in slurm.log(job), f"job {job} does not get there", lambda: slurm.show(job) + slurm.log(job))


def idle(slurm: Slurm) -> None:
    """Both nodes are in service, and have nothing to do."""
    wait(lambda: "completing" not in slurm.states().values(), "completing", lambda: str(slurm.states()))
    assert slurm.states() == {"n1": "idle", "n2": "idle"}


def begin_now(slurm: Slurm, job: str) -> None:
    """A requeued job waits two minutes before it starts again.

    slurmd of 22.05 takes it for the start before, and runs no Prolog, if it looked through its credentials less than two seconds
    ago (src/common/slurm_cred.c, _clear_expired_job_states); for that Slurm has the two minutes.
    """
    slurm.wait_for(job, "PENDING")
    time.sleep(_CREDENTIALS_SECONDS)
    run(["scontrol", "update", f"JobId={job}", "StartTime=now"])


def test_a_job_cancelled_while_its_guest_is_prepared(slurm: Slurm) -> None:
    """Slurm lets the Prolog go on; it asks, gives up, and the Epilog follows at once."""
    job = slurm.sbatch(SLEEP, "-p", "silent")
    phase(slurm, job, "phase start")
    slurm.run_as("alice", ["scancel", job])
    assert slurm.end(job) == "CANCELLED"
    wait(lambda: leftover.found() == [], "something is left", lambda: str(leftover.found()))
    assert "the job is completing; this start is over" in slurm.log(job)
    assert slurm.output(job) == ""
    idle(slurm)


def test_a_job_cancelled_while_it_runs(slurm: Slurm) -> None:
    """The job gets SIGTERM in its guest, and KillWait to tidy up."""
    job = slurm.sbatch("#!/bin/bash\ntrap 'echo tidy; exit 0' TERM\necho up\nwhile :; do sleep 0.1; done\n", "-p", "busybox")
    up(slurm, job)
    slurm.run_as("alice", ["scancel", job])
    assert slurm.end(job) == "CANCELLED"
    lines = slurm.output(job).splitlines()
    assert (lines[0], lines[-1]) == ("up", "tidy")
    idle(slurm)


def test_a_job_that_minds_no_sigterm_is_killed_after_killwait(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/bash\ntrap 'echo no' TERM\necho up\nwhile :; do sleep 0.1; done\n", "-p", "busybox")
    up(slurm, job)
    slurm.run_as("alice", ["scancel", job])
    assert slurm.end(job) == "CANCELLED"
    assert "no" in slurm.output(job).splitlines()


def test_a_step_cancelled_beside_its_job(slurm: Slurm) -> None:
    job = slurm.sbatch(UNTIL_A_STEP, "-p", "busybox", "-n", "2")
    up(slurm, job)
    with slurm.start_as("alice", ["srun", "-Q", f"--jobid={job}", "--overlap", "-n", "1", "sleep", "300"]) as step:
        wait(lambda: f"{job}.0" in run(["squeue", "-h", "-s", "-o", "%i"]).split(), "no step")
        slurm.run_as("alice", ["scancel", f"{job}.0"])
        assert step.wait(30) != 0
        step.communicate()
    slurm.run_as("alice", ["srun", "-Q", f"--jobid={job}", "--overlap", "-n", "1", "sh", "-c", "touch /tmp/end"])
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == "up\nend\n"


def test_a_job_cancelled_while_it_is_taken_away(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\necho up\n", "-p", "busybox")
    slurm.wait_for(job, "COMPLETING", "COMPLETED")
    slurm.run_as("alice", ["scancel", job], check=False)
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == "up\n"


def test_a_requeued_job_starts_anew_in_another_guest(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/bash\necho up; cat /proc/sys/kernel/random/boot_id; sleep ${SLURM_RESTART_COUNT:+0}300\n"
                       .replace("${SLURM_RESTART_COUNT:+0}300", "$((300 * (1 - ${SLURM_RESTART_COUNT:-0})))"),
                       "-p", "busybox", "--open-mode=append")
    wait(lambda: len(slurm.output(job).splitlines()) == 2, "no start", lambda: slurm.log(job))
    slurm.run_as("alice", ["scontrol", "requeue", job])
    begin_now(slurm, job)
    assert slurm.end(job) == "COMPLETED", slurm.output(job) + slurm.log(job)
    lines = [line for line in slurm.output(job).splitlines() if len(line) == 36]
    assert len(set(lines)) == 2
    assert field(slurm.show(job), "Restarts") == "1"


def test_a_job_requeued_while_its_guest_is_prepared(slurm: Slurm) -> None:
    job = slurm.sbatch(SLEEP, "-p", "silent")
    phase(slurm, job, "phase start")
    slurm.run_as("alice", ["scontrol", "requeue", job])
    slurm.wait_for(job, "PENDING")
    assert field(slurm.show(job), "Reason") == "BeginTime"
    assert leftover.found() == []
    idle(slurm)


def test_a_users_fault_is_said_in_the_jobs_output_and_the_node_stays(slurm: Slurm, configure: Configure) -> None:
    with configure("[slurm]", '[users]\ndeny = ["bob"]\n[slurm]'):
        job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", "busybox", user="bob")
        assert slurm.end(job) == "FAILED"
        step = slurm.run_as("bob", ["srun", "-Q", "-p", "busybox", "hostname"], check=False)
    refused = "could not start: jobs of bob do not run in queue busybox (ask the site's admins)"
    assert slurm.output(job, "bob") == f"vmbatch: job {job} {refused}\nvmbatch: the job has failed [VB206]\n"
    assert field(slurm.show(job), "ExitCode") == "1:0"
    assert field(slurm.show(job), "AdminComment") == "vmbatch: jobs of bob do not run in queue busybox"
    assert step.returncode == 1
    assert refused in step.stderr
    idle(slurm)


@pytest.mark.parametrize(("asked", "why"), [
    ("vbnonsense=1", "vbnonsense: jobs of this queue cannot ask for that"),
    ("vbuserimage=/home/alice/bad.qcow2", "/home/alice/bad.qcow2"),
    ("vbuserimage=/home/alice/none.qcow2", "/home/alice/none.qcow2: No such file or directory"),
    ("vbuserimage=https://elsewhere.example/bad.img", "https://elsewhere.example/bad.img"),
])
def test_a_users_bad_image_never_drains(slurm: Slurm, asked: str, why: str) -> None:
    bad = Path("/home/alice/bad.qcow2")
    bad.write_bytes(b"QFI\xfb" + os.urandom(65536))
    job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", "own", f"--vmbatch={asked}")
    assert slurm.end(job) == "FAILED"
    first, second = slurm.output(job).splitlines()[:2]
    assert first.startswith(f"vmbatch: job {job} could not start: ")
    assert why in first
    assert re.fullmatch(r"vmbatch: the job has failed \[VB(202|302|308|309)\]", second)
    idle(slurm)


def test_two_features_that_are_templates_are_the_users_fault(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", "busybox", "-C", "busybox&debian")
    assert slurm.end(job) == "FAILED"
    assert "the features busybox, debian stand for several templates (ask for one of them)" in slurm.output(job)


@pytest.mark.parametrize(("fault", "reason", "state"), [
    ("drain", "BeginTime", "drained"), ("requeue", "BeginTime", "idle"), ("hold", "job_requeued_in_held_state", "idle"),
])
def test_a_nodes_fault_sends_the_job_back(slurm: Slurm, configure: Configure, fault: str, reason: str, state: str) -> None:
    with configure("[slurm]", f'[slurm]\nnode_fault = "{fault}"'), configure("[share]", '[share]\ndirectory = "/nowhere"'):
        job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", "busybox", "-w", "n1")
        slurm.wait_for(job, "PENDING")
        wait(lambda: field(slurm.show(job), "Reason") == reason, reason, lambda: slurm.show(job))
    wait(lambda: slurm.states()["n1"] == state, state, lambda: str(slurm.states()))
    if state == "drained":
        assert slurm.reason("n1") == "vmbatch: the share /nowhere: No such file or directory"
    assert slurm.output(job) == ""


def test_a_killed_prolog_drains_and_holds_as_slurm_has_it(slurm: Slurm) -> None:
    job = slurm.sbatch(SLEEP, "-p", "silent", "-w", "n1")
    phase(slurm, job, "phase start")
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{HOOKS}/slurm-prolog".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    slurm.wait_for(job, "PENDING")
    assert field(slurm.show(job), "Reason") == "launch_failed_requeued_held"
    wait(lambda: slurm.states()["n1"] == "drained", "drained")
    assert slurm.reason("n1") == "Prolog error"
    assert leftover.found() == []


def test_slurmd_killed_while_a_guest_is_prepared(slurm: Slurm) -> None:
    """Slurm forgets the start and would have the job wait for ever; the Prolog notices, and sends it back."""
    job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", "silent", "-w", "n1")
    phase(slurm, job, "phase start")
    slurm.kill_slurmd("n1")
    phase(slurm, job, "slurmd has ended, and nobody waits for this Prolog; this start is over")
    slurm.start_slurmd("n1")
    slurm.wait_for(job, "PENDING")
    assert field(slurm.show(job), "Restarts") == "1"
    wait(lambda: leftover.found() == [], "something is left", lambda: str(leftover.found()))
    assert slurm.states()["n1"] == "idle"


def test_slurmd_restarted_while_a_guest_is_prepared(slurm: Slurm) -> None:
    """With SIGTERM slurmd waits for its Prologs."""
    job = slurm.sbatch("#!/bin/sh\necho ran in $(uname -n)\n", "-p", "busybox", "-w", "n1")
    phase(slurm, job, "phase start")
    slurm.kill_slurmd("n1", signal.SIGTERM)
    slurm.start_slurmd("n1")
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == f"ran in vm-{job}\n"


def test_slurmd_killed_and_back_while_a_job_runs(slurm: Slurm) -> None:
    job = slurm.sbatch(UNTIL_A_STEP, "-p", "busybox", "-w", "n1", "-n", "2")
    up(slurm, job)
    slurm.kill_slurmd("n1")
    slurm.start_slurmd("n1")
    wait(lambda: slurm.states().get("n1") == "mixed", "n1")
    step = slurm.run_as("alice", ["srun", "-Q", f"--jobid={job}", "--overlap", "-n", "1", "sh", "-c", "touch /tmp/end; uname -n"])
    assert step.stdout == f"vm-{job}\n"
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == "up\nend\n"


def test_slurmd_away_when_a_job_ends(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\necho up\nsleep 5\n", "-p", "busybox", "-w", "n1")
    up(slurm, job)
    slurm.kill_slurmd("n1")
    slurm.wait_for(job, "COMPLETING")
    slurm.start_slurmd("n1")
    assert slurm.end(job) == "COMPLETED"


def test_what_the_epilog_cannot_remove_drains_the_node(slurm: Slurm) -> None:
    """It stays in the journal for the sweep."""
    job = slurm.sbatch("#!/bin/sh\necho up\nsleep 5\n", "-p", "busybox", "-w", "n1")
    up(slurm, job)
    (spool,) = Path("/var/lib/vmbatch/spool").glob(f"{job}.*")
    (spool / "busy").mkdir()
    run(["mount", "-t", "tmpfs", "none", spool / "busy"])
    try:
        assert slurm.end(job) == "COMPLETED"
        wait(lambda: slurm.states()["n1"] == "drained", "drained", lambda: str(slurm.states()))
    finally:
        run(["umount", spool / "busy"])
    assert slurm.reason("n1") == "Epilog error"
    said = run(["/srv/vmbatch/venv/bin/vmbatch", "sweep"])
    assert said == f"released job {job} of alice: dead, the batch system does not run it\n"


def test_the_sweep_asks_slurm_which_jobs_there_are(slurm: Slurm) -> None:
    """Neither a running job's things are taken, nor those of a job whose Epilog never ran kept."""
    job = slurm.sbatch(SLEEP, "-p", "busybox")
    up(slurm, job)
    assert run(["/srv/vmbatch/venv/bin/vmbatch", "sweep", "--dry-run"]) == ""
    epilog = HOOKS / "slurm-epilog"
    epilog.rename(epilog.with_suffix(".away"))
    epilog.write_text("#!/bin/sh\nexit 0\n")
    epilog.chmod(0o755)
    try:
        slurm.run_as("alice", ["scancel", job])
        slurm.end(job)
    finally:
        epilog.with_suffix(".away").rename(epilog)
    said = run(["/srv/vmbatch/venv/bin/vmbatch", "sweep"])
    assert said == f"released job {job} of alice: dead, the batch system does not run it\n"
