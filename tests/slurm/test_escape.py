"""What a user might try to run on the node itself; and that jobs without guests notice nothing of VmBatch."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.init import LOG
from lab.process import run
from lab.slurm import CONFIG, HOOKS, Slurm, field

pytestmark = pytest.mark.slurm


@pytest.fixture
def escape() -> Iterator[Path]:
    """A program of the user's that leaves a mark on the node if it runs there: for whose user, and as what.

    Not below pytest's directories, which any other session of pytest closes to users.
    """
    with tempfile.TemporaryDirectory(prefix="vmbatch-escape-", dir="/var/tmp") as made:
        place = Path(made)
        place.chmod(0o755)
        marks = place / "marks"
        marks.mkdir()
        marks.chmod(0o1777)
        program = place / "escape"
        program.write_text(f"#!/bin/sh\nid -un >{marks}/mark.$$\n")
        program.chmod(0o755)
        yield program


def marks(escape: Path) -> list[str]:
    return sorted(path.read_text().strip() for path in (escape.parent / "marks").iterdir())


def library(escape: Path) -> Path:
    """A library for LD_PRELOAD that leaves the mark; it works for who is not root."""
    source, made = escape.parent / "preload.c", escape.parent / "preload.so"
    source.write_text('#include <fcntl.h>\n#include <unistd.h>\n__attribute__((constructor)) static void mark(void)\n'
                      f'{{ if (geteuid()) {{ int fd = open("{escape.parent}/marks/preload", O_WRONLY | O_CREAT, 0644);'
                      ' write(fd, "preload\\n", 8); close(fd); } }\n')
    run(["gcc", "-shared", "-fPIC", "-w", "-o", made, source])
    return made


@pytest.mark.parametrize("partition", ["native", "busybox"])
def test_task_prologs_epilogs_and_preloaded_libraries(slurm: Slurm, escape: Path, partition: str) -> None:
    """As a control, all three work on the node for a job without a guest."""
    done = slurm.run_as("alice", [
        "srun", "-Q", "-p", partition, f"--export=ALL,LD_PRELOAD={library(escape)}", f"--task-prolog={escape}",
        f"--task-epilog={escape}", "sh", "-c", "uname -n",
    ])
    assert done.stdout.startswith("vm-") == (partition == "busybox")
    assert marks(escape) == (["alice", "alice", "preload"] if partition == "native" else [])


@pytest.mark.parametrize("partition", ["native", "busybox"])
def test_preloaded_libraries_of_a_batch_script(slurm: Slurm, escape: Path, partition: str) -> None:
    job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", partition, f"--export=ALL,LD_PRELOAD={library(escape)}")
    assert slurm.end(job) == "COMPLETED"
    assert slurm.output(job).splitlines()[-1] == "ran"
    assert marks(escape) == (["preload"] if partition == "native" else [])


@pytest.fixture
def profile(escape: Path) -> Iterator[None]:
    """A login shell of alice's runs the program."""
    path = Path("/home/alice/.bash_profile")
    path.write_text(f"{escape}\n")
    yield
    path.unlink()


@pytest.mark.usefixtures("profile")
@pytest.mark.parametrize(("partition", "timeout", "expected"), [
    ("native", "20", ["alice"]), ("busybox", "20", []), ("native", "0", []),
])
def test_the_users_login_shell(slurm: Slurm, escape: Path, partition: str, timeout: str, expected: list[str]) -> None:
    """--export=NONE has slurmd run it, unless job_submit.lua forbids it or GetEnvTimeout is 0."""
    slurm.reconfigure({"GetEnvTimeout": timeout})
    try:
        job = slurm.sbatch("#!/bin/sh\necho ran\n", "-p", partition, "--export=NONE")
        assert slurm.end(job) == "COMPLETED"
    finally:
        slurm.reconfigure({})
    assert slurm.output(job).splitlines()[-1] == "ran"
    assert marks(escape) == expected


def test_a_forged_partition_does_not_help(slurm: Slurm) -> None:
    done = slurm.run_as("alice", ["srun", "-Q", "-p", "busybox", "uname", "-n"],
                        env={"SLURM_JOB_PARTITION": "native", "VMBATCH_BATCH": "torque", "PBS_QUEUE": "native"})
    assert done.stdout.startswith("vm-")


def test_without_the_prolog_no_job_of_a_listed_partition_runs(slurm: Slurm, escape: Path) -> None:
    """An admin forgot it in slurm.conf; the partition is among those of the plugin's."""
    slurm.reconfigure({"Prolog": ""})
    try:
        job = slurm.sbatch(f"#!/bin/sh\n{escape}\n", "-p", "busybox")
        assert slurm.end(job) == "FAILED"
        step = slurm.run_as("alice", ["srun", "-Q", "-p", "busybox", str(escape)], check=False)
    finally:
        slurm.reconfigure({})
    refused = ("of partition busybox has no guest: its Prolog has not handed one over "
               "(admin: is slurm-prolog the Prolog in slurm.conf?)")
    assert slurm.output(job) == f"vmbatch: the job does not run: job {job} {refused} [VB801]\n"
    assert field(slurm.show(job), "ExitCode") == "255:0"
    assert step.returncode == 255
    assert refused in step.stderr
    assert marks(escape) == []


def test_without_its_program_nothing_runs(slurm: Slurm, escape: Path) -> None:
    shell = HOOKS / "slurm-task"
    shell.rename(shell.with_suffix(".away"))
    try:
        job = slurm.sbatch(f"#!/bin/sh\n{escape}\n", "-p", "busybox")
        assert slurm.end(job) == "FAILED"
    finally:
        shell.with_suffix(".away").rename(shell)
    assert slurm.output(job) == f"vmbatch: the job does not run: {shell}: No such file or directory\n"
    assert marks(escape) == []


def test_without_the_plugin_nothing_runs(slurm: Slurm, escape: Path) -> None:
    """`required` in plugstack.conf: slurmstepd starts no task of any partition."""
    stack = CONFIG / "plugstack.conf"
    before = stack.read_text()
    job = slurm.sbatch(f"#!/bin/sh\n{escape}\n", "-p", "busybox", "--hold")
    stack.write_text(before.replace("required /srv", "required /nowhere"))
    try:
        run(["scontrol", "release", job])
        assert slurm.end(job) == "COMPLETED", "Slurm 22.05 does not call it a failure"
    finally:
        stack.write_text(before)
    assert slurm.output(job) == ""
    assert marks(escape) == []


@pytest.mark.parametrize(("options", "why"), [
    (["-p", "busybox", "--nodes=2"], "jobs of partition busybox run in one guest: submit with --nodes=1"),
    (["-p", "busybox,native"], "a job runs either in a guest (busybox) or on the node (native): name partitions of one sort"),
])
def test_what_cannot_run_in_a_guest_is_refused_when_it_is_submitted(slurm: Slurm, options: list[str], why: str) -> None:
    done = slurm.run_as("alice", ["sbatch", *options, "--wrap", "true"], check=False)
    assert done.returncode != 0
    assert f"vmbatch: {why}" in done.stderr


def test_heterogeneous_jobs_are_refused(slurm: Slurm) -> None:
    done = slurm.run_as("alice", ["sbatch", "-p", "busybox", "--wrap", "true", ":", "-p", "busybox"], check=False)
    assert done.returncode != 0
    assert "heterogeneous jobs do not run in partition busybox" in done.stderr


def test_a_job_of_two_nodes_without_job_submit_is_refused_by_its_prolog(slurm: Slurm) -> None:
    slurm.reconfigure({"JobSubmitPlugins": ""})
    try:
        done = slurm.run_as("alice", ["srun", "-Q", "-p", "busybox", "--nodes=2", "hostname"], check=False)
    finally:
        slurm.reconfigure({})
    assert done.returncode == 1
    assert "the job has 2 nodes, and jobs of partition busybox run in one guest (submit with --nodes=1)" in done.stderr
    assert "node" not in done.stdout


@pytest.mark.parametrize(("before", "after"), [("native", "busybox"), ("busybox", "native")])
def test_a_job_cannot_be_moved_in_or_out(slurm: Slurm, before: str, after: str) -> None:
    """scontrol does not show the reason; slurmctld's log has it."""
    job = slurm.sbatch("#!/bin/sh\n", "-p", before, "--hold")
    log = LOG / "slurmctld.log"
    seen = len(log.read_text())
    done = slurm.run_as("alice", ["scontrol", "update", f"JobId={job}", f"Partition={after}"], check=False)
    assert done.returncode == 1
    assert "vmbatch: a job cannot move between guests and nodes: submit it anew" in log.read_text()[seen:]
    assert field(slurm.show(job), "Partition") == before


def test_a_job_without_a_guest_is_as_ever(slurm: Slurm) -> None:
    """Its environment, arguments, descriptors and limits are those that it has without the plugin; it has no log."""
    script = ("#!/bin/bash\nenv | sort | grep -v -E '^SLURM_(JOB_?ID|TASK_PID)='\n"
              'ls /proc/self/fd\numask\nulimit -a\necho "$@"\n')
    stack = CONFIG / "plugstack.conf"
    before = stack.read_text()
    with_us = slurm.sbatch(script, "-p", "native", "-w", "n1", "-J", "same", arguments=["a b"])
    assert slurm.end(with_us) == "COMPLETED"
    stack.write_text("")
    try:
        without = slurm.sbatch(script, "-p", "native", "-w", "n1", "-J", "same", arguments=["a b"])
        assert slurm.end(without) == "COMPLETED"
    finally:
        stack.write_text(before)
    assert slurm.output(with_us) == slurm.output(without)
    assert len(slurm.output(with_us).splitlines()) > 30
    assert slurm.log(with_us) == ""


def test_what_only_root_may_change(slurm: Slurm) -> None:
    for path in (HOOKS / "slurm-task", HOOKS / "slurm-prolog", HOOKS / "slurm-epilog", HOOKS.parent / "vmbatch.so"):
        status = os.stat(path)
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o755), path
