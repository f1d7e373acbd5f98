"""Guests that wait for jobs: each becomes one job's, as if it had booted for that, and is gone with it."""

import json
import random
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lab import leftover, libvirtd
from lab.mom import Ended, Mom, kill_session
from vmbatch.host import interrupt

from . import start
from .conftest import Configure
from .start import VMBATCH, log, said, vmbatch, waiting

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

WHO = rb"""#!/bin/sh
exec 2>&1
echo "name $(hostname)"
echo "user $(id -un) $(id -Gn)"
echo "address $(ip -4 addr | sed -n 's/.*inet \(10[0-9.]*\).*/\1/p')"
echo "uptime $(cut -d . -f 1 /proc/uptime)"
echo "others $(cut -d : -f 1 /etc/passwd | grep -c -e alice -e bob)"
echo "keys $(cat ~/.ssh/authorized_keys | wc -l) $(ls /root/.ssh 2>/dev/null | wc -l)"
echo "share $(grep -c ' /mnt/vmbatch nfs' /proc/mounts)"
sleep "${1:-0}"
exit 7
"""


def refill() -> str:
    done = vmbatch("pool", "refill")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queue(name: str, like: str, size: int = 1, change: tuple[str, str] = ("", "")) -> AbstractContextManager[Path]:
    """A queue whose guests are those of another one, but of which some wait."""
    return start.queue(name, like, f"<vbstart size='{size}' lifetime='1h'>POOL</vbstart>", change)


def filters() -> str:
    return subprocess.run(["nft", "list", "ruleset", "bridge"], check=True, capture_output=True, text=True).stdout


def check_taken(ended: Ended) -> dict[str, str]:
    assert (ended.verdict, ended.status) == ("run", 7), ended.errors.decode() + ended.output.decode() + log(ended)
    assert "no guest that waits is taken" not in log(ended)
    return said(ended.output)


@pytest.mark.parametrize("like", ["disk", "debian"])
def test_a_job_gets_one_that_waited(mom: Mom, like: str) -> None:
    """It is the user's alone, with all that a booted one has; and the next job gets another one."""
    with queue("pooled", like):
        refill()
        guest, = waiting()
        time.sleep(2)
        first = mom.run(WHO, queue="pooled")
        known = check_taken(first)
        assert known["address"] == guest["address"]
        assert known["name"] == f"vm-{first.job.file_id.partition('.')[0]}"
        assert known["user"].startswith("alice ")
        assert "physics" in known["user"]
        assert (known["others"], known["keys"], known["share"]) == ("1", "1 0", "1")
        assert int(known["uptime"]) >= 2
        assert waiting() == []
        refill()
        second = check_taken(mom.run(WHO, queue="pooled", user="bob"))
        assert second["user"].startswith("bob ")
        assert second["others"] == "1"
        assert second["name"] != known["name"]


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_refill_that_is_interrupted(number: int) -> None:
    with queue("pooled", "disk"):
        start.interrupted(number, "pool", "refill")
        assert waiting() == []


def test_several_at_once(mom: Mom) -> None:
    """More jobs than guests that wait: those that are left boot, and no two have the same."""
    with queue("pooled", "disk", 2):
        refill()
        before = {guest["address"] for guest in waiting()}
        jobs = [mom.accept(WHO, queue="pooled", user=user) for user in ("alice", "bob", "alice")]
        prologues = [mom.start_prologue(job) for job in jobs]
        try:
            assert [mom.finish_prologue(prologue) for prologue in prologues] == ["run"] * 3, [job.errors for job in jobs]
            shells = [mom.start_shell(job) for job in jobs]
            assert [shell.wait() for shell in shells] == [7] * 3, [job.errors for job in jobs]
            addresses = [said(job.output)["address"] for job in jobs]
            assert len(set(addresses)) == 3
            assert before < set(addresses)
            texts = [Path(f"/var/log/vmbatch/{job.file_id}.log").read_text() for job in jobs]
            assert sum("no guest that waits is taken" in text for text in texts) == 1
        finally:
            for epilogue in [mom.start_epilogue(job) for job in jobs]:
                assert epilogue.wait() == 0
            for job in jobs:
                mom.forget(job)


def test_a_static_address(mom: Mom) -> None:
    """It is reserved as long as the guest is there, before its job and with it."""
    pool = "<vbnetwork method='static' first='10.77.0.20' count='20' prefix='24' gateway='10.77.0.1'/>"
    with queue("pooled", "disk", change=("<interface type='network'>", f"<interface type='network'>{pool}")):
        refill()
        guest, = waiting()
        reserved = Path(leftover.RESERVATIONS) / guest["address"]
        assert reserved.exists()
        assert check_taken(mom.run(WHO, queue="pooled"))["address"] == guest["address"]
        assert not reserved.exists()


def test_none_waits(mom: Mom) -> None:
    with queue("pooled", "disk"):
        ended = mom.run(WHO, queue="pooled")
        assert ended.status == 7
        assert "no guest that waits is taken: none waits" in log(ended)


def test_one_that_has_hung_is_ended(mom: Mom) -> None:
    """The job boots, and does not wait long for that."""
    with queue("pooled", "disk"):
        refill()
        guest, = waiting()
        subprocess.run(["virsh", "suspend", guest["guest"]], check=True, stdout=subprocess.DEVNULL)
        ended = mom.run(WHO, queue="pooled")
        assert ended.status == 7
        assert "which waited, is ended: it does not answer" in log(ended)
        assert waiting() == []


def test_a_template_that_has_changed(mom: Mom) -> None:
    with queue("pooled", "disk") as template:
        refill()
        template.write_text(template.read_text().replace("<memory unit='MiB'>192", "<memory unit='MiB'>200"))
        ended = mom.run(WHO, queue="pooled")
        assert "those that wait have other cores, memory, images" in log(ended)
        said = refill()
        assert "have changed since" in said
        assert len(waiting()) == 1
        assert refill() == ""


def test_a_guest_that_died(mom: Mom) -> None:
    with queue("pooled", "disk"):
        refill()
        guest, = waiting()
        subprocess.run(["virsh", "destroy", guest["guest"]], check=True, stdout=subprocess.DEVNULL)
        assert "its domain is gone" in refill()
        assert [each["guest"] for each in waiting()] != [guest["guest"]]


def test_a_job_that_needs_the_room(mom: Mom, configure: Configure) -> None:
    """It does not fit beside a guest that waits, which then goes."""
    with configure("[admission]\nslots = 1"), queue("pooled", "disk"):
        refill()
        assert len(waiting()) == 1
        ended = mom.run(WHO, queue="disk")
        assert ended.status == 7, ended.errors.decode()
        assert waiting() == []
        assert "a job needs its room" in Path("/var/log/vmbatch/0.log").read_text()


def test_nobody_gets_in_before_its_job(mom: Mom) -> None:
    """Not with the key that its job will have, neither as root nor as a user."""
    with queue("pooled", "disk"):
        refill()
        guest, = waiting()
        key, = Path("/var/lib/vmbatch/spool").glob("*.pool.*/keys/id_ed25519")
        for user in ("root", "alice"):
            done = subprocess.run(["ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
                                   "UserKnownHostsFile=/dev/null", f"{user}@{guest['address']}", "true"],
                                  capture_output=True, text=True, check=False)
            assert done.returncode == 255, done.stdout
            assert "Permission denied" in done.stderr
        check_taken(mom.run(WHO, queue="pooled"))


def test_a_filter_that_was_flushed_is_made_again(mom: Mom) -> None:
    with queue("pooled", "disk"):
        refill()
        guest, = waiting()
        assert guest["address"] in filters()
        with libvirtd.rules_lost():
            assert guest["address"] not in filters()
            assert f"of job {guest['guest'].removeprefix('vmbatch-').rpartition('-')[0]} again" in vmbatch("sweep").stdout
            assert guest["address"] in filters()
        check_taken(mom.run(WHO, queue="pooled"))


def test_what_is_said_of_them(mom: Mom) -> None:
    with queue("pooled", "disk") as template:
        assert "0 of 1 guests wait" in vmbatch("doctor", "--only", "pool").stdout
        refill()
        guest, = waiting()
        assert f"guests wait for jobs: 1 of {template}" in vmbatch("doctor", "--only", "pool").stdout
        assert f'vmbatch_waiting_guests{{template="{template}"}} 1' in vmbatch("metrics").stdout
        assert "taken from 1 that wait" in vmbatch("check", str(template)).stdout
        assert guest["guest"] not in vmbatch("ps").stdout
        assert vmbatch("sweep", "--dry-run").stdout == ""
        ended = mom.run(WHO, queue="pooled")
        found = [json.loads(line) for line in vmbatch("trace", "--address", guest["address"], "--json").stdout.splitlines()]
        assert ("alice", ended.job.id) in {(each["begin"]["user"], each["begin"]["job"]) for each in found}
        assert any(each["begin"]["user"] == "root" and each["why"].startswith(f"job {ended.job.id} took it") for each in found)


def test_whoever_fills_can_be_killed_at_any_moment() -> None:
    chance = random.Random(11)  # noqa: S311
    with queue("pooled", "disk"):
        for _ in range(5):
            process = subprocess.Popen([VMBATCH, "pool", "refill"], stdout=subprocess.DEVNULL, start_new_session=True)
            time.sleep(chance.uniform(0.2, 6))
            kill_session(process.pid)
            process.wait()
            assert vmbatch("sweep").returncode == 0
            assert waiting() or leftover.found() == []
            assert vmbatch("pool", "drain").returncode == 0
        refill()
        assert len(waiting()) == 1


def test_a_prologue_that_is_killed_at_any_moment(mom: Mom) -> None:
    """Its guest is never another job's; one that it has not taken still is."""
    chance = random.Random(12)  # noqa: S311
    with queue("pooled", "disk"):
        for _ in range(5):
            refill()
            guest, = waiting()
            job = mom.accept(WHO, queue="pooled")
            prologue = mom.start_prologue(job)
            time.sleep(chance.uniform(0.1, 1.2))
            kill_session(prologue.pid)
            prologue.wait()
            assert mom.start_epilogue(job).wait() == 0
            mom.forget(job)
            vmbatch("sweep")
            there = subprocess.run(["virsh", "list", "--name"], check=True, capture_output=True, text=True).stdout.split()
            assert (guest["guest"] in there) == bool(waiting())
