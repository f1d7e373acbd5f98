"""A guest that has had a job, and gets another one of the same user: it is clean by then, or it is gone."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.mom import Ended, Mom, kill_session
from vmbatch.handover import decode

from . import matrix
from .start import log, vmbatch, waiting
from .test_context_matrix import archive, configured
from .test_pool import queue, refill
from .test_shares import shares

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

HANDOVER = "/run/vmbatch/handover"
LOOK = rb"""#!/bin/bash
exec 3>/dev/null
uid=$(id -u)
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "host $(hostname) $(grep -c vm- /etc/hosts)"
echo "user $(id -un) $(id -Gn)"
echo "files $(find / -xdev -user "$uid" ! -path '/proc/*' ! -path "$HOME*" ! -path '/var/lib/vmbatch/job*' 2>&3 | tr '\n' ' ')"
echo "shm $(find /dev/shm -user "$uid" | wc -l) $(cat /proc/sysvipc/* | grep -c " $uid ")"
echo "home $(find ~ | tr '\n' ' ')"
echo "keys $(wc -l <~/.ssh/authorized_keys)"
echo "job $(ls -A /var/lib/vmbatch/job | grep -v '^run' | tr '\n' ' ')"
echo "kit $(ls -A /var/lib/vmbatch | tr '\n' ' ')"
echo "accounts $(wc -l </etc/passwd) $(wc -l </etc/group)"
echo "env $(env | grep -c LEFT)"
echo "strange $(grep -l "^Uid:.*[[:space:]]$uid[[:space:]]" /proc/[0-9]*/status | while read -r file; do
    grep -qs -e sleep -e setsid "${file%status}comm" && cat "${file%status}comm"; done)"
"""
LEAVE = rb"""
exec >/dev/null 2>&1
mkdir -p /var/tmp
touch ~/left "$HOME/-rf" '/tmp/-rf' '/tmp/two
lines' /var/tmp/left /dev/shm/left
mkdir -p /tmp/deep/er/est && chmod 0 /tmp/deep/er && mkdir -m 1777 /tmp/open
ln -s /etc /tmp/link; ln -s /etc ~/.ssh/link; mkfifo /tmp/fifo
echo 'export LEFT=yes' >>~/.profile; echo 'ssh-ed25519 AAAA mine' >>~/.ssh/authorized_keys
ipcmk -M 1024; ipcmk -Q; ipcmk -S 1
setsid sh -c 'trap "" HUP TERM INT; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &
setsid sh -c 'kill -STOP $$; sleep 900' </dev/null >/dev/null 2>&1 &
setsid sh -c 'cd /tmp/open && exec sleep 900 <>/tmp/fifo >file' >/dev/null 2>&1 &
sleep 0.3
exit 0
"""


@contextmanager
def reused(like: str = "disk", more: str = "jobs='3'") -> Iterator[Path]:
    """The queue `pooled`, whose guests may have several jobs; one waits."""
    with queue("pooled", like, change=(">POOL<", f" {more}>POOL<")) as template:
        refill()
        yield template


def run(mom: Mom, script: bytes = LOOK, user: str = "alice", status: int = 0) -> Ended:
    ended = mom.run(script, queue="pooled", user=user)
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", status, 0), (
        ended.errors.decode() + ended.output.decode() + log(ended))
    return ended


def said(ended: Ended) -> dict[str, str]:
    return dict(line.partition(" ")[::2] for line in ended.output.decode().splitlines())


def kept() -> list[tuple[str, int]]:
    """For whom guests wait, and how many jobs they have had."""
    return [(guest["user"], int(guest["jobs"])) for guest in waiting()]


@pytest.mark.parametrize("like", ["disk", "debian"])
def test_the_next_job_finds_nothing_of_the_one_before(mom: Mom, like: str) -> None:
    """It is in the same guest, which has of the user's what came with the job itself; another user gets another guest."""
    with reused(like):
        first = said(run(mom))
        assert kept() == [("alice", 1)]
        hostile = run(mom, LOOK + LEAVE)
        assert said(hostile) == first | {"host": said(hostile)["host"]}
        assert "a guest is taken that has had 1 of this user's jobs" in log(hostile)
        assert kept() == [("alice", 2)], log(hostile)
        if like == "disk":
            other = run(mom, user="bob")
            assert said(other)["boot"] != first["boot"]
            assert "those that wait are for other users" in log(other)
            assert kept() == [("alice", 2)]
        third = run(mom)
        assert said(third) == first | {"host": said(third)["host"]}
        assert said(third)["host"] == f"vm-{third.job.file_id.partition('.')[0]} 1"
        assert said(third)["files"] == ""
        assert "it has had 3 of 3 jobs" in log(third)
        assert waiting() == []


@pytest.mark.usefixtures("archive")
def test_one_with_sysv_init(mom: Mom) -> None:
    text = matrix.template("sysv", "CDROM", "dhcp").replace(
        "<vbhypervisor>", "<vbstart jobs='2' lifetime='1h'>POOL</vbstart><vbhypervisor>", 1)
    with configured(text):
        try:
            refill()
            first, second = mom.run(LOOK, queue="matrix"), mom.run(LOOK, queue="matrix")
        finally:
            assert vmbatch("pool", "drain").returncode == 0
    assert "a guest is taken that has had 1 of this user's jobs" in log(second)
    assert said(second) == said(first) | {"host": said(second)["host"]}


def test_who_may_log_in_meanwhile(mom: Mom) -> None:
    """Nobody: not by a key that the user has kept, nor through a connection of before."""
    with reused():
        job = mom.accept(b"#!/bin/sh\nsleep 2\n", queue="pooled")
        assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors
        key = Path("/home/alice/stolen")
        shutil.copy(f"{HANDOVER}/{job.file_id}/id_ed25519", key)
        os.chown(key, 1500, 1500)
        address = decode(Path(f"{HANDOVER}/{job.file_id}/record").read_bytes()).address
        control = "/home/alice/control"
        ssh = ["setpriv", "--reuid=1500", "--regid=1500", "--clear-groups", "ssh", "-F", "none", "-i", str(key),
               "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "IdentitiesOnly=yes", "-S", control]
        open_one = subprocess.Popen([*ssh, "-M", "-N", f"alice@{address}"], stderr=subprocess.DEVNULL)
        try:
            over = time.monotonic() + 20
            while not Path(control).exists() and time.monotonic() < over:
                time.sleep(0.05)
            assert subprocess.run([*ssh, "alice@x", "id -un"], capture_output=True, check=False).stdout == b"alice\n"
            assert mom.start_shell(job).wait() == 0
            assert mom.start_epilogue(job, 0).wait() == 0
            assert kept() == [("alice", 1)], Path(f"/var/log/vmbatch/{job.file_id}.log").read_text()
            assert open_one.wait(20) != 0
            done = subprocess.run([*ssh, f"alice@{address}", "true"], capture_output=True, text=True, check=False)
            assert (done.returncode, "Permission denied" in done.stderr) == (255, True), done.stderr
            next_job = mom.accept(LOOK, queue="pooled")
            assert mom.finish_prologue(mom.start_prologue(next_job)) == "run", next_job.errors
            done = subprocess.run([*ssh, f"alice@{address}", "true"], capture_output=True, text=True, check=False)
            assert (done.returncode, "Permission denied" in done.stderr) == (255, True), done.stderr
            assert mom.start_epilogue(next_job, 0).wait() == 0
            mom.forget(next_job)
        finally:
            open_one.kill()
            open_one.wait()
            mom.forget(job)
            for path in (key, Path(control)):
                path.unlink(missing_ok=True)


def test_one_that_waits_for_nobody_any_more(mom: Mom) -> None:
    """That of a job that failed, on a node that is drained, whose user does not come: it is gone."""
    with reused(more="jobs='9' idle='1s'"):
        assert "its job ended with status 3" in log(run(mom, b"#!/bin/sh\nexit 3\n", status=3))
        assert waiting() == []
        refill()
        run(mom)
        assert kept() == [("alice", 1)]
        time.sleep(1.1)
        assert refill().count("waits, after") == 1
        assert kept() == [("", 0)]
        job = mom.accept(LOOK, queue="pooled")
        try:
            assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors
            vmbatch("drain", "--why", "disks")
            assert mom.start_epilogue(job, 0).wait() == 0
            mom.forget(job)
            assert "this node is drained" in Path(f"/var/log/vmbatch/{job.file_id}.log").read_text()
        finally:
            vmbatch("undrain")
        assert waiting() == []


def test_one_that_gives_signs_of_life_by_its_port(mom: Mom) -> None:
    """Who listens for them has the port as long as the job runs, and the epilogue behind that."""
    alive = "<vbheartbeat seconds='20'/><vbmessages>CHANNEL</vbmessages></vbconfig>"
    with queue("pooled", "disk", change=(">POOL<", " jobs='3'>POOL<")) as template:
        template.write_text(template.read_text().replace("</vbconfig>", alive))
        refill()
        first = run(mom, LOOK.replace(b"exec 3>", b"sleep 6; exec 3>"))
        assert kept() == [("alice", 1)], log(first)
        second = run(mom)
        assert said(second)["boot"] == said(first)["boot"]
        assert kept() == [("alice", 2)], log(second)


def test_processes_that_multiply(mom: Mom) -> None:
    """They are gone, or their guest is; the next job does not hear of them."""
    bomb = b"#!/bin/bash\nulimit -u 150\nsetsid bash -c 'f() { f | f & }; f' </dev/null >/dev/null 2>&1 &\nsleep 0.5\nexit 0\n"
    with reused():
        ended = run(mom, bomb)
        assert kept() == [("alice", 1)] or "the guest gets no further job" in log(ended)
        found = said(run(mom))
        assert found["strange"] == ""


def test_the_sites_own_cleaning(mom: Mom, scripts: Path) -> None:
    """It is the last, and root's; where it fails the guest ends."""
    script = scripts / "clean.d/1"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n[ ! -e /tmp/left ] && [ ! -e /home/alice ] && rm -rf /opt/ours\n")
    prolog = scripts / "prolog.d/1"
    prolog.write_text("#!/bin/sh\nmkdir /opt /opt/ours 2>/dev/null\n[ -z \"$(ls /opt/ours)\" ] && touch /opt/ours/1\n")
    with reused():
        run(mom, b"#!/bin/sh\ntouch /tmp/left\n")
        assert kept() == [("alice", 1)]
        script.write_text("#!/bin/sh\necho no such luck >&2\nexit 4\n")
        ended = run(mom)
        assert "it could not clean itself: status 4 while running site/clean.d/1: no such luck" in log(ended)
        assert waiting() == []


@pytest.mark.usefixtures("archive")
def test_a_home_on_a_share_is_the_users(mom: Mom) -> None:
    """Nothing there is removed, and no key of the user's own opens a guest that waits."""
    mine = Path(f"/home/alice/{os.urandom(4).hex()}")
    text = shares(matrix.template("systemd", "CDROM", "dhcp"), "<vbshare type='nfs4' source='10.77.0.1:/home' target='/home'/>")
    text = text.replace("<vbhypervisor>", "<vbstart jobs='2'>POOL</vbstart><vbhypervisor>", 1)
    with configured(text):
        refill()
        try:
            first = mom.run(f"#!/bin/sh\necho mine >~/{mine.name}; exit 0\n".encode(), queue="matrix")
            assert (first.status, kept()) == (0, [("alice", 1)]), log(first)
            assert mine.read_text() == "mine\n"
            second = mom.run(f"#!/bin/sh\ncat ~/{mine.name}\n".encode(), queue="matrix")
            assert (second.status, second.output) == (0, b"mine\n"), log(second)
            assert "a guest is taken that has had 1" in log(second)
        finally:
            assert vmbatch("pool", "drain").returncode == 0
            mine.unlink()


def test_an_epilogue_that_is_killed_at_any_moment(mom: Mom) -> None:
    """Its guest waits whole, or it is gone; and where it waits its user's next job has it."""
    chance = random.Random(13)  # noqa: S311
    with reused(more="jobs='9'"):
        for _ in range(3):
            if not waiting():
                refill()
            job = mom.accept(LOOK, queue="pooled")
            assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors
            assert mom.start_shell(job).wait() == 0
            epilogue = mom.start_epilogue(job, 0)
            time.sleep(chance.uniform(0.1, 1.0))
            kill_session(epilogue.pid)
            epilogue.wait()
            if chance.random() < 0.5:
                assert mom.start_epilogue(job, 0).wait() == 0
            mom.forget(job)
            assert vmbatch("sweep").returncode == 0
            there = subprocess.run(["virsh", "list", "--name"], check=True, capture_output=True, text=True).stdout.split()
            assert [guest["guest"] for guest in waiting()] == [name for name in there if ".pool-" in name]
        run(mom)
