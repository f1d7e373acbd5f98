"""Rows of the hooks: exit statuses, deaths, permissions, job types, streams, and what reaches the user."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import mom, place
from lab.torque import ABORTED, FAILED, Torque

from .clients import Clients
from .pool import Worker
from .stage import MOM_CONFIG, SOCKET, Stage
from .test_events import begins, ran_once_more, settle, starting

pytestmark = pytest.mark.torque
CLIENTS = SOCKET.with_name("clients")


def errors(torque: Torque, job: str) -> str:
    found = torque.ended[job].errors
    assert found is not None
    return found.decode()


def exit_status_of_the_sites_prologue(stage: Stage, status: int) -> None:
    """It is the prologue's own; VmBatch has made nothing then."""
    stage.hook("prologue.site", f"#!/bin/sh\nexit {status}\n")
    torque = stage.torque(most=3)
    job = stage.submit(torque, exits=7)
    settle(stage, torque)
    ended = torque.ended[job]
    if status == 0:
        assert (ended.state, ended.status, begins(stage)) == ("C", 7, [1])
    elif status == 1:
        assert (ended.state, ended.status, ended.output, ended.errors) == ("C", ABORTED, None, None), "nothing is delivered"
        assert torque.mails == [f"{job} Aborted by PBS Server: Job cannot be executed. See job standard error file"]
    else:
        assert ended.state == "Q"
        assert [code for _, code, _ in torque.epilogues] == [FAILED] * 3, "again and again"
    assert status == 0 or begins(stage) == []


@pytest.mark.parametrize("status", [0, 1, 2, 3, 99, 255])
def test_exit_status_of_the_sites_prologue(nest: Worker, status: int) -> None:
    nest.play(exit_status_of_the_sites_prologue, status=status)


def a_prologue_killed_by_a_signal(stage: Stage, number: int) -> None:
    """A success to mom: the shell starts, and refuses."""
    torque = stage.torque()
    job = starting(stage, torque)
    os.kill(torque.prologues()[1], number)
    settle(stage, torque)
    assert torque.ended[job].status == 255
    assert f"job {job} of queue crash has no guest: its prologue has not handed one over" in errors(torque, job)
    assert begins(stage) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_prologue_killed_by_a_signal(nest: Worker, number: int) -> None:
    nest.play(a_prologue_killed_by_a_signal, number=int(number))


def the_alarm(stage: Stage) -> None:
    """mom kills the prologue's whole session; what it had made is released by the epilogue."""
    (place.MOM / "mom_priv/config").write_text(MOM_CONFIG.replace("300", "13"))
    stage.settings(more='[timeouts]\nmargin = "1s"')
    torque = stage.torque(most=1)
    job = starting(stage, torque)
    os.kill(torque.prologues()[1], signal.SIGSTOP)
    settle(stage, torque)
    assert [code for _, code, _ in torque.epilogues] == [FAILED]
    assert torque.ended[job].state == "Q"


def test_the_alarm(nest: Worker) -> None:
    nest.play(the_alarm)


def a_child_that_survives_the_alarm(stage: Stage) -> None:
    """One in a session of its own, of the site's: mom does not reach it; VmBatch leaves it alone, and is not held up by it."""
    stage.hook("prologue.site", "#!/bin/sh\nsetsid sleep 3 < /dev/null > /dev/null 2>&1 &\n")
    (place.MOM / "mom_priv/config").write_text(MOM_CONFIG.replace("300", "13"))
    stage.settings(more='[timeouts]\nmargin = "1s"')
    torque = stage.torque(most=1)
    starting(stage, torque)
    os.kill(torque.prologues()[1], signal.SIGSTOP)
    assert torque.run(20), stage.hanging(torque)
    assert not (stage.node.domains() or list(Path("/var/lib/vmbatch/jobs").iterdir()))
    for pid, command in stage.node.processes().items():
        assert "sleep" in command
        os.kill(pid, signal.SIGKILL)
    torque.run(1, lambda: False)
    stage.check(torque)


def test_a_child_that_survives_the_alarm(nest: Worker) -> None:
    nest.play(a_child_that_survives_the_alarm)


def a_prologue_that_mom_does_not_run(stage: Stage, how: str) -> None:
    """Refused by mom: the job goes back. Not there, or a dangling link: the job starts without it, and its shell refuses."""
    path = place.MOM / "mom_priv/prologue"
    kept = path.read_bytes()
    torque = stage.torque(most=2)
    try:
        if how == "missing":
            path.unlink()
        elif how == "dangling":
            path.unlink()
            path.symlink_to("nowhere")
        elif how == "owner":
            os.chown(path, 1500, 0)
        elif how == "directory":
            path.unlink()
            path.mkdir()
        elif how == "no interpreter":
            path.write_bytes(b"#!/no/such/python3\n")
        else:
            path.chmod(int(how, 8))
        job = stage.submit(torque)
        settle(stage, torque)
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(kept)
        path.chmod(0o755)
    ended = torque.ended[job]
    if how in ("missing", "dangling"):
        assert (ended.state, ended.status) == ("C", 255)
        assert "is VmBatch's prologue in mom_priv" in errors(torque, job)
    else:
        assert (ended.state, [code for _, code, _ in torque.epilogues]) == ("Q", [FAILED, FAILED])
    assert begins(stage) == []


@pytest.mark.parametrize("how", ["missing", "dangling", "owner", "directory", "no interpreter", "0600", "0775", "0757"])
def test_a_prologue_that_mom_does_not_run(nest: Worker, how: str) -> None:
    nest.play(a_prologue_that_mom_does_not_run, how=how)


def a_prologue_of_the_users(stage: Stage, status: int) -> None:
    """It runs after ours, and fails: the guest that is there already is released."""
    stage.hook("prologue.user", f"#!/bin/sh\nid -u >> /dev/stderr; exit {status}\n")
    torque = stage.torque(most=2)
    job = stage.submit(torque)
    settle(stage, torque)
    assert begins(stage) == ([1] if status == 0 else [])
    assert torque.ended[job].status == {0: 0, 1: ABORTED}.get(status, FAILED)
    if status != 1:
        assert "1500\n" in errors(torque, job)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_prologue_of_the_users(nest: Worker, status: int) -> None:
    nest.play(a_prologue_of_the_users, status=status)


def epilogues_that_fail(stage: Stage, text: str) -> None:
    """Nothing changes for the job."""
    stage.hook("epilogue.site", text)
    torque = stage.torque()
    job = stage.submit(torque, exits=4)
    assert torque.run(20), stage.hanging(torque)
    assert torque.ended[job].status == 4
    assert torque.epilogues[0][2] != 0
    torque.epilogues.clear()
    settle(stage, torque)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nkill -9 $$\n", "#!/no/such/shell\n"])
def test_epilogues_that_fail(nest: Worker, text: str) -> None:
    nest.play(epilogues_that_fail, text=text)


def an_overdue_epilogue(stage: Stage) -> None:
    """mom kills its session; the job's end is the same, and ours has done its work before the site's."""
    stage.hook("epilogue.site", "#!/bin/sh\nexec sleep 60\n")
    torque = stage.torque()
    job = stage.submit(torque, seconds=0.5, exits=4)
    assert torque.run(20, lambda: bool(begins(stage)))
    (place.MOM / "mom_priv/config").write_text(MOM_CONFIG.replace("300", "6"))
    assert torque.run(20), stage.hanging(torque)
    assert torque.ended[job].status == 4
    assert torque.epilogues.pop()[2] == 255
    settle(stage, torque)


def test_an_overdue_epilogue(nest: Worker) -> None:
    nest.play(an_overdue_epilogue)


def a_job_type(stage: Stage, hook_type: str, others: dict[str, str]) -> None:
    """`qsub -T`: whatever file mom picks instead of ours, the job does not run outside of a guest, and nothing stays.

    A link to our own hook does our work.
    """
    for name, text in others.items():
        if text == "link":
            (stage.hooks / name).symlink_to(name.partition(".")[0])
        else:
            stage.hook(name, text)
    torque = stage.torque()
    job = stage.submit(torque, hook_type=hook_type, exits=6)
    assert torque.run(20), stage.hanging(torque)
    instead = any(name == f"prologue.{hook_type}" and text != "link" for name, text in others.items())
    assert (torque.ended[job].status, begins(stage)) == ((255, []) if instead else (6, [1]))
    torque.close()
    stage.node_sweep()
    stage.check(torque)


FINE = "#!/bin/sh\nexit 0\n"


@pytest.mark.parametrize(("hook_type", "others"), [
    ("kvm", {"prologue.kvm": "link", "epilogue.kvm": "link"}),
    ("kvm", {"prologue.kvm": "link"}),
    ("none", {}),
    ("user", {"prologue.user": FINE, "epilogue.user": FINE}),
    ("parallel", {"prologue.parallel": FINE, "epilogue.parallel": FINE}),
    ("precancel", {"epilogue.precancel": FINE}),
    ("site", {"prologue.site": FINE, "epilogue.site": FINE}),
    ("site", {"prologue.site": FINE}),
    ("site", {"epilogue.site": FINE}),
    ("site", {"prologue.site": "link", "epilogue.site": "link"}),
], ids=lambda value: value if isinstance(value, str) else "+".join(value) or "nothing")
def test_a_job_type(nest: Worker, hook_type: str, others: dict[str, str]) -> None:
    nest.play(a_job_type, hook_type=hook_type, others=others)


def output(stage: Stage, keep: str, join: str) -> None:
    """Messages of hooks and job, wherever mom has the job's streams."""
    stage.settings(more='[users]\ndeny = ["alice"]')
    home = Path("/home/alice")
    torque = stage.torque()
    job = stage.submit(torque, keep=keep, join=join, name="kept")
    settle(stage, torque)
    number = job.partition(".")[0]
    said = f"vmbatch: job {job} could not start: jobs of alice do not run in queue crash (ask the site's admins) [VB206]\n"
    out, err = torque.ended[job].output, torque.ended[job].errors
    assert (err, out) == (said.encode(), said.encode() if join else b"")
    kept = sorted(path.name for path in home.glob("kept.*"))
    assert kept == (sorted({f"kept.{'e' if join == 'eo' else 'o'}{number}"} if join else {f"kept.e{number}", f"kept.o{number}"})
                    if keep else [])
    for path in home.glob("kept.*"):
        assert path.stat().st_uid == 1500
        path.unlink()


@pytest.mark.parametrize(("keep", "join"), [("", ""), ("oe", ""), ("", "oe"), ("oe", "oe"), ("", "eo")])
def test_output(nest: Worker, keep: str, join: str) -> None:
    nest.play(output, keep=keep, join=join)


def a_users_fault(stage: Stage, fault: str, starter: bool) -> None:
    """Told by the job's shell and delivered, or the job aborted or held; never on the node."""
    clients = Clients(CLIENTS)
    stage.settings(f'job_fault = "{fault}"\nprograms = "{CLIENTS}"', '[users]\ndeny = ["alice"]')
    if not starter:
        (place.MOM / "mom_priv/config").write_text("$prologalarm 300\n")
    torque = stage.torque(most=3)
    torque.clients = clients.calls
    job = stage.submit(torque)
    settle(stage, torque)
    ended = torque.ended[job]
    said = f"vmbatch: job {job} could not start: jobs of alice do not run in queue crash (ask the site's admins)\n"
    if fault == "hold":
        assert (ended.state, len(torque.starts)) == ("H", 1)
        held = f"the job is held; qrls {job} lets it start again, qdel {job} removes it [VB206]"
        assert errors(torque, job) == f"{said}vmbatch: {held}\n"
        assert clients.calls()[1] == ["qalter", "-W", "Comment=jobs of alice do not run in queue crash", job]
    elif fault == "tell" and starter:
        assert (ended.state, ended.status, errors(torque, job)) == ("C", 255, said.replace("\n", " [VB206]\n"))
    else:
        assert (ended.state, ended.status, ended.errors) == ("C", ABORTED, None)
        assert torque.starts[0].job.errors.decode() == f"{said}vmbatch: the job is aborted [VB206]\n"
    assert begins(stage) == []


@pytest.mark.parametrize(("fault", "starter"), [("tell", True), ("tell", False), ("abort", True), ("hold", True)])
def test_a_users_fault(nest: Worker, fault: str, starter: bool) -> None:
    nest.play(a_users_fault, fault=fault, starter=starter)


def a_refusal_of_another_start(stage: Stage) -> None:
    """What one start's shell is to say is said by no other; a later start with a better configuration runs."""
    stage.settings(more='[users]\ndeny = ["alice"]')
    stage.hook("prologue.user", "#!/bin/sh\nsleep 0.5\n")
    torque = stage.torque(eager=True)
    job = stage.submit(torque)
    assert torque.run(20, lambda: Path(f"/run/vmbatch/handover/{job}/refusal").exists())
    shell = stage.house.start_shell(torque.starts[0].job, way="starter")
    assert shell.wait() == 255
    said = torque.starts[0].job.errors.decode()
    assert "only that start's shell may use it" in said
    assert "could not start" not in said
    stage.settings()
    torque.qrerun(job)
    settle(stage, torque)
    assert ran_once_more(stage)


def test_a_refusal_of_another_start(nest: Worker) -> None:
    nest.play(a_refusal_of_another_start)


def a_storm(stage: Stage, remedy: str) -> None:
    """A node that fails every job: after three starts there is a remedy, or the job is kept for a while each time."""
    clients = Clients(CLIENTS)
    (CLIENTS / "calls").unlink(missing_ok=True)
    stage.settings(f'site_fault = "{remedy}"\nprograms = "{CLIENTS}"\npause = "300ms"')
    torque = stage.torque(most=5)
    torque.clients = clients.calls
    job = stage.submit(torque, user="bob")
    settle(stage, torque)
    said = "the guest could not prepare itself for the job: played to fail"
    assert said in errors(torque, job)
    starts = len(torque.starts)
    if remedy == "hold":
        assert (torque.ended[job].state, starts) == ("H", 3)
        assert clients.calls() == [["qhold", "-h", "s", job], ["qalter", "-W", f"Comment=VmBatch on node1: {said}", job]]
        held = f"the job is held until an administrator releases it (qrls -h s {job}) [VB707]"
        assert f"vmbatch: {held}" in errors(torque, job).splitlines()
    else:  # one image of one user never costs a node
        assert (starts, clients.calls()) == (5, [])
        assert stage.log(job).count("keeping the job from its queue for") == 3


@pytest.mark.parametrize("remedy", ["requeue", "hold", "offline"])
def test_a_storm(nest: Worker, remedy: str) -> None:
    nest.play(a_storm, remedy=remedy)


def a_node_that_takes_itself_off_line(stage: Stage) -> None:
    clients = Clients(CLIENTS)
    (CLIENTS / "calls").unlink(missing_ok=True)
    stage.settings(f'node_fault = "offline"\nprograms = "{CLIENTS}"\npause = "300ms"')
    config = Path("/etc/vmbatch/vmbatch.conf")
    config.write_text(config.read_text().replace('[spool]\nkeep_free = "0"', '[spool]\nkeep_free = "900T"'))
    torque = stage.torque(most=5)
    torque.clients = clients.calls
    job = stage.submit(torque)
    settle(stage, torque)
    assert (torque.ended[job].state, len(torque.starts)) == ("Q", 3)
    ((*words, said, node),) = clients.calls()
    assert (words, node) == (["pbsnodes", "-o", "-N"], "node1")
    assert said.startswith("VmBatch on node1: the spool /var/lib/vmbatch/spool has ")
    said = "vmbatch: the job goes back into its queue, and this node takes no more jobs [VB401]"
    assert said in errors(torque, job).splitlines()


def test_a_node_that_takes_itself_off_line(nest: Worker) -> None:
    nest.play(a_node_that_takes_itself_off_line)


def a_pause_ends_with_the_job(stage: Stage) -> None:
    stage.settings('failures = 1\npause = "1min"')
    torque = stage.torque(kill_delay=0.1)
    job = stage.submit(torque, user="bob")
    assert stage.at(torque, job, "keeping the job from its queue for 60 s")
    torque.qdel(job)
    settle(stage, torque)
    assert torque.ended[job].state == "C"


def test_a_pause_ends_with_the_job(nest: Worker) -> None:
    nest.play(a_pause_ends_with_the_job)


def names_that_users_choose(stage: Stage) -> None:
    torque = stage.torque()
    job = stage.submit(torque, name="n;$(id)`x`'\n\x1b[31m", account="a'b\"c\\", exits=2)
    settle(stage, torque)
    assert torque.ended[job].status == 2


def test_names_that_users_choose(nest: Worker) -> None:
    nest.play(names_that_users_choose)


def a_forged_environment(stage: Stage) -> None:
    """-v cannot set what mom sets last; what it can is the job's own affair."""
    torque = stage.torque()
    variables = {"JOB_SECONDS": "0", "PYTHONPATH": "/home/alice", "PYTHONSTARTUP": "/home/alice/x",
                 "LD_LIBRARY_PATH": "/home/alice", "PATH": "/home/alice", "TMPDIR": "/nowhere"}
    job = torque.submit(b"#!/bin/sh\necho outside >> /run/fakeguest/outside\n", queue="crash", variables=variables)
    settle(stage, torque)
    assert (torque.ended[job].status, begins(stage)) == (0, [1])


def test_a_forged_environment(nest: Worker) -> None:
    nest.play(a_forged_environment)


def opened(pid: int) -> Iterator[str]:
    """What each descriptor of a process is; it opens and closes some meanwhile."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(entry)


def what_mom_leaks(stage: Stage) -> None:
    """Neither the prologue nor what it starts keeps mom's pipes; groups, umask and directory are not the user's."""
    torque = stage.torque(kill_delay=0.1)
    job = starting(stage, torque)
    pid = torque.prologues()[1]
    leaked = f"pipe:[{torque.leaked(1)}]"
    members = mom.session_members(pid)
    assert pid in members
    assert leaked not in [target for member in members for target in opened(member)]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"^Groups:\s*$", status, re.MULTILINE), status
    assert re.search(r"^Umask:\s*0077$", status, re.MULTILINE), status
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    torque.qdel(job)
    settle(stage, torque)


def test_what_mom_leaks(nest: Worker) -> None:
    nest.play(what_mom_leaks)


def a_native_job(stage: Stage) -> None:
    """Of a queue without a template: mom's own shell, on the node, with the site's hooks."""
    stage.hook("prologue.site", "#!/bin/sh\necho site >&2\n")
    torque = stage.torque()
    job = stage.submit(torque, queue="batch")
    assert torque.run(20), stage.hanging(torque)
    assert (torque.ended[job].status, errors(torque, job)) == (0, "site\n")
    assert stage.outside() == "outside\n", "its script ran, on the node"
    assert begins(stage) == []


def test_a_native_job(nest: Worker) -> None:
    nest.play(a_native_job)
