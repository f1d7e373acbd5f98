"""What a user of a partition with guests sees of his jobs: all of it is as without guests, but in a guest."""

import os
import time
from pathlib import Path

import pytest

from lab.slurm import Slurm, field

pytestmark = pytest.mark.slurm
HERE = os.uname().release


def test_an_unchanged_script_runs_in_a_guest(slurm: Slurm) -> None:
    script = """#!/bin/bash
#SBATCH --job-name=plain --mem=300
echo "$(uname -n) $(uname -r) $(id -un) $PWD $# $2"
echo "$SLURM_JOB_ID $SLURM_JOB_PARTITION $SLURM_JOB_NAME $MINE ${SLURM_RLIMIT_NOFILE-none}"
echo "to stderr" >&2
exit 7
"""
    job = slurm.sbatch(script, "-p", "busybox", "--export=ALL,MINE=yes", arguments=["a b", "it's $HOME"])
    assert slurm.end(job) == "FAILED"
    said = slurm.show(job)
    assert field(said, "ExitCode") == "7:0"
    assert field(said, "Reason") == "NonZeroExitCode"
    accounted = slurm.account(job)
    assert (accounted[job], accounted[f"{job}.batch"]) == (["FAILED", "7:0"], ["FAILED", "7:0"])
    first, second, third = slurm.output(job).splitlines()
    host, kernel, *rest = first.split(" ", 5)
    assert (host, rest) == (f"vm-{job}", ["alice", "/home/alice", "2", "it's $HOME"])
    assert kernel != HERE
    assert second == f"{job} busybox plain yes none"
    assert third == "to stderr"
    assert "guest vmbatch-" in slurm.log(job)


def test_a_job_killed_by_a_signal_has_slurms_status_for_it(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\nkill -KILL $$\n", "-p", "busybox")
    assert slurm.end(job) == "FAILED"
    assert field(slurm.show(job), "ExitCode") == "137:0"
    assert slurm.account(job)[job] == ["FAILED", "9:0"], "sacct shows the signal's number alone"


def test_tasks_of_an_array_have_a_guest_each(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\necho $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID $(uname -n)\n", "-p", "busybox",
                       "--array=1-2", "-o", "array-%a.out")
    for task in (1, 2):
        assert slurm.end(f"{job}_{task}") == "COMPLETED"
    rows = [Path(f"/home/alice/array-{task}.out").read_text().split() for task in (1, 2)]
    assert [row[:2] for row in rows] == [[job, "1"], [job, "2"]]
    assert [row[3] for row in rows] == [f"vm-{row[2]}" for row in rows]
    assert rows[0][2] != rows[1][2]


def test_steps_run_in_the_guest_beside_each_other(slurm: Slurm) -> None:
    """More at once than the guest's ssh server lets in unknown (dropbear: 5)."""
    command = ["sh", "-c", "echo $SLURM_PROCID $(uname -n); cat"]
    done = slurm.run_as("alice", ["srun", "-p", "busybox", "-n", "8", "--label", *command], stdin="to all\n")
    lines = sorted(done.stdout.splitlines())
    hosts = {line.split()[2] for line in lines if "to all" not in line}
    assert len(hosts) == 1
    assert hosts.pop().startswith("vm-")
    assert [line.split()[:2] for line in lines if "to all" not in line] == [[f"{number}:", str(number)] for number in range(8)]
    assert [line for line in lines if "to all" in line] == [f"{number}: to all" for number in range(8)]


def test_a_steps_exit_status_and_streams_are_its_programs(slurm: Slurm) -> None:
    done = slurm.run_as("alice", ["srun", "-Q", "-p", "busybox", "sh", "-c", "echo out; echo err >&2; exit 9"], check=False)
    assert (done.returncode, done.stdout) == (9, "out\n")
    assert sorted(done.stderr.splitlines()) == ["err", "srun: error: n1: task 0: Exited with exit code 9"]


def test_steps_of_an_allocation_and_of_a_running_job_share_its_guest(slurm: Slurm) -> None:
    """salloc's shell is where the user is; srun's steps are in the guest, and those from elsewhere with --jobid, too."""
    script = "uname -r; srun -n 1 uname -n; srun -n 1 --jobid=$SLURM_JOB_ID /usr/bin/uname -n; echo $SLURM_JOB_ID"
    done = slurm.run_as("alice", ["salloc", "-Q", "-p", "busybox", "-n", "2", "sh", "-c", script])
    kernel, first, second, job = done.stdout.split()
    assert (kernel, first, second) == (HERE, f"vm-{job}", f"vm-{job}")


def test_an_interactive_step_has_a_terminal_in_the_guest(slurm: Slurm) -> None:
    step = "srun -Q -p busybox --pty sh -c 'tty; uname -n; read x; echo got $x'"
    done = slurm.run_as("alice", ["script", "-qec", step, "/dev/null"], stdin="hello\n")
    lines = done.stdout.replace("\r", "").splitlines()
    assert lines[-2].startswith("vm-"), done.stdout
    assert "/dev/pts/" in lines[-3]
    assert lines[-1] == "got hello"


def test_a_feature_chooses_the_template(slurm: Slurm) -> None:
    job = slurm.sbatch("#!/bin/sh\ntest -x /usr/bin/systemctl && echo systemd\n", "-p", "busybox", "-C", "debian")
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == "systemd\n"


def test_cores_and_memory_are_those_of_the_allocation(slurm: Slurm) -> None:
    """The guest's kernel takes some 35 MiB of the 284 for itself."""
    script = "#!/bin/sh\ngrep -c ^processor /proc/cpuinfo\nsed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo\n"
    job = slurm.sbatch(script, "-p", "sized", "-c", "2", "--mem-per-cpu=150M")
    assert slurm.end(job) == "COMPLETED"
    cores, kib = slurm.output(job).split()
    assert cores == "2"
    assert 230 << 10 < int(kib) < 284 << 10
    greedy = slurm.sbatch(script, "-p", "sized", "-c", "3", "--mem=100M")
    assert slurm.end(greedy) == "FAILED"
    assert "could not start: " in slurm.output(greedy)


def test_control_groups_hold_the_jobs_shell_and_not_its_guest(slurm: Slurm, missing: list[str]) -> None:
    """A guest of more memory than the job's: its limit would kill QEMU."""
    if missing:
        pytest.skip(f"this machine's kernel offers no control groups of version 1 for {', '.join(missing)}")
    job = slurm.sbatch("#!/bin/sh\necho up\nsleep 5\necho done\n", "-p", "busybox", "--mem=100M")
    wait_output(slurm, job, "up\n")
    group = Path(f"/sys/fs/cgroup/memory/slurm_{field(slurm.show(job), 'BatchHost')}/uid_1500/job_{job}")
    assert (group / "memory.limit_in_bytes").read_text() == f"{100 << 20}\n"
    processes = (group / "step_batch/task_0/cgroup.procs").read_text().split()
    held = [Path(f"/proc/{process}/cmdline").read_bytes() for process in processes]
    assert any(b"slurm-task" in words for words in held)
    assert not any(b"qemu" in words for words in held)
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job) == "up\ndone\n"


def test_twenty_jobs_on_two_slurmd_and_one_beyond_its_time(slurm: Slurm) -> None:
    """The one gets a warning, then SIGTERM, and ends by itself before KillWait is over.

    Slurm looks twice a minute, and warns up to half a minute early; before the script runs, nobody would hear it.
    """
    beyond = slurm.sbatch("""#!/bin/bash
trap 'echo warned' USR1
trap 'echo grace; exit 3' TERM
echo up
sleep 300 &
while :; do wait $!; done 2>/dev/null
""", "-p", "busybox", "--time=1", "--signal=B:USR1@10")
    wait_output(slurm, beyond, "up\n")
    script = "#!/bin/sh\necho $SLURM_JOB_ID $(uname -n) $SLURM_JOB_NODELIST\n"
    jobs = [slurm.sbatch(script, "-p", "busybox", "-c", "5") for _ in range(20)]
    said = {}
    for job in jobs:
        assert slurm.end(job) == "COMPLETED", slurm.log(job)
        said[job] = slurm.output(job).split()
    assert [row[:2] for row in said.values()] == [[job, f"vm-{job}"] for job in jobs]
    assert {row[2] for row in said.values()} == {"n1", "n2"}
    assert slurm.end(beyond) == "TIMEOUT"
    assert [line for line in slurm.output(beyond).splitlines() if not line.startswith("slurmstepd")] == ["up", "warned", "grace"]
    assert slurm.states() == {"n1": "idle", "n2": "idle"}


def test_signals_reach_the_job_in_its_guest(slurm: Slurm) -> None:
    """`--batch` is for the script alone, whose programs would die of it; `--full` for all."""
    job = slurm.sbatch("""#!/bin/bash
trap 'echo usr1' USR1
trap 'echo usr2; wait; exit 5' USR2
(trap 'echo child; exit' USR2; while :; do sleep 0.1; done) 2>/dev/null &
sleep 300 &
echo up
while kill -0 $! 2>/dev/null; do wait $!; done 2>/dev/null
""", "-p", "busybox")
    wait_output(slurm, job, "up\n")
    slurm.run_as("alice", ["scancel", "--batch", "--signal=USR1", job])
    wait_output(slurm, job, "up\nusr1\n")
    slurm.run_as("alice", ["scancel", "--full", "--signal=USR2", job])
    wait_output(slurm, job, "up\nusr1\n", more="usr2\n")
    assert slurm.end(job) == "FAILED"
    assert field(slurm.show(job), "ExitCode") == "5:0"
    assert sorted(slurm.output(job).splitlines()[2:]) == ["child", "usr2"]


def wait_output(slurm: Slurm, job: str, text: str, *, more: str = "") -> None:
    """Until the job has written just this, or this and `more` among other things."""
    deadline = time.monotonic() + 240
    while not (slurm.output(job) == text if not more else slurm.output(job).startswith(text) and more in slurm.output(job)):
        assert time.monotonic() < deadline, slurm.output(job) + slurm.log(job)
        time.sleep(0.05)
