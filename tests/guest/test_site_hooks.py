"""Hooks of the site beside ours, and jobs of native queues."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mom import Mom

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

SPY = """#!/bin/sh
echo "$0" >> /run/spy; for word; do printf '[%s]' "$word" >> /run/spy; done; echo >> /run/spy
echo "site says $PBS_NP"; cat; exit ${STATUS:-4}
"""


@pytest.fixture
def hooks(mom: Mom) -> Iterator[list[Path]]:
    paths = [mom.home / "mom_priv" / f"{name}.site" for name in ("prologue", "epilogue")]
    Path("/run/spy").unlink(missing_ok=True)
    for path in paths:
        path.write_text(SPY)
        path.chmod(0o755)
    yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def test_a_native_job_has_the_sites_hook_alone(mom: Mom, hooks: list[Path]) -> None:
    job = mom.accept(b"", queue="batch", name="n;$(id)`x`", account="a'b\"c")
    prologue = mom.start_prologue(job)
    assert prologue.wait() == 4
    assert job.output == b"site says 1\n"
    assert Path("/run/spy").read_text() == (
        f"{hooks[0]}\n[{job.id}][alice][alice][n;$(id)`x`][{job.resources}][batch][a'b\"c][{job.script}]\n")
    assert mom.start_epilogue(job, 7).wait() == 4
    mom.forget(job)


def test_a_native_job_without_a_site_hook(mom: Mom) -> None:
    job = mom.accept(b"", queue="batch")
    assert (mom.start_prologue(job).wait(), mom.start_epilogue(job).wait()) == (0, 0)
    assert (job.output, job.errors) == (b"", b"")
    assert not Path(f"/var/log/vmbatch/{job.file_id}.log").exists()
    mom.forget(job)


def test_a_native_job_runs_on_the_node_through_job_starter(mom: Mom) -> None:
    job = mom.accept(b"#!/bin/sh\nhostname\n", queue="batch")
    assert mom.start_shell(job, way="starter").wait() == 0
    assert job.output.decode().strip() == os.uname().nodename
    mom.forget(job)


def test_remoteshell_is_no_shell_for_a_native_job(mom: Mom) -> None:
    job = mom.accept(b"#!/bin/sh\nhostname\n", queue="batch")
    assert mom.start_shell(job).wait() == 255
    assert b"has no guests, and remoteshell is no shell for the node" in job.errors
    mom.forget(job)


def test_the_sites_hook_runs_before_the_guest_and_can_refuse(mom: Mom, hooks: list[Path]) -> None:
    job = mom.accept(b"")
    assert mom.start_prologue(job).wait() == 4
    assert job.output == b"site says 1\n"
    hooks[0].write_text(SPY.replace("${STATUS:-4}", "0"))
    assert mom.start_prologue(job).wait() == 0
    assert mom.start_epilogue(job).wait() == 4
    assert Path("/run/spy").read_text().count(str(hooks[1])) == 1
    mom.forget(job)


def test_a_hook_that_others_can_change_is_not_run(mom: Mom, hooks: list[Path]) -> None:
    hooks[0].chmod(0o777)
    job = mom.accept(b"", queue="batch")
    assert mom.start_prologue(job).wait() == 2
    assert b"must be a regular file of root" in job.errors
    assert not Path("/run/spy").exists()
    mom.forget(job)


def test_closed_streams_and_blocked_signals(mom: Mom) -> None:
    """A sister's epilogue has no fd 1 and 2, and HUP, INT, TERM and CHLD blocked (reference: TORQUE 6.1.3)."""
    job = mom.accept(b"#!/bin/sh\necho ran\n")
    words = [job.id, "alice", "alice", "job", "nodes=1", "busybox", "", str(job.script)]
    closed = ["python3", "-c", "import os,signal,sys;signal.pthread_sigmask(0,[1,2,15,17]);[os.close(n) for n in (0,1,2)];"
              "os.execv(sys.argv[1],sys.argv[1:])"]
    assert subprocess.run([*closed, str(mom.home / "mom_priv/prologue"), *words], check=False).returncode == 0
    assert mom.start_shell(job).wait() == 0
    assert job.output == b"ran\n"
    words = [*words[:4], "0", "nodes=1", "", "busybox", "", "0", str(job.script)]
    assert subprocess.run([*closed, str(mom.home / "mom_priv/epilogue"), *words], check=False).returncode == 0
    mom.forget(job)
