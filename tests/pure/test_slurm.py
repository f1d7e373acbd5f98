"""Slurm's hooks: their environment as slurmd 22.05 was seen to set it, what becomes of a job that could not start."""

import grp
import os
import pwd
import time
from pathlib import Path

import pytest

from vmbatch.batch import slurm
from vmbatch.batch.slurm import Slurm, alarm, features, memory
from vmbatch.batch.system import Call, Outcome, Refusal
from vmbatch.config import parse as parse_config
from vmbatch.errors import CommandError, DeadlineError, EndedError, JobError, NodeError, SiteError, VmBatchError
from vmbatch.host import process
from vmbatch.job import Group, User
from vmbatch.units import Deadline

from .sample import TOKEN

ENVIRON = {
    "SLURMD_NODENAME": "n1", "SLURM_CLUSTER_NAME": "lab", "SLURM_CONF": "/etc/slurm/slurm.conf", "SLURM_JOBID": "42",
    "SLURM_JOB_CPUS_PER_NODE": "2", "SLURM_JOB_GID": "1500", "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_PARTITION": "vm", "SLURM_JOB_RESTART_COUNT": "0", "SLURM_JOB_UID": "1500", "SLURM_JOB_USER": "alice",
    "SLURM_NODELIST": "n1", "SLURM_SCRIPT_CONTEXT": "prolog_slurmd", "SLURM_UID": "1500",
}
ENV = ["env", "SLURM_CONF=/etc/slurm/slurm.conf"]
SQUEUE = [*ENV, "squeue", "--noheader"]


class Commands:
    """Slurm's commands: what was asked, and what they say, in turn; an error is raised."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.says: list[str | VmBatchError] = []

    def run(self, argv: list[str], deadline: Deadline) -> str:
        assert 0 < deadline.left() <= 15
        self.asked.append(argv)
        said = self.says.pop(0)
        if isinstance(said, VmBatchError):
            raise said
        return said


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(process, "run", made.run)
    alice = pwd.struct_passwd(("alice", "x", 1500, 1500, "", "/home/alice", "/bin/bash"))
    monkeypatch.setattr(pwd, "getpwuid", {1500: alice}.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((f"g{gid}", "x", gid, [])))
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 1600])
    return made


def call(**changed: str | None) -> Call:
    environ = {name: value for name, value in {**ENVIRON, **changed}.items() if value is not None}
    return Call(["/hooks/slurm-prolog"], environ, "/hooks")


def test_job(commands: Commands) -> None:
    commands.says = ["42                  2024-02-29T13:00:00      cpu=2,mem=300M,node=1,billing=2   \n"]
    job = Slurm().parse(call(SLURM_JOB_CONSTRAINTS="el9&(fast|slow)"), TOKEN, None)
    assert (job.batch, job.id, job.queue, job.nodes, job.cores, job.memory) == ("slurm", "42", "vm", ("n1",), 2, 300 << 20)
    assert job.user == User("alice", 1500, Group("g1500", 1500), (Group("g1600", 1600),), "/home/alice", "/bin/bash")
    assert job.features == ("el9", "fast", "slow")
    assert (job.script, job.node_file, job.wishes) == (None, None, {})
    assert commands.asked == [[*SQUEUE, "--jobs=42", "--Format=JobID:20,EligibleTime:25,tres-alloc:400"]]
    assert job.queued == time.mktime((2024, 2, 29, 13, 0, 0, 0, 0, -1))


@pytest.mark.parametrize("moment", ["Unknown", "N/A", "NONE", "2024-02-29"])
def test_a_job_of_which_slurm_does_not_say_how_long_it_waited(commands: Commands, moment: str) -> None:
    commands.says = [f"42 {moment} cpu=2,mem=300M,node=1\n"]
    job = Slurm().parse(call(), TOKEN, None)
    assert (job.memory, job.queued) == (300 << 20, None)


def test_wishes_are_those_of_the_plugins_option(commands: Commands) -> None:
    commands.says = [""]
    job = Slurm().parse(call(SPANK__SLURM_SPANK_OPTION_vmbatch_vmbatch="vbimage=https://x/a.img;vbb=2"), TOKEN, None)
    assert job.wishes == {"vbimage": "https://x/a.img", "vbb": "2"}
    assert job.memory is None


@pytest.mark.parametrize(("changed", "what"), [
    ({"SLURM_JOB_ID": ""}, "'' is not a job id"),
    ({"SLURM_JOB_ID": "../x"}, "'../x' is not a job id"),
    ({"SLURM_JOB_PARTITION": "a/b"}, "'a/b' is not the name of a partition"),
    ({"SLURM_JOB_NUM_NODES": "2"}, "the job has 2 nodes, and jobs of partition vm run in one guest"),
    ({"SLURM_HET_SIZE": "2"}, "heterogeneous jobs do not run in partition vm"),
])
def test_jobs_that_cannot_be(commands: Commands, changed: dict[str, str], what: str) -> None:
    with pytest.raises(JobError) as caught:
        Slurm().parse(call(**changed), TOKEN, None)
    assert caught.value.what == what
    assert commands.asked == []


@pytest.mark.parametrize("name", ["SLURM_JOB_UID", "SLURM_JOB_GID", "SLURM_JOB_NUM_NODES", "SLURM_JOB_CPUS_PER_NODE"])
@pytest.mark.parametrize("value", [None, "", "x", "-1", "1,2", "1\n"])
def test_what_slurmd_did_not_say(commands: Commands, name: str, value: str | None) -> None:
    with pytest.raises(NodeError) as caught:
        Slurm().parse(call(**{name: value}), TOKEN, None)
    assert caught.value.what == f"the Prolog was not given {name}"


@pytest.mark.error("VB908")
def test_a_user_that_the_node_does_not_know(commands: Commands) -> None:
    with pytest.raises(NodeError, match="this node knows no user with uid 1501"):
        Slurm().parse(call(SLURM_JOB_UID="1501"), TOKEN, None)


def test_names_in_calls() -> None:
    system = Slurm()
    assert (system.job_id(call()), system.queue(call(), "prologue"), system.queue(call(), "epilogue")) == ("42", "vm", "vm")
    nothing = Call([], {}, "/")
    assert (system.job_id(nothing), system.queue(nothing, "epilogue")) == ("", "")


@pytest.mark.parametrize(("text", "names"), [
    ("", ()), ("el9", ("el9",)), ("a&b", ("a", "b")), ("[rack1|rack2*2]", ("rack1", "rack2")), ("(a|b)&c&a", ("a", "b", "c")),
    ("gpu:a100&x-y.z", ("gpu:a100", "x-y.z")), ("a*4", ("a",)),
])
def test_features(text: str, names: tuple[str, ...]) -> None:
    assert features(text) == names


@pytest.mark.parametrize(("text", "status"), [("0:0", 0), ("7:0", 7), ("0:9", 137), ("7:15", 143), ("", None), ("x", None)])
def test_exit_status(text: str, status: int | None) -> None:
    assert slurm.exit_status(call(SLURM_JOB_EXIT_CODE2=text)) == status


@pytest.mark.parametrize(("text", "size"), [
    ("cpu=2,mem=300M,node=1", 300 << 20), ("mem=1.50G", 3 << 29), ("mem=16000M", 16000 << 20), ("cpu=2,node=1", None), ("", None),
    ("xmem=3M", None), ("mem=", None), ("mem=2T,x=1", 2 << 40), ("mem=7", 7),
])
def test_memory(text: str, size: int | None) -> None:
    assert memory(text) == size


@pytest.mark.parametrize(("text", "seconds"), [
    ("", 86400.0), ("PrologEpilogTimeout=300\n", 300.0), ("  prologepilogtimeout = 20 # short\n", 20.0),
    ("#PrologEpilogTimeout=5\n", 86400.0), ("PrologEpilogTimeout=65534\n", 86400.0), ("Include more.conf\n", 33.0),
    ("PrologEpilogTimeout=5\nPrologEpilogTimeout=7\n", 7.0),
    ("PrologEpilogTimeout=5\nInclude /nowhere/x\n", 5.0), ("Include slurm.conf\nPrologEpilogTimeout=9\n", 9.0),
])
def test_alarm(tmp_path: Path, text: str, seconds: float) -> None:
    (tmp_path / "slurm.conf").write_text(text)
    (tmp_path / "more.conf").write_text("PrologEpilogTimeout=33\n")
    assert alarm(str(tmp_path / "slurm.conf")) == seconds
    assert Slurm().alarm(call(SLURM_CONF=str(tmp_path / "slurm.conf")), parse_config(b"", "x")) == seconds


def test_alarm_without_a_file() -> None:
    assert alarm("/nowhere/slurm.conf") == 86400.0


REFUSED = CommandError(["scontrol"], 1, "Requested operation is presently disabled for job 42")
AWAY = CommandError(["scontrol"], 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
SLOW = DeadlineError("scontrol did not end in time")
DRAIN = [*ENV, "scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=vmbatch: no libvirt"]
REQUEUE = [*ENV, "scontrol", "requeue", "42"]
HOLD = [*ENV, "scontrol", "requeuehold", "42"]
COMMENT = [*ENV, "scontrol", "update", "JobId=42", "AdminComment=vmbatch: bad image"]


def told(text: str) -> Outcome:
    return Outcome(0, text, refusal=Refusal("1500", 1500, 1500, outcome=text))


BACK, HELD, FAILED = "the job goes back into its queue", "the job is held", "the job has failed"


@pytest.mark.parametrize(("error", "fault", "says", "asked", "outcome"), [
    (JobError("bad image"), "drain", [""], [COMMENT], told(FAILED)),
    (JobError("bad\x1b image\n"), "hold", [AWAY], [COMMENT], told(FAILED)),
    (NodeError("no libvirt"), "drain", ["", ""], [DRAIN, REQUEUE], told(BACK)),
    (SiteError("no libvirt"), "drain", ["", ""], [DRAIN, REQUEUE], told(BACK)),
    (NodeError("no libvirt"), "hold", [""], [HOLD], told(HELD)),
    (NodeError("no libvirt"), "requeue", [""], [REQUEUE], told(BACK)),
    (NodeError("no libvirt"), "requeue", [REFUSED], [REQUEUE], told(FAILED)),
    (NodeError("no libvirt"), "requeue", [AWAY], [REQUEUE], Outcome(1, "Slurm drains the node, and holds the job if it can")),
    (NodeError("no libvirt"), "drain", [SLOW], [DRAIN], Outcome(1, "Slurm drains the node, and holds the job if it can")),
    (EndedError("over"), "drain", [], [], told("the job is over")),
])
def test_a_start_that_failed(
    commands: Commands, error: VmBatchError, fault: str, says: list[str | VmBatchError], asked: list[list[str]], outcome: Outcome,
) -> None:
    commands.says = says
    config = parse_config(f'[slurm]\nnode_fault = "{fault}"'.encode(), "x")
    assert Slurm().failed(error, call(), config, None) == outcome
    assert commands.asked == asked


def test_one_image_never_drains(commands: Commands) -> None:
    """However often it fails, and whoever uses it; with a second image and a second user it is the node."""
    config = parse_config(b"", "x")
    error = NodeError("no libvirt")
    for image, user, drains in [("a.xml", "1500", False)] * 4 + [("a.xml", "1501", False), ("b.xml", "1501", True)]:
        error.suspect = image
        commands.asked.clear()
        commands.says = ["", ""]
        environ = {**call().environ, "SLURM_JOB_UID": user}
        assert Slurm().failed(error, Call(call().argv, environ, "/hooks"), config, None).text == BACK
        assert commands.asked == ([DRAIN, REQUEUE] if drains else [REQUEUE])


def test_a_start_that_failed_without_an_environment(commands: Commands) -> None:
    commands.says = [AWAY]
    assert Slurm().failed(NodeError("x"), Call([], {}, "/"), parse_config(b"", "x"), None).status == 1


def test_a_start_whose_slurmd_has_ended_goes_back(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without draining: slurmd was not hindered by us."""
    monkeypatch.setattr(os, "getppid", lambda: 7)
    system, config = Slurm(), parse_config(b"", "x")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert system.unwanted(call(), config) == "slurmd has ended, and nobody waits for this Prolog"
    commands.says = [""]
    assert system.failed(EndedError("over"), call(), config, None) == told(BACK)
    assert commands.asked == [REQUEUE]


INVALID = CommandError(["squeue"], 1, "slurm_load_jobs error: Invalid job id specified")


@pytest.mark.parametrize(("said", "why"), [
    ("42 RUNNING\n", ""), ("42 CONFIGURING\n", ""), ("42 COMPLETING\n", "the job is completing"),
    ("42 PENDING\n", "the job is pending"),
    ("41 PENDING\n42 RUNNING\n43 PENDING\n", ""), ("", "the job is gone"), (INVALID, "the job is gone"), (AWAY, ""), (SLOW, ""),
])
def test_unwanted(commands: Commands, said: str | VmBatchError, why: str) -> None:
    commands.says = [said]
    config = parse_config(b'[slurm]\nask = "0s"', "x")
    assert Slurm().unwanted(call(), config) == why
    assert commands.asked == [[*SQUEUE, "--states=all", "--jobs=42", "--format=%A %T"]]


def test_slurmctld_is_asked_now_and_then(commands: Commands) -> None:
    assert Slurm().unwanted(call(), parse_config(b"", "x")) == ""
    assert commands.asked == []


def test_is_gone(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    commands.says = ["42\n 7 \n"]
    system = Slurm()
    assert [system.is_gone(job, None, None) for job in ("42", "7", "4", "")] == [False, False, True, True]
    assert [argv[0] for argv in commands.asked] == ["squeue"], "once"
    assert "--states=COMPLETING,CONFIGURING,RESIZING,RUNNING,SIGNALING,STAGE_OUT,STOPPED,SUSPENDED" in commands.asked[0]
    commands.says = [AWAY]
    assert Slurm().is_gone("42", None, None) is None


def test_the_limit_of_a_reason(commands: Commands) -> None:
    commands.says = [""]
    Slurm().failed(JobError("x" * 5000), call(), parse_config(b"", "x"), None)
    assert commands.asked[0][-1] == "AdminComment=vmbatch: " + "x" * slurm._TEXT_LIMIT
