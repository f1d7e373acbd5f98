"""The hook in pbs_mom, event by event: what it has done, and what it answers."""

import os
import time
from pathlib import Path

import pytest

from lab.openpbs import Job, split

from .desk import NOTES, Desk, slug


def test_begin_notes_what_mom_knows(desk: Desk) -> None:
    job = desk.mom.accept(job_id="42[7].lab", resources={"vbmemory": "2gb", "mem": "1gb"}, account="acct",
                          variables={"vbimage": "a,b\\c", "SECRET": "hers"})
    assert desk.mom.run_hook(job, "execjob_begin").verdict == "accept"
    assert desk.calls == []
    assert desk.facts(job) == ("busybox", {
        "queue": "busybox", "name": "job", "account": "acct", "variables": {"vbimage": "a,b\\c"}, "interactive": False,
        "resources": {"ncpus": "1", "select": "1:ncpus=1", "walltime": "00:10:00", "vbmemory": "2gb", "mem": "1gb"},
        "exec_host": "node1.lab:15002/0", "exec_vnode": "(node1:ncpus=1)", "node": "node1", "first": True, "alarm": None,
    })
    assert NOTES.stat().st_mode & 0o7777 == 0o700
    assert (NOTES / "42-7.lab.facts").exists()


def test_begin_on_a_sister(desk: Desk) -> None:
    job = desk.mom.accept(first=False, exec_host2="node2.lab:15002/0+node1.lab:15002/0", interactive=True)
    assert desk.mom.run_hook(job, "execjob_begin").verdict == "accept"
    noted = desk.facts(job)
    assert noted is not None
    assert (noted[1]["first"], noted[1]["interactive"]) == (False, True)


def test_begin_refuses_a_directory_that_others_can_read(desk: Desk) -> None:
    NOTES.mkdir(parents=True, exist_ok=True)
    NOTES.chmod(0o755)
    try:
        answer = desk.mom.run_hook(desk.mom.accept(), "execjob_begin")
        assert (answer.verdict, answer.message) == ("rerun", f"VmBatch: {NOTES} must be a directory of root's alone")
        native = desk.mom.run_hook(desk.mom.accept(queue="native"), "execjob_begin")
        assert (native.verdict, len(native.found["said"])) == ("accept", 1)
    finally:
        NOTES.chmod(0o700)


def test_prologue_runs_ours(desk: Desk) -> None:
    desk.program("prologue")
    job = desk.mom.accept()
    answer = desk.mom.prologue(job)
    assert (answer.verdict, answer.found["job"], answer.found["vnodes"]) == ("accept", {}, {})
    assert desk.calls == [f"prologue [{job.id}] [alice] [alice]"]
    assert (job.output, job.errors) == (b"says prologue\n", b"complains prologue\n")
    noted = desk.facts(job)
    assert noted is not None
    assert 115 < noted[1]["alarm"] <= 120


def test_prologue_gets_what_a_classic_one_gets(desk: Desk) -> None:
    look = 'env | grep -E "^(PBS|MOM)" | sort; pwd; umask; id -G; readlink /proc/self/fd/0; echo /proc/self/fd/*'
    desk.program("prologue", look)
    through, classic = desk.mom.accept(), desk.mom.accept()
    assert desk.mom.prologue(through).verdict == "accept"
    (desk.mom.home / "mom_priv/prologue").symlink_to(desk.programs / "prologue")
    desk.mom.events = ("execjob_launch",)
    assert desk.mom.prologue(classic).verdict == "accept"
    assert through.output.replace(str(desk.programs).encode(), b"DIR") == (
        classic.output.replace(f"{desk.mom.home}/mom_priv".encode(), b"DIR"))
    assert b"PBS_JOBDIR=/home/alice\n" in through.output
    assert b"PBS_HOOK_CONFIG_FILE" not in through.output


@pytest.mark.parametrize(("verdict", "changed"), [
    ("delete", {"_delete": True}), ("rerun", {"_rerun": True}), ("hold", {"Hold_Types": "s", "_rerun": True}),
])
def test_verdict(desk: Desk, verdict: str, changed: dict[str, object]) -> None:
    job = desk.mom.accept()
    desk.program("prologue", desk.verdict(job, verdict, "the image is not there"))
    answer = desk.mom.prologue(job)
    assert (answer.verdict, answer.message) == (verdict, "the image is not there")
    assert (answer.found["job"], answer.found["vnodes"]) == (changed, {})


def test_offline(desk: Desk) -> None:
    """This node's vnodes, and no other's."""
    job = desk.mom.accept()
    desk.program("prologue", desk.verdict(job, "offline", "no libvirtd"))
    answer = desk.mom.prologue(job)
    assert (answer.verdict, answer.found["job"]) == ("rerun", {"_rerun": True})
    assert answer.found["vnodes"] == {name: {"state": 1, "comment": "VmBatch: no libvirtd"} for name in ("node1", "node1[0]")}


@pytest.mark.parametrize(("what", "verdict", "how"), [
    ("exit 1", "delete", "ended with exit status 1"), ("exit 2", "rerun", "ended with exit status 2"),
    ("exit 255", "rerun", "ended with exit status 255"), ("kill -9 $$", "rerun", "was killed by signal 9"),
    ("kill -TERM $$", "rerun", "was killed by signal 15"),
])
def test_prologue_that_says_no_more(desk: Desk, what: str, verdict: str, how: str) -> None:
    """A death by a signal is no success."""
    desk.program("prologue", what)
    job = desk.mom.accept()
    answer = desk.mom.prologue(job)
    assert (answer.verdict, answer.message) == (verdict, f"prologue of job {job.id} {how}")


def test_verdict_of_an_earlier_start(desk: Desk) -> None:
    job = desk.mom.accept()
    desk.mom.run_hook(job, "execjob_begin")
    (NOTES / f"{slug(job)}.verdict").write_text('{"verdict": "delete", "text": "stale"}')
    desk.program("prologue", "exit 2")
    assert desk.mom.prologue(job).verdict == "rerun"


def test_interactive_jobs_are_not_rerun(desk: Desk) -> None:
    desk.program("prologue", "exit 2")
    assert desk.mom.prologue(desk.mom.accept(interactive=True)).verdict == "delete"


def test_prologue_that_takes_too_long(desk: Desk) -> None:
    """The hook ends it before its own alarm; nothing of it goes on."""
    desk.mom.alarm = 3
    (desk.mom.home / "mom_priv/hooks/vmbatch.HK").write_text("alarm=3\n")
    desk.program("prologue", "sleep 60 & echo $! > $0.pid; wait")
    answer = desk.mom.prologue(desk.mom.accept())
    assert answer.verdict == "rerun"
    assert answer.message.startswith("prologue did not end within ")
    assert ends(desk.programs / "prologue.pid")


def ends(path: Path) -> bool:
    """Whether a process that was killed is gone soon."""
    stat = Path(f"/proc/{int(path.read_text())}/stat")
    for _ in range(100):
        try:
            if b") Z " in stat.read_bytes():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("deaf", [False, True])
def test_alarm(desk: Desk, deaf: bool) -> None:
    """An alarm that is shorter than pbs_mom's file says: OpenPBS rejects by itself, and kills all."""
    desk.mom.alarm = 1
    desk.program("prologue", "echo $$ > $0.pid; sleep 60")
    assert desk.mom.run_hook(desk.mom.accept(), "execjob_prologue", deaf=deaf).verdict == "error"
    assert ends(desk.programs / "prologue.pid")


def test_default_alarm(desk: Desk) -> None:
    (desk.mom.home / "mom_priv/hooks/vmbatch.HK").write_text("type=site\n")
    desk.program("prologue")
    job = desk.mom.accept()
    assert desk.mom.prologue(job).verdict == "accept"
    noted = desk.facts(job)
    assert noted is not None
    assert 25 < noted[1]["alarm"] <= 30


def test_no_prologue_at_all(desk: Desk) -> None:
    answer = desk.mom.prologue(desk.mom.accept())
    assert answer.verdict == "rerun"
    assert "No such file" in answer.message


def test_native_jobs_are_not_touched(desk: Desk) -> None:
    """No program is started for them, and what is executed stays as it was, to the byte."""
    for name in ("prologue", "epilogue", "openpbs"):
        desk.program(name)
    job = desk.mom.accept(queue="native", variables={"LD_PRELOAD": "/x.so", "ODD": "a,b\\c", "EMPTY": ""})
    for event in ("execjob_prologue", "execjob_preterm", "execjob_epilogue", "execjob_end", "execjob_abort"):
        answer = desk.mom.run_hook(job, event)
        assert (answer.verdict, answer.found["job"], answer.found["vnodes"], answer.found["said"]) == ("accept", {}, {}, [])
    assert desk.mom.run_hook(job, "execjob_attach", pid=1).verdict == "accept"
    answer = desk.mom.launch(job)
    assert (answer.verdict, answer.found["progname"], answer.found["argv"]) == ("accept", "/bin/bash", ["-bash"])
    assert split(answer.found["env"]) == desk.mom.environment(job)
    assert desk.calls == []


def test_the_sites_own_scripts_for_native_jobs(desk: Desk) -> None:
    """OpenPBS does not run them any more where there is a hook."""
    for name in ("prologue", "epilogue", "prologue.site", "epilogue.site"):
        desk.program(name)
    job = desk.mom.accept(queue="native", account="acct")
    assert desk.mom.prologue(job).verdict == "accept"
    assert desk.mom.run_hook(job, "execjob_epilogue", status=271).verdict == "accept"
    assert desk.calls == [
        f"prologue [{job.id}] [alice] [alice]",
        f"epilogue [{job.id}] [alice] [alice] [job] [4711] [ncpus=1,select=1:ncpus=1,walltime=00:10:00] "
        "[cput=00:00:00,walltime=00:00:03] [native] [acct] [271]",
    ]
    assert (job.output, job.errors) == (b"says prologue\nsays epilogue\n", b"complains prologue\ncomplains epilogue\n")


def launched(desk: Desk, job: Job, **how: object) -> tuple[str, list[str], dict[str, str]]:
    answer = desk.mom.launch(job, **how)  # type: ignore[arg-type]
    assert answer.verdict == "accept", answer
    return answer.found["progname"], answer.found["argv"], split(answer.found["env"])


def test_launch_gives_the_shell_to_remoteshell(desk: Desk) -> None:
    job = desk.mom.accept(variables={"LD_PRELOAD": "/home/alice/x.so", "ODD": "a,b\\c", "MINE": "yes"})
    desk.hand_over(job)
    program, argv, environ = launched(desk, job)
    assert (program, argv) == (str(desk.programs / "remoteshell"), ["remoteshell", "/bin/bash"])
    expected = desk.mom.environment(job)
    kept = {name: value for name, value in environ.items() if not name.startswith("VMBATCH_JOB_")}
    hidden = {name.removeprefix("VMBATCH_JOB_"): value for name, value in environ.items() if name.startswith("VMBATCH_JOB_")}
    assert kept | hidden == expected
    assert set(kept) - {name for name in kept if name.startswith("PBS_")} == {
        "ENVIRONMENT", "HOME", "LOGNAME", "PATH", "SHELL", "USER"}
    assert kept["PATH"] == "/usr/bin:/bin"
    assert hidden["ODD"] == "a,b\\c"


def test_launch_of_a_program_with_arguments(desk: Desk) -> None:
    job = desk.mom.accept(words=["/home/alice/my prog", "it's", "", "$(id)"])
    desk.hand_over(job)
    assert launched(desk, job)[1] == ["remoteshell", "/bin/sh", "-c", "exec '/home/alice/my prog' 'it'\\''s' '' '$(id)'"]


def test_launch_of_a_task_that_forges_its_queue(desk: Desk) -> None:
    """What tm_spawn brings with it comes last in the environment (start_exec.c, start_process)."""
    job = desk.mom.accept()
    desk.hand_over(job)
    forged = {"PBS_QUEUE": "native", "PBS_JOBID": "1.other", "VMBATCH_JOB_PATH": "/evil"}
    _, argv, environ = launched(desk, job, task=["hostname", "-s"], variables=forged)
    assert argv == ["remoteshell", "/bin/sh", "-c", "exec 'hostname' '-s'"]
    assert (environ["PBS_QUEUE"], environ["PBS_JOBID"]) == ("busybox", job.id)


def test_launch_without_a_guest_is_ours_all_the_same(desk: Desk) -> None:
    """remoteshell refuses it then; a job of this queue does not run on the node because a prologue did not."""
    desk.program("openpbs")
    assert launched(desk, desk.mom.accept())[1][0] == "remoteshell"
    assert desk.calls == ["openpbs [serves] [busybox]"]


def test_launch_for_a_queue_that_is_only_named(desk: Desk) -> None:
    """`busy` stands in the configuration, as a part of other words."""
    desk.program("openpbs", "exit 3")
    assert launched(desk, desk.mom.accept(queue="busy"))[1] == ["-bash"]
    assert desk.calls == ["openpbs [serves] [busy]"]


@pytest.mark.parametrize("what", ["exit 1", "exit 2", "kill -9 $$"])
def test_launch_where_nobody_knows(desk: Desk, what: str) -> None:
    desk.program("openpbs", what)
    answer = desk.mom.launch(desk.mom.accept())
    assert (answer.verdict, answer.message) == (
        "rerun", "VmBatch: VmBatch cannot tell whether queue busybox has guests (see syslog)")


def test_attach(desk: Desk) -> None:
    job = desk.mom.accept()
    desk.hand_over(job)
    answer = desk.mom.run_hook(job, "execjob_attach", pid=4711)
    assert answer.found["verdict"] == "reject"
    assert answer.message == f"job {job.id} runs in a guest: a process on the node cannot be a part of it"


def test_preterm_stops_a_start(desk: Desk) -> None:
    desk.program("openpbs")
    job = desk.mom.accept()
    assert desk.mom.run_hook(job, "execjob_preterm").verdict == "accept"
    assert desk.calls == []
    desk.journal(job)
    assert desk.mom.run_hook(job, "execjob_preterm").verdict == "accept"
    assert desk.calls == [f"openpbs [stop] [{job.id}]"]
    desk.hand_over(job)
    assert desk.mom.run_hook(job, "execjob_preterm").verdict == "accept"
    assert len(desk.calls) == 1, "a running job gets its signals, and its time"


def test_epilogue_and_end(desk: Desk) -> None:
    desk.program("epilogue")
    desk.program("openpbs")
    job = desk.mom.accept(queue="gone", join="oe")
    desk.mom.run_hook(job, "execjob_begin")
    desk.journal(job)
    assert desk.mom.run_hook(job, "execjob_epilogue", status=0).verdict == "accept"
    assert desk.calls[0].startswith(f"epilogue [{job.id}] [alice] [alice] [job] [4711] ")
    assert desk.calls[0].endswith(" [gone] [null] [0]")
    assert (job.output, job.errors) == (b"says epilogue\ncomplains epilogue\n", b"")
    assert desk.facts(job) is not None
    assert desk.mom.run_hook(job, "execjob_end").verdict == "accept"
    assert desk.calls[1:] == [f"openpbs [release] [{job.id}]"]
    assert desk.facts(job) is None


def test_abort(desk: Desk) -> None:
    desk.program("openpbs", "exit 1")
    job = desk.mom.accept(job_id="7[3].lab")
    desk.mom.run_hook(job, "execjob_begin")
    desk.journal(job)
    assert desk.mom.run_hook(job, "execjob_abort").verdict == "accept"
    assert desk.calls == ["openpbs [release] [7[3].lab]"]
    assert desk.facts(job) is None


def test_epilogue_writes_where_the_user_may(desk: Desk, tmp_path: Path) -> None:
    """A link in the place of the job's file leads root nowhere."""
    desk.program("epilogue")
    job = desk.mom.accept(join="n")
    desk.journal(job)
    roots = tmp_path / "roots"
    roots.write_text("root's\n")
    roots.chmod(0o666)
    job.files[0].unlink()
    job.files[0].symlink_to(roots)
    job.files[1].unlink()
    job.files[1].write_bytes(b"")
    job.files[1].chmod(0o600)
    assert desk.mom.run_hook(job, "execjob_epilogue").verdict == "accept"
    assert (roots.read_text(), job.errors) == ("root's\n", b"")
    assert len(desk.calls) == 1


def test_epilogue_writes_with_none_of_roots_groups(desk: Desk) -> None:
    desk.program("epilogue")
    job = desk.mom.accept(join="n")
    desk.journal(job)
    for file in job.files:
        file.unlink()
        file.write_bytes(b"")
        os.chown(file, 0, 0)
        file.chmod(0o660)
    before = os.getgroups()
    os.setgroups([0])
    try:
        assert desk.mom.run_hook(job, "execjob_epilogue").verdict == "accept"
    finally:
        os.setgroups(before)
    assert [file.read_bytes() for file in job.files] == [b"", b""]
    assert len(desk.calls) == 1


@pytest.mark.parametrize("event", ["execjob_epilogue", "execjob_end", "execjob_abort", "execjob_preterm"])
def test_an_end_is_never_kept_up(desk: Desk, event: str) -> None:
    """Whatever fails in it: a rejected epilogue would delete the job."""
    job = desk.mom.accept()
    desk.journal(job)
    answer = desk.mom.run_hook(job, event)
    assert answer.verdict == "accept"
    assert "No such file" in answer.found["said"][0]


@pytest.mark.parametrize("identifier", ["../../etc/x", "42/..", "x", "42.a..b", ""])
def test_what_is_no_job_id(desk: Desk, identifier: str, tmp_path: Path) -> None:
    job = desk.mom.accept()
    job.id = identifier
    (desk.mom.home / "aux" / "x").parent.mkdir(exist_ok=True)
    answer = desk.mom.run_hook(job, "execjob_begin")
    assert answer.verdict == "rerun"
    assert "is not a job id" in answer.message
    assert [path.name for path in NOTES.glob("*")] == []


def test_events_that_are_none_of_ours(desk: Desk) -> None:
    assert desk.mom.run_hook(desk.mom.accept(), "execjob_resize").verdict == "accept"


def test_the_hook_is_for_old_pythons() -> None:
    """pbs_python's own: nothing newer than 3.5 is in it."""
    import ast

    source = (Path(__file__).resolve().parents[2] / "scripts/openpbs/vmbatch_hook.py").read_text()
    ast.parse(source, feature_version=(3, 5))
    assert not any(isinstance(part, ast.JoinedStr | ast.NamedExpr | ast.AnnAssign) for part in ast.walk(ast.parse(source)))
    assert os.path.exists("/usr/bin/python3")
