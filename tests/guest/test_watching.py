"""What `vmbatch` shows of real guests in each phase, to root and to users; how guests are ended, and nodes drained."""

import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab import leftover, place
from lab.mom import Job, Mom
from vmbatch import history
from vmbatch.host.console import Plain

from .conftest import live_job
from .test_lost_guests import VMBATCH, armed, ended, trace

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

HISTORY = Path("/var/log/vmbatch/history/jobs.jsonl")
STARTING = ("admission", "image", "disks", "context", "boot", "ready")


def ask(*words: str, user: str = "root", stdin: str = "") -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `vmbatch`, as somebody."""
    done = subprocess.run([*become(user), *place.VMBATCH, *words], input=stdin, capture_output=True, text=True, check=False,
                          timeout=120, cwd="/")
    return done.returncode, done.stdout, done.stderr


def become(user: str) -> list[str]:
    return [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def jobs(user: str = "root") -> list[dict[str, object]]:
    code, said, errors = ask("ps", "--json", user=user)
    assert (code, errors) == (0, "")
    return [json.loads(line) for line in said.splitlines()]


def record_of(job: Job) -> history.Record:
    [found] = [each for each in history.records([str(HISTORY)]) if each.job == job.id]
    return found


@pytest.fixture
def undrained() -> Iterator[None]:
    yield
    ask("undrain")


def test_a_job_from_start_to_end(mom: Mom) -> None:
    """Phases come in their order; only root and the job's user see them; what is left is one line with all of them."""
    job = mom.accept(b"#!/bin/sh\nexit 5\n", queue="busybox")
    prologue = mom.start_prologue(job)
    seen: list[str] = []
    while prologue.poll() is None:
        for row in jobs():
            if row["phase"] not in seen[-1:]:
                seen.append(str(row["phase"]))
        assert jobs("bob") == []
    assert prologue.returncode == 0, job.errors.decode()
    assert "boot" in seen
    assert [phase for phase in (*STARTING, "run") if phase in seen] == seen
    [row] = jobs("alice")
    assert row == {**jobs()[0], "age": row["age"], "since": row["since"]}
    assert (row["job"], row["user"], row["phase"], row["cores"]) == (job.id, "alice", "run", 1)
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+", str(row["address"]))
    assert mom.start_shell(job).wait() == 5
    assert mom.start_epilogue(job, 5).wait() == 0
    mom.forget(job)
    assert jobs() == []
    record = record_of(job)
    assert (record.outcome, record.status, record.why, record.address) == ("ran", 5, "its epilogue has run", row["address"])
    assert {"admission", "image", "disks", "context", "boot", "ready", "run", "epilogue"} >= set(record.seconds) >= {
        "admission", "context", "boot", "ready", "run", "epilogue"}
    assert sum(record.seconds.values()) == pytest.approx(record.ended - record.started, abs=0.5)
    assert record.seconds["boot"] > record.seconds["context"]
    code, said, _ = ask("show", job.id)
    assert code == 0
    assert re.search(r"^outcome +ran$", said, re.MULTILINE)
    assert ask("show", job.id, user="alice")[0] == 1, "what is over is root's"
    said = Path(f"/var/log/vmbatch/{job.id}.log").read_text()
    for user in ("root", "alice"):
        assert ask("log", job.id, user=user)[1] == said


def test_who_may_do_what(mom: Mom) -> None:
    with live_job(mom, "busybox") as job:
        number = job.id.partition(".")[0]
        for user in ("root", "alice"):
            code, said, errors = ask("show", number, user=user)
            assert (code, errors) == (0, ""), (user, errors)
            assert re.search(r"^phase +run, for", said, re.MULTILINE)
            assert ("/var/lib/vmbatch/spool" in said) == (user == "root")
            assert re.search(r"^guest +vmbatch-\S+, running$", said, re.MULTILINE) or user != "root"
            code, said, errors = ask("ssh", number, "--", "id -un; echo to stderr >&2; exit 7", user=user)
            assert (code, said, errors) == (7, "alice\n", "to stderr\n"), errors
        assert ask("ssh", number, "--", "cat", user="alice", stdin="through\n")[:2] == (0, "through\n")
        for user in ("root", "alice"):
            assert re.search(r" prologue: guest vmbatch-\S+ of alice is ready at ", ask("log", number, user=user)[1]), user
            assert ask("console", number, user=user)[0] == 0
        assert ask("console", number, user="alice")[1] == ask("console", number)[1]
        unknown = f"vmbatch: this node knows no job '{number}' (vmbatch ps shows those that you may see) [VB920]\n"
        for command in ("show", "ssh", "log", "console"):
            assert ask(command, number, user="bob") == (1, "", unknown)
        code, said, errors = ask("log", job.id, user="bob")
        assert (code, said, errors.startswith(f"vmbatch: you cannot read the log of job {job.id} (")) == (1, "", True)
        for words in (("kill", number), ("console", "--write", number)):
            code, said, errors = ask(*words, user="alice")
            assert (code, said) == (1, "")
            assert " is for root alone" in errors
        place = Path("/run/vmbatch/status")
        comrade = ["setpriv", "--reuid=bob", "--regid=alice", "--groups=alice,physics", "--"]
        for path in (place, place / "alice", next((place / "alice").iterdir())):
            for look in ("ls", "cat"):
                done = subprocess.run([*comrade, look, path], check=False, capture_output=True, text=True)
                assert done.stdout == "", "not even to members of the same group"
                assert "Permission denied" in done.stderr or path == place
        assert ask("kill", "0")[2] == "vmbatch: this node knows no job '0' (vmbatch ps shows those that you may see) [VB920]\n"


def test_the_log_and_the_console_go_on_until_the_end(mom: Mom) -> None:
    with live_job(mom, "disk") as job:
        following = [subprocess.Popen([*become(user), *place.VMBATCH, *words], cwd="/",
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                     for user in ("root", "alice") for words in (("log", job.id, "-f"), ("console", job.id, "-f"))]
        [written] = Path("/var/lib/vmbatch/spool").glob(f"{job.id}.*/console.log")
        code, said, _ = ask("console", job.id)
        assert (code, said.rstrip("\n")) == (0, Plain().feed(written.read_bytes()[-65536:]).decode().rstrip("\n"))
        assert mom.start_epilogue(job).wait() == 0
        heard = [each.communicate(timeout=30)[0].decode() for each in following]
        logs, consoles = heard[::2], heard[1::2]
        assert re.search(r" epilogue: phase release \d", logs[0])
        assert logs == 2 * [Path(f"/var/log/vmbatch/{job.id}.log").read_text()]
        assert all(said.rstrip("\n") in console for console in consoles)
        assert [each.returncode for each in following] == 4 * [0]
        assert ask("console", job.id)[0] == 1, "it went with the guest's disks"


def test_typing_into_the_console(mom: Mom) -> None:
    """One at a time; Ctrl-] ends it, and the terminal is as before."""
    with live_job(mom, "disk") as job:
        ours, theirs = pty.openpty()
        talk = subprocess.Popen([VMBATCH, "console", job.id, "--write"], stdin=theirs, stdout=theirs, stderr=theirs)
        shown = read_until(ours, lambda text: b"Ctrl-] ends this" in text)
        second = subprocess.run([VMBATCH, "console", job.id, "--write"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                check=False, timeout=60)
        assert second.returncode == 1
        assert "libvirt does not open the guest's console" in second.stderr
        os.write(ours, b"\r\x1d")
        assert talk.wait(30) == 0, shown
        os.close(ours)
        os.close(theirs)


def read_until(fd: int, enough: Callable[[bytes], bool]) -> bytes:
    said, over = b"", time.monotonic() + 60
    while not enough(said):
        assert time.monotonic() < over, said
        if select.select([fd], [], [], 1)[0]:
            said += os.read(fd, 4096)
    return said


def test_a_guest_that_an_admin_ends(mom: Mom) -> None:
    """The user reads why; the epilogue finds all in order; trace and history know it, too."""
    job, shell = armed(mom, "busybox")
    code, said, _ = ask("kill", job.id, "--why", "mines coins")
    assert (code, said) == (0, f"the guest of job {job.id} has been ended; the job ends now, and its epilogue removes the rest\n")
    assert shell.wait(30) == 252
    assert ended(mom, job, 252) == ["vmbatch: an admin of the node has ended the job's guest: mines coins [VB802]"]
    why = "an admin of the node has ended the job's guest: mines coins"
    assert (record_of(job).why, record_of(job).status, record_of(job).outcome) == (why, 252, "ran")
    assert trace("--job", job.id).splitlines()[-1].endswith(f": {why}, the job's status 252")


def test_a_start_that_an_admin_ends(mom: Mom) -> None:
    job = mom.accept(b"#!/bin/sh\n", queue="busybox")
    prologue = mom.start_prologue(job)
    over = time.monotonic() + 60
    while not any(row["phase"] == "boot" for row in jobs()):
        assert time.monotonic() < over
        assert prologue.poll() is None, job.errors.decode()
    code, said, errors = ask("kill", job.id)
    assert (code, errors) == (0, "")
    assert said == f"the start of job {job.id} has been ended; what becomes of the job is for the batch system\n"
    assert mom.finish_prologue(prologue) == "requeue"
    assert leftover.found() == []
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)
    assert (record_of(job).outcome, record_of(job).running, record_of(job).why) == (
        "cancelled", None, "an admin of the node has ended the job's guest")


@pytest.mark.usefixtures("undrained")
def test_a_drained_node(mom: Mom) -> None:
    """New jobs go back into their queue, the one that runs goes on, and the batch system is told."""
    with live_job(mom, "busybox") as job:
        code, said, _ = ask("drain", "--why", "new disks")
        assert (code, said) == (0, "this node is drained: one job still has its guest here, see vmbatch ps\n")
        refused = mom.run(b"#!/bin/sh\n", queue="busybox")
        assert refused.verdict == "requeue"
        assert re.match(rf"vmbatch: job {refused.job.id} could not start: this node takes no new jobs with guests: "
                        r"drained by root at .*: new disks \(vmbatch undrain ends that\)\n", refused.errors.decode())
        health = subprocess.run([str(mom.home / "mom_priv/health")], capture_output=True, text=True, check=True).stdout
        assert re.match(r"ERROR VmBatch: drained by root at .*: new disks", health)
        assert "drained by root" in ask("ps", user="bob")[2]
        assert mom.start_shell(job).wait() == 0
        assert ask("undrain")[0] == 0
        assert (record_of(refused.job).outcome, record_of(refused.job).queue) == ("failed", "busybox")
    again = mom.run(b"#!/bin/sh\n", queue="busybox")
    assert again.verdict == "run", again.errors.decode()


def test_figures_of_real_jobs(mom: Mom, tmp_path: Path) -> None:
    """Prometheus's own parser reads them; a job more is one more; the report has what the history has."""

    def figures() -> dict[tuple[str, ...], float]:
        path = tmp_path / "vmbatch.prom"
        assert ask("metrics", "--output", str(path)) == (0, "", "")
        assert path.stat().st_mode & 0o777 == 0o644
        assert [each.name for each in tmp_path.iterdir()] == ["vmbatch.prom"]
        return {(sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(path.read_text()) for sample in family.samples}

    before = figures()
    with live_job(mom, "busybox"):
        now = figures()
        assert (now["vmbatch_jobs", "run"], now["vmbatch_claimed_cores",]) == (1, 1)
        assert now["vmbatch_claimed_memory_bytes",] > 64 << 20
    after = figures()
    for name in (("vmbatch_starts_total", "busybox", "ran"), ("vmbatch_provisioning_seconds_count", "busybox"),
                 ("vmbatch_job_phase_seconds_count", "boot", "busybox")):
        assert after[name] == before.get(name, 0) + 1
    assert after["vmbatch_jobs", "run"] == 0
    code, said, _ = ask("report", "--template", "busybox", "--json")
    [group] = [row for row in map(json.loads, said.splitlines()) if row["kind"] == "phases"]
    assert (code, group["ran"]) == (0, sum(record.outcome == "ran" and record.template.endswith("/busybox.xml")
                                          for record in history.records([str(HISTORY)])))
    assert ask("report", "--html", str(tmp_path / "report.html"))[0] == 0
    assert "busybox" in (tmp_path / "report.html").read_text()
    assert ask("report", user="alice")[0] == 1
