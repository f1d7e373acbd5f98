"""Slurm's Epilog is told how a job ended: after one that went well its guest may have the user's next one."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from lab.slurm import Slurm

from .conftest import Configure

pytestmark = pytest.mark.slurm
VMBATCH = "/srv/vmbatch/venv/bin/vmbatch"
DOMAINS = Path("/etc/vmbatch/domains")


def pool(*words: str) -> str:
    return subprocess.run([VMBATCH, "pool", *words], check=True, capture_output=True, text=True).stdout


def kept(wanted: list[int]) -> list[int]:
    """How many jobs the guests that wait have had, once that is as wanted, or much later: an Epilog ends behind its job."""
    over = time.monotonic() + 30
    while True:
        found = [int(json.loads(line)["jobs"]) for line in pool("list", "--json").splitlines()]
        if found == wanted or time.monotonic() > over:
            return found
        time.sleep(0.1)


def test_a_guest_has_two_jobs_of_one_user(slurm: Slurm, configure: Configure) -> None:
    """A failed job's has no other one."""
    template = DOMAINS / "reused.xml"
    template.write_text((DOMAINS / "disk.xml").read_text().replace(
        "<vbhypervisor>", "<vbstart lifetime='1h' jobs='3'>POOL</vbstart><vbhypervisor>", 1))
    try:
        with configure('own = "own.xml"', 'own = "reused.xml"'):
            pool("refill")
            found = []
            for had in ([1], [2]):
                job = slurm.sbatch("#!/bin/sh\ncat /proc/sys/kernel/random/boot_id\n", "-p", "own")
                assert slurm.end(job) == "COMPLETED", slurm.log(job)
                assert kept(had) == had, slurm.log(job)
                found.append(slurm.output(job))
            assert found[0] == found[1]
            job = slurm.sbatch("#!/bin/sh\nexit 3\n", "-p", "own")
            assert slurm.end(job) == "FAILED"
            assert kept([]) == []
            over = time.monotonic() + 20
            while "its job ended with status" not in slurm.log(job) and time.monotonic() < over:
                time.sleep(0.1)
            assert "the guest gets no further job: its job ended with status 3" in slurm.log(job)
            pool("drain")
    finally:
        template.unlink()
