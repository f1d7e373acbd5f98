"""A guest that ends under its job, or cannot be reached any more, as the job's shell sees it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.loopback import Guest
from lab.mom import Job, Mom
from vmbatch.handover import Mark
from vmbatch.host import clock

from .conftest import Accept

SCRIPT = "#!/bin/sh\necho armed\nsleep 1000\n"


@pytest.fixture
def runs() -> "Iterator[subprocess.Popen[bytes]]":
    """What stands for the process that runs the guest: root's, as QEMU's account is not the user's either."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def started(mom: Mom, guest: Guest, accept: Accept, script: str, mark: Mark) -> tuple[Job, "subprocess.Popen[bytes]"]:
    job = accept(script)
    guest.take_back(mom, job)
    job = mom.accept(script.encode(), job_id=job.id)
    guest.hand_over(mom, job, runs=mark)
    shell = mom.start_shell(job, stdout=subprocess.PIPE)
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"armed\n", job.errors
    return job, shell


def of(process: "subprocess.Popen[bytes]") -> Mark:
    return Mark(process.pid, clock.started(process.pid) or 0)


@pytest.mark.parametrize("verdict", ["", "the node has ended the job's guest"])
def test_the_guests_process_ends(
    mom: Mom, guest: Guest, accept: Accept, runs: "subprocess.Popen[bytes]", verdict: str,
) -> None:
    """ssh hangs as it does when nobody is there any more."""
    job, shell = started(mom, guest, accept, SCRIPT, of(runs))
    if verdict:
        Path(f"/run/vmbatch/handover/{job.id}/verdict").write_text(f"{verdict}\n")
    runs.kill()
    assert shell.wait() == (252 if verdict else 253)
    said = verdict or ("the job's guest has ended before its job: it has crashed, was shut down from inside, or was ended on "
                       "the node")
    assert job.errors.decode() == f"vmbatch: {said} [VB802]\n"


def test_a_job_that_ends_with_its_guest(mom: Mom, guest: Guest, accept: Accept, runs: "subprocess.Popen[bytes]") -> None:
    """What the guest had said before counts."""
    job, shell = started(mom, guest, accept, "#!/bin/sh\necho armed\nsleep 0.7\necho done\nexit 6\n", of(runs))
    runs.kill()
    assert shell.stdout is not None
    assert (shell.stdout.read(), shell.wait(), job.errors) == (b"done\n", 6, b"")


def test_a_guest_that_cannot_be_reached(mom: Mom, guest: Guest, accept: Accept, runs: "subprocess.Popen[bytes]") -> None:
    """The connection is gone, and there is no new one."""
    job, shell = started(mom, guest, accept, SCRIPT, of(runs))
    Path(f"/run/vmbatch/handover/{job.id}/known_hosts").write_text("")
    for child in Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    assert shell.wait() == 255
    assert job.errors.decode() == ("vmbatch: the connection to the job's guest was lost (ssh: -9): it is there, but hangs, is "
                                   "paused, or has lost its network; the job may not have ended [VB802]\n")
