"""Guests that hang, die, are paused or killed under their job; how guests are ended, kept, and known later."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import leftover
from lab.mom import Job, Mom, kill_session
from vmbatch.host import virt

from . import matrix
from .conftest import CONFIG, site_scripts
from .disks import DOMAINS
from .test_context_matrix import archive
from .test_disk_context import template as disk_template

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]

URI = "qemu:///system"
VMBATCH = "/srv/vmbatch/venv/bin/vmbatch"
LAYOUT = "<vbdisk name='rootdisk' dev='vda' partition='vda1'/>"
ARMED = b"#!/bin/sh\necho armed\n%s\nsleep 1000\n"
AS_ROOT = b"echo '%s' >/tmp/do.new && mv /tmp/do.new /tmp/do"
SERVANT = """(while :; do [ ! -f /tmp/do ] || { sh /tmp/do; rm -f /tmp/do; }; sleep 0.2; done) </dev/null >/dev/null 2>&1 &
"""
BUTTON = """modprobe button; modprobe evdev
for device in /dev/input/event*; do
    (dd if="$device" bs=24 count=1 && poweroff -f) </dev/null >/dev/null 2>&1 &
done
"""


@contextmanager
def queue_of(text: str, script: str = SERVANT) -> Iterator[str]:
    """A queue with guests of this template, in which root starts a script of the site's."""
    before = CONFIG.read_text()
    with site_scripts() as scripts:
        (scripts / "epilog.d/servant").write_text(script)
        matrix.write("lost", text)
        CONFIG.write_text(before.replace("[queues]\n", '[queues]\nlost = "lost.xml"\n'))
        try:
            yield "lost"
        finally:
            CONFIG.write_text(before)
            (DOMAINS / "lost.xml").unlink()


def of(name: str, *changes: tuple[str, str]) -> str:
    text = (DOMAINS / f"{name}.xml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    return text


def armed(mom: Mom, queue: str, more: bytes = b"") -> tuple[Job, "subprocess.Popen[bytes]"]:
    """A job whose script has begun, and its shell."""
    job = mom.accept(ARMED % more, queue=queue)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
    shell = mom.start_shell(job, stdout=subprocess.PIPE)
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"armed\n", job.errors.decode()
    return job, shell


def name_of(job: Job) -> str:
    [name] = [name for name, _, _ in virt.ours(URI) if name.startswith(f"vmbatch-{job.id}-")]
    return name


def qemu(job: Job) -> int:
    return int(Path(f"/run/libvirt/qemu/{name_of(job)}.pid").read_text())


def virsh(*words: str) -> None:
    subprocess.run(["virsh", "-q", "-c", URI, *words], check=True, stdout=subprocess.DEVNULL)


def ended(mom: Mom, job: Job, status: int) -> list[str]:
    """What the user reads when the epilogue is done."""
    assert mom.start_epilogue(job, status).wait() == 0
    assert leftover.found() == []
    mom.forget(job)
    return job.errors.decode().splitlines()


ENDED = ("vmbatch: the job's guest has ended before its job: it has crashed, was shut down from inside, or was ended on the node "
         "[VB802]")
LATER = "vmbatch: when the job ended, its guest did not run any more: "


def test_a_guest_that_is_killed_under_its_job(mom: Mom) -> None:
    job, shell = armed(mom, "busybox")
    begin = time.monotonic()
    os.kill(qemu(job), signal.SIGKILL)
    assert shell.wait() == 253
    assert time.monotonic() - begin < 60, "ssh alone would have waited for two minutes"
    assert ended(mom, job, 253) == [ENDED, f"{LATER}it or its QEMU has crashed, or its watchdog has fired"]


def test_a_guest_that_powers_itself_off(mom: Mom) -> None:
    with queue_of(of("disk")) as queue:
        job, shell = armed(mom, queue, AS_ROOT % b"poweroff -f")
        assert shell.wait() == 253
        assert ended(mom, job, 253) == [ENDED, f"{LATER}it was shut down from inside"]
    [line] = trace("--job", job.id, "--json").splitlines()
    guest = json.loads(line)
    begin = guest["begin"]
    assert (begin["user"], begin["uid"], begin["queue"], begin["node"]) == ("alice", 1500, "lost", os.uname().nodename)
    assert (guest["status"], guest["why"]) == (253, "its epilogue has run")
    assert begin["started"] < begin["time"] < guest["ready"] < guest["ended"]
    assert [image["disk"] for image in begin["images"]] == ["vda"]
    [mac] = begin["macs"]
    moment = str(guest["ready"])
    assert json.loads(trace("--address", guest["address"], "--at", moment, "--mac", mac, "--json")) == guest
    assert f"job {job.id} of alice (uid 1500), queue lost" in trace("--user", "alice")


def trace(*words: str) -> str:
    return subprocess.run([VMBATCH, "trace", *words], capture_output=True, text=True, check=True).stdout


def test_a_watchdog_that_fires(mom: Mom) -> None:
    """The guest's kernel is dead, and can do no more than wait."""
    text = disk_template("generic", LAYOUT).replace("<memballoon", "<watchdog model='i6300esb' action='poweroff'/><memballoon")
    with queue_of(text.replace("nokaslr", "nokaslr i6300esb.heartbeat=12", 1)) as queue:
        job, shell = armed(mom, queue, AS_ROOT % b"echo c >/proc/sysrq-trigger")
        assert shell.wait() == 253
        assert ended(mom, job, 253) == [ENDED, f"{LATER}Kernel panic - not syncing: sysrq triggered crash"]


def test_a_guest_that_hangs_and_is_watched(mom: Mom) -> None:
    with queue_of(of("busybox", ("</vbconfig>", "<vbheartbeat seconds='10'/></vbconfig>"))) as queue:
        job, shell = armed(mom, queue)
        beat = next(Path("/srv/vmbatch/share").glob(f"{job.id}*/guest")) / "heartbeat"
        over = time.monotonic() + 60
        while not (beat.exists() and beat.read_text().endswith(" 2\n")):
            assert time.monotonic() < over, "no heartbeat"
            time.sleep(0.1)
        virsh("suspend", name_of(job))
        assert shell.wait() == 252
        assert ended(mom, job, 252) == ["vmbatch: the node has ended the job's guest: nothing was heard from it for 10 s, "
                                        "and it is paused by somebody on the node [VB802]"]


def test_a_guest_that_is_heard_by_its_port(mom: Mom) -> None:
    """For longer than it may be silent."""
    tags = "<vbmessages>CHANNEL</vbmessages><vbheartbeat seconds='10'/></vbconfig>"
    with queue_of(of("busybox", ("</vbconfig>", tags))) as queue:
        ran = mom.run(b"#!/bin/sh\nsleep 14; exit 4\n", queue=queue)
    assert (ran.verdict, ran.status, ran.errors) == ("run", 4, b"")


@pytest.mark.parametrize("what", ["ignores", "stopped"])
def test_what_does_not_heed_the_end_of_its_job(mom: Mom, what: str) -> None:
    """As on walltime and qdel: TERM, and KILL when `kill_delay` is over."""
    job, shell = armed(mom, "busybox", b"trap '' TERM; while :; do sleep 1; done" if what == "ignores" else b"")
    if what == "stopped":
        os.kill(qemu(job), signal.SIGSTOP)
    os.killpg(shell.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        shell.wait(2)
    kill_session(shell.pid)
    shell.wait()
    assert ended(mom, job, 271) == []


@pytest.mark.parametrize("heeds", [True, False])
def test_how_a_guest_is_ended(mom: Mom, heeds: bool) -> None:
    text = disk_template("generic", LAYOUT) if heeds else of("busybox")
    text = text.replace("</vbconfig>", f"<vbshutdown seconds='{60 if heeds else 2}'/></vbconfig>")
    with queue_of(text, BUTTON if heeds else SERVANT) as queue:
        job = mom.accept(b"#!/bin/sh\nexit 3\n", queue=queue)
        ran = mom.play(job)
    assert (ran.verdict, ran.status, ran.epilogue, ran.errors) == ("run", 3, 0, b""), ran.errors.decode()
    match = re.search(r"guest (vmbatch-\S+) of alice is ready", Path(f"/var/log/vmbatch/{job.id}.log").read_text())
    assert match
    how = re.findall(r"shutting down, reason=(\w+)", Path(f"/var/log/libvirt/qemu/{match[1]}.log").read_text())
    assert how == ["shutdown" if heeds else "destroyed"]


def test_a_suspicious_guest_is_kept(mom: Mom) -> None:
    job, shell = armed(mom, "disk", b"echo evidence >~/left; sync")
    said = subprocess.run([VMBATCH, "keep", job.id, "--for", "1h", "--why", "mines coins"], capture_output=True, text=True,
                          check=True).stdout
    spool = Path(said.strip())
    assert shell.wait() == 253
    assert mom.start_epilogue(job, 253).wait() == 0
    assert job.errors.decode().splitlines() == [ENDED]
    kept = subprocess.run([VMBATCH, "kept"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(rf"{job.id} of alice until .* in {spool}: mines coins\n  disk vda from /\S+: modified .*\n", kept), kept
    files = [path for path in spool.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"vda.qcow2", "console.log", "domain.xml"}
    assert {(path.stat().st_mode & 0o777, path.stat().st_uid) for path in files} == {(0o600, 0)}
    assert not (spool / "keys").exists()
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", spool / "vda.qcow2"], check=True)
    assert virt.ours(URI) == []
    refused = subprocess.run([VMBATCH, "keep", job.id], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, f"vmbatch: job {job.id} has no guest on this node [VB914]\n")
    assert trace("--job", job.id).splitlines()[-1].endswith(": mines coins")
    subprocess.run([VMBATCH, "sweep", "--release", job.id], check=True, stdout=subprocess.DEVNULL)
    assert not spool.exists()
    mom.forget(job)
