"""When one of two nodes fails, is killed, or never begins: the user is told, mom's node stays in service, nothing is left."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import place
from lab.mom import Mom, kill_session
from lab.second import Second

from .conftest import Pair, Replace, left

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

CONFIG = "/etc/vmbatch/vmbatch.conf"
DOMAINS = Path("/etc/vmbatch/domains")
SWEEP = ["/srv/vmbatch/venv/bin/vmbatch", "sweep"]
Make = Callable[..., Pair]


def wait_for_nothing(other: Second) -> None:
    """The nodes let go by themselves, without another hook."""
    over = time.monotonic() + 60
    while (found := left(other)) and time.monotonic() < over:
        time.sleep(0.2)
    assert found == []


def entry(job: Pair, node: str) -> Path:
    return place.SHARE / ".nodes" / f"{job.first.file_id}@{node}"


def makers() -> list[int]:
    """The processes that make guests apart from a hook."""
    found = []
    for name in Path("/proc").iterdir():
        if name.name.isdigit():
            try:
                words = (name / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"/prologue.parallel") for word in words):
                found.append(int(name.name))
    return found


def test_a_sisters_guest_that_dies(pair: Make, there: Replace) -> None:
    with there(f"{DOMAINS}/busybox.xml", (DOMAINS / "panic.xml").read_text()):
        job = pair()
        assert job.start() == "requeue"
    assert job.errors.startswith(
        f"vmbatch: job {job.first.id} could not start: node node2: the guest's kernel died before the guest was ready "
        "(phase boot: it has not announced its address on the share): Kernel panic - not syncing: Attempted to kill init!")
    assert "the guest's console ended with:" in job.errors
    assert job.end_first() == 0


def test_a_users_fault_at_the_sister_aborts_the_job(pair: Make, there: Replace) -> None:
    with there(CONFIG, Path(CONFIG).read_text() + '\n[users]\ndeny = ["alice"]\n'):
        job = pair()
        assert job.start() == "abort"
    assert job.errors == (
        f"vmbatch: job {job.first.id} could not start: node node2: jobs of alice do not run in queue busybox "
        "(ask the site's admins)\nvmbatch: the job is aborted [VB609]\n")
    assert job.end_first() == 0


def test_a_sister_whose_template_is_wrong(pair: Make, there: Replace) -> None:
    with there(f"{DOMAINS}/busybox.xml", "<domain"):
        job = pair()
        assert job.start() == "requeue"
    assert f"could not start: node node2: {DOMAINS}/busybox.xml" in job.errors
    assert job.end() == [0, 0]


def test_a_node_of_another_name(pair: Make) -> None:
    job = pair()
    (place.MOM / "aux" / job.first.id).write_text("node1-ib\nnode2\n")
    assert job.mom.finish_prologue(job.mom.start_prologue(job.first)) == "requeue"
    assert "the batch system calls this node node1-ib, but its host name is node (" in job.errors
    assert job.end_first() == 0


def test_the_first_nodes_guest_dies(pair: Make, other: Second) -> None:
    """The sister is told by nobody but the missing entry."""
    before = (DOMAINS / "busybox.xml").read_text()
    job = pair()
    assert job.join() == 0
    while not entry(job, "node2").exists():
        time.sleep(0.01)
    (DOMAINS / "busybox.xml").write_text((DOMAINS / "panic.xml").read_text())
    try:
        assert job.mom.finish_prologue(job.mom.start_prologue(job.first)) == "requeue"
    finally:
        (DOMAINS / "busybox.xml").write_text(before)
    assert "Attempted to kill init!" in job.errors
    wait_for_nothing(other)
    said = (other.directory / f"log/{job.first.id}.log").read_text()
    assert f"prologue.parallel: job {job.first.id} has ended, or was never started, at its first node node [VB901]\n" in said
    job.mom.forget(job.first)


def test_the_first_node_never_begins(pair: Make, other: Second, there: Replace) -> None:
    """Deleted after the sisters had joined; the sister's own epilogue may come, or not."""
    with there(CONFIG, Path(CONFIG).read_text() + '\n[timeouts]\nmargin = "1s"\n'), \
            there(f"{other.mom.home}/mom_priv/config", "$prologalarm 12\n"):
        job = pair()
        assert job.join() == 0
        assert entry(job, "node2").exists()
        wait_for_nothing(other)
    job.mom.forget(job.first)


def test_qdel_while_both_boot(pair: Make) -> None:
    job = pair()
    assert job.join() == 0
    prologue = job.mom.start_prologue(job.first)
    time.sleep(2)
    epilogue = job.mom.start_epilogue(job.first)
    assert job.end_sister() == 0
    assert epilogue.wait() == 0
    assert job.mom.finish_prologue(prologue) == "requeue"
    assert "was ended by the batch system" in job.errors
    job.mom.forget(job.first)


def test_no_epilogue_at_the_sister(pair: Make, other: Second) -> None:
    """The sweep knows by the first node's entry whether a job still runs."""
    job = pair()
    assert job.start() == "run", job.errors
    assert other.run([*SWEEP, "--dry-run"]) == ""
    assert job.mom.start_shell(job.first).wait() == 0
    assert job.end_first() == 0
    said = other.run([*SWEEP, "--dry-run"])
    assert said == f"would release job {job.first.id} of alice: dead, the job has ended at its first node\n"
    other.run(SWEEP)


def test_started_again_after_a_failure(pair: Make, other: Second, there: Replace) -> None:
    """A requeued job finds nothing of its earlier start."""
    with there(f"{DOMAINS}/busybox.xml", (DOMAINS / "poweroff.xml").read_text()):
        job = pair()
        assert job.start() == "requeue"
        assert job.end_first() == 0
    again = pair(job_id=job.first.id)
    assert again.start() == "run", again.errors
    assert again.mom.start_shell(again.first).wait() == 0
    assert re.fullmatch(rb"vm-[0-9]+\n", again.first.output)
    assert again.end() == [0, 0]


def test_prologues_killed_at_random_moments(pair: Make, other: Second) -> None:
    chance = random.Random(5)  # noqa: S311
    for victim in ("first", "sister", "both"):
        job = pair()
        assert job.join() == 0
        prologue = job.mom.start_prologue(job.first)
        time.sleep(chance.uniform(0.05, 4.0))
        if victim != "first":
            for pid in makers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if victim != "sister":
            kill_session(prologue.pid)
            prologue.wait()
            assert job.mom.start_shell(job.first).wait() == 255
            assert "has no guest: its prologue has not handed one over" in job.errors
        assert job.end_first() == 0
        prologue.wait()
        assert job.end_sister() == 0
        assert left(other) == []


def test_a_killed_sister_is_swept(pair: Make, other: Second) -> None:
    job = pair()
    assert job.join() == 0
    for pid in makers():
        os.kill(pid, signal.SIGKILL)
    while makers():
        time.sleep(0.01)
    assert other.run([*SWEEP, "--dry-run"]) == (
        f"would release job {job.first.id} of alice: dead, its prologue ended before the guest was ready\n")
    other.run(SWEEP)
    job.mom.forget(job.first)


def test_job_type_parallel_at_the_first_node() -> None:
    """`qsub -T parallel` makes mom run prologue.parallel, as root, in place of the prologue."""
    mom = Mom()
    job = mom.accept(b"#!/bin/sh\nhostname\n")
    assert mom.finish_prologue(mom.start_prologue(job, "prologue.parallel")) == "run", job.errors
    assert mom.start_shell(job).wait() == 0
    assert job.output.startswith(b"vm-")
    assert mom.start_epilogue(job, name="epilogue.parallel").wait() == 0
    mom.forget(job)


@pytest.fixture
def site_hooks(other: Second) -> Iterator[Path]:
    """The site's own hooks at the sister, which write down what they are given."""
    paths = [other.mom.home / "mom_priv" / f"{name}.parallel.site" for name in ("prologue", "epilogue")]
    for path in paths:
        path.write_text(f'#!/bin/sh\necho "${{0##*/}} $1 $2 $PBS_NODENUM" >>{other.directory}/spy\nexit ${{#3}}\n')
        path.chmod(0o755)
    yield other.directory / "spy"
    for path in paths:
        path.unlink()
    (other.directory / "spy").unlink(missing_ok=True)


def test_a_native_job_on_two_nodes(other: Second, site_hooks: Path) -> None:
    job = Pair(other, b"", queue="batch")
    assert [job.join(), job.end_sister()] == [5, 5]
    assert site_hooks.read_text() == (
        f"prologue.parallel.site {job.first.id} alice 1\nepilogue.parallel.site {job.first.id} alice 1\n")
    assert not (other.directory / f"log/{job.first.id}.log").exists()
    job.mom.forget(job.first)


def test_a_sites_own_hook_that_refuses(other: Second, site_hooks: Path) -> None:
    job = Pair(other, b"")
    assert job.join() == 5
    assert subprocess.run(["ls", place.SHARE / ".nodes"], capture_output=True, text=True, check=False).stdout == ""
    job.mom.forget(job.first)
