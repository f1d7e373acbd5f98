"""From a prologue to an epilogue: whole jobs, starts that fail, ends that come early, twice or never."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import leftover
from lab.mom import Mom, kill_session
from vmbatch import journal
from vmbatch.units import Deadline

from .conftest import CONFIG, Configure

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

HELLO = b"#!/bin/sh\nid -un; hostname; cat /sys/block/vda/size\n"


PYTHON = b"""#!/usr/bin/env python3
import os, pwd, sys
print(pwd.getpwuid(os.getuid()).pw_name, os.uname().nodename, sys.version_info[0], sep="\\n")
sys.exit(5)
"""


@pytest.mark.parametrize(("queue", "script", "status"), [
    ("busybox", HELLO, 0), ("disk", HELLO, 0), ("copy", HELLO, 0), ("debian", PYTHON, 5),
], ids=["busybox", "disk", "copy", "debian"])
def test_a_whole_job(mom: Mom, queue: str, script: bytes, status: int) -> None:
    """The last one's script is not the shell's, in a guest with systemd."""
    ended = mom.run(script, queue=queue, name="a job", account="it's \"mine\"")
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", status, 0), ended.errors.decode()
    assert ended.output.startswith(b"alice\nvm-")
    assert queue != "debian" or ended.output.endswith(b"\n3\n")
    assert ended.errors == b""


def test_two_jobs_at_once_on_one_image(mom: Mom) -> None:
    script = b"#!/bin/sh\necho $PBS_JOBID > ~/mine; sync; sleep 1; cat ~/mine\n"
    jobs = [mom.accept(script, queue="disk", user=user) for user in ("alice", "bob")]
    prologues = [mom.start_prologue(job) for job in jobs]
    assert [mom.finish_prologue(prologue) for prologue in prologues] == ["run", "run"], [job.errors for job in jobs]
    shells = [mom.start_shell(job) for job in jobs]
    assert [shell.wait() for shell in shells] == [0, 0]
    assert [job.output.decode().strip() for job in jobs] == [job.id for job in jobs]
    for epilogue in [mom.start_epilogue(job) for job in jobs]:
        assert epilogue.wait() == 0
    for job in jobs:
        mom.forget(job)


def test_an_image_on_the_nodes_disk_stays_roots(mom: Mom) -> None:
    """libvirt gives images to QEMU's account unless it is told not to; then the next job would be refused."""
    template = Path("/etc/vmbatch/domains/disk.xml")
    before = template.read_text()
    found = re.search(r"<vbdisksource source='([^']+)'", before)
    assert found is not None
    image = Path("/var/lib/vmbatch/images/base.raw")
    image.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "--sparse=always", found[1], image], check=True)
    image.chmod(0o644)
    template.write_text(before.replace(found[1], str(image)))
    try:
        for _ in range(2):
            assert mom.run(HELLO, queue="disk").verdict == "run"
            assert image.stat().st_uid == 0
        image.chmod(0o600)
        assert f"chmod o+r {image}" in mom.run(HELLO, queue="disk").errors.decode()
    finally:
        template.write_text(before)
        image.unlink()
        image.parent.rmdir()


@pytest.mark.parametrize(("queue", "cause"), [
    ("panic", "the guest's kernel died before the guest was ready (phase boot: it has not announced its address on the share): "
              "Kernel panic - not syncing: Attempted to kill init!"),
    ("poweroff", "the guest ended before it was ready (phase boot: it has not announced its address on the share): "
                 "its domain is gone|its domain is shut off"),
])
def test_a_guest_that_dies(mom: Mom, queue: str, cause: str) -> None:
    ended = mom.run(HELLO, queue=queue)
    assert (ended.verdict, ended.output) == ("requeue", b"")
    said = ended.errors.decode()
    assert any(part in said for part in cause.split("|"))
    assert "the guest's console ended with:" in said
    assert "\x1b" not in said


def test_a_guest_that_never_gets_ready(mom: Mom, configure: Configure) -> None:
    with configure('[timeouts]\nboot = "3s"'):
        ended = mom.run(HELLO, queue="silent")
    assert ended.verdict == "requeue"
    assert "was not ready within 3 s (phase boot" in ended.errors.decode()


@pytest.fixture
def set_alarm(mom: Mom) -> Iterator[Callable[[int], None]]:
    """Sets `$prologalarm` in mom's configuration for a test, and the margin below it."""
    config = mom.home / "mom_priv/config"
    before, settings = config.read_text(), CONFIG.read_text()

    def change(seconds: int) -> None:
        config.write_text(f"$prologalarm {seconds}\n")
        CONFIG.write_text(settings + '\n[timeouts]\nmargin = "3s"\n')

    yield change
    config.write_text(before)
    CONFIG.write_text(settings)


def test_a_prologue_is_done_before_the_alarm(mom: Mom, set_alarm: Callable[[int], None]) -> None:
    set_alarm(16)
    ended = mom.run(HELLO, queue="silent")
    assert "was not ready within" in ended.errors.decode()


def until_begun(job_id: str, promised: str = "") -> None:
    """Until a start of the job has its journal, and a promise in it, of which this is a part."""
    deadline, path = Deadline(60), Path(journal.path_of(job_id))
    while not path.exists() or promised not in path.read_text():
        assert deadline.left() > 0
        time.sleep(0.01)


def test_nothing_left_of_prologues_killed_at_random_moments(mom: Mom) -> None:
    chance = random.Random(2)  # noqa: S311
    for _ in range(10):
        job = mom.accept(HELLO)
        prologue = mom.start_prologue(job)
        time.sleep(chance.uniform(0.05, 4.0))
        kill_session(prologue.pid)
        prologue.wait()
        assert mom.start_epilogue(job).wait() == 0
        mom.forget(job)
        assert leftover.found() == []


def test_a_killed_prologue_is_a_success_to_mom_but_its_job_does_not_run(mom: Mom) -> None:
    job = mom.accept(HELLO)
    prologue = mom.start_prologue(job)
    until_begun(job.id, '"domain"')
    prologue.kill()
    assert mom.finish_prologue(prologue) == "run"
    assert mom.start_shell(job).wait() == 255
    assert b"has no guest: its prologue has not handed one over" in job.errors
    assert job.output == b""
    mom.start_epilogue(job).wait()
    mom.forget(job)


def test_a_record_of_an_earlier_start_is_no_proof(mom: Mom) -> None:
    job = mom.accept(HELLO)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    again = mom.accept(HELLO, job_id=job.id)
    prologue = mom.start_prologue(again)
    prologue.kill()
    assert mom.finish_prologue(prologue) == "run"
    assert mom.start_shell(again).wait() == 255
    assert b"for an earlier start of this job" in again.errors
    mom.start_epilogue(again).wait()
    mom.forget(again)


def test_an_epilogue_stops_a_prologue_that_waits(mom: Mom) -> None:
    job = mom.accept(HELLO, queue="silent")
    prologue = mom.start_prologue(job)
    until_begun(job.id, '"domain"')
    time.sleep(1)
    assert mom.start_epilogue(job).wait() == 0
    assert leftover.found() == []
    assert mom.finish_prologue(prologue) == "requeue"
    assert b"was ended by the batch system" in job.errors
    mom.forget(job)


def test_mom_kills_a_prologue_that_hangs(mom: Mom, set_alarm: Callable[[int], None]) -> None:
    set_alarm(14)
    job = mom.accept(HELLO)
    prologue = mom.start_prologue(job)
    until_begun(job.id)
    prologue.send_signal(signal.SIGSTOP)
    assert mom.finish_prologue(prologue) == "requeue"
    assert prologue.returncode == -signal.SIGKILL
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)


def test_an_epilogue_kills_a_prologue_that_hangs(mom: Mom, configure: Configure) -> None:
    job = mom.accept(HELLO)
    prologue = mom.start_prologue(job)
    until_begun(job.id, '"domain"')
    prologue.send_signal(signal.SIGSTOP)
    with configure("[timeouts]\nscale = 0.2"):
        assert mom.start_epilogue(job).wait() == 0
    assert prologue.wait() == -signal.SIGKILL
    mom.forget(job)


def test_two_epilogues_at_once(mom: Mom) -> None:
    job = mom.accept(HELLO)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    epilogues = [mom.start_epilogue(job), mom.start_epilogue(job)]
    assert [epilogue.wait() for epilogue in epilogues] == [0, 0]
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)


def test_a_second_start_without_an_epilogue_between(mom: Mom) -> None:
    job = mom.accept(HELLO)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    again = mom.accept(HELLO, job_id=job.id)
    ended = mom.play(again)
    assert (ended.verdict, ended.status) == ("run", 0), ended.errors.decode()


def test_a_missing_epilogue_is_made_up_for_by_the_sweep(mom: Mom) -> None:
    job = mom.accept(HELLO)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    sweep = ["/srv/vmbatch/venv/bin/vmbatch", "sweep"]
    assert subprocess.run(sweep, capture_output=True, text=True, check=True).stdout == ""
    mom.forget(job)
    said = subprocess.run([*sweep, "--dry-run"], capture_output=True, text=True, check=True).stdout
    assert said == f"would release job {job.id} of alice: dead, the batch system has taken its script away\n"
    assert "released job" in subprocess.run(sweep, capture_output=True, text=True, check=True).stdout


def test_an_epilogue_needs_no_configuration(mom: Mom) -> None:
    job = mom.accept(HELLO)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    before = CONFIG.read_text()
    CONFIG.write_text("[queues\nnonsense")
    try:
        assert mom.start_epilogue(job).wait() == 0
    finally:
        CONFIG.write_text(before)
    mom.forget(job)


def test_a_broken_configuration_is_explained(mom: Mom, configure: Configure) -> None:
    with configure('[shre]\nx = 1\n[spool]\nkeep_free = 3'):
        ended = mom.run(HELLO)
    line = len(CONFIG.read_text().splitlines())
    assert ended.verdict == "requeue"
    said = ended.errors.decode()
    assert re.search(rf"/etc/vmbatch/vmbatch.conf:{line + 3}: shre.x: unknown section \[shre\]; there are ", said), said
    assert re.search(rf"/etc/vmbatch/vmbatch.conf:{line + 5}: spool.keep_free: must be a size such as \"20G\", not 3", said), said


def test_a_template_that_others_can_change_is_refused(mom: Mom) -> None:
    template = Path("/etc/vmbatch/domains/busybox.xml")
    template.chmod(0o666)
    try:
        ended = mom.run(HELLO)
    finally:
        template.chmod(0o644)
    assert ended.verdict == "requeue"
    assert "chmod go-w /etc/vmbatch/domains/busybox.xml" in ended.errors.decode()


def test_a_denied_user_aborts_the_job(mom: Mom, configure: Configure) -> None:
    with configure('[users]\ndeny = ["alice"]'):
        ended = mom.run(HELLO)
    assert ended.verdict == "abort"
    assert "jobs of alice do not run in queue busybox" in ended.errors.decode()


def test_a_guest_killed_under_the_job(mom: Mom) -> None:
    job = mom.accept(b"#!/bin/sh\necho armed\nsleep 1000\n")
    assert mom.finish_prologue(mom.start_prologue(job)) == "run"
    shell = mom.start_shell(job, stdout=subprocess.PIPE)
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"armed\n"
    assert mom.start_epilogue(job).wait() == 0
    shell.send_signal(signal.SIGKILL)
    shell.wait()
    mom.forget(job)
