"""A job that is over while its guest is being prepared: the prologue leaves by itself, whatever it is at."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import nest as base
from lab import place
from lab.process import run
from lab.torque import Torque

from .pool import Worker
from .stage import SOCKET, Stage
from .test_events import begins, running, settle

pytestmark = pytest.mark.torque
WEB = SOCKET.with_name("web")
SLOW = "#!/bin/sh\necho $$ >> /run/fakeguest/slow\nexec sleep 60\n"
CHECKED = """    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='/etc/vmbatch/small.raw' copy_method='copy'/>
      <vbcheckhash hashfunction='/usr/bin/cksum' hashvalue='%s'/>
      <target dev='vdf' bus='virtio'/>
    </disk>
"""
DOWNLOAD = """    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='http://127.0.0.1:%s/big.raw' copy_method='cow'/>
      <target dev='vdf' bus='virtio'/>
    </disk>
"""


@contextmanager
def slow(program: str) -> Iterator[None]:
    """In the place of a program, one that does not end."""
    fake = SOCKET.with_name("slow.sh")
    fake.write_text(SLOW)
    fake.chmod(0o755)
    SOCKET.with_name("slow").unlink(missing_ok=True)
    SOCKET.with_name("slow").touch()
    SOCKET.with_name("slow").chmod(0o666)
    run(["mount", "--bind", fake, program])
    try:
        yield
    finally:
        run(["umount", program])


def is_slow() -> bool:
    """Whether it has been started."""
    return bool(SOCKET.with_name("slow").read_bytes())


def ended_there(stage: Stage, torque: Torque, job: str) -> float:
    """qdel now; seconds from the epilogue's begin to the prologue's end."""
    begin = time.monotonic()
    torque.qdel(job)
    prologue = Path(f"/proc/{torque.prologues()[torque.latest(job).number]}/exe")

    def over() -> bool:
        try:
            os.readlink(prologue)
        except OSError:
            return True
        return False

    assert torque.run(20, over), stage.hanging(torque)
    seconds = time.monotonic() - begin
    settle(stage, torque)
    assert "does not end; killing it" not in stage.log(job)
    assert torque.ended[job].state == "C"
    return seconds


def at_a_program(stage: Stage, program: str) -> float:
    torque = stage.torque(kill_delay=0.0)
    if program == "/usr/bin/cksum":
        config = Path("/etc/vmbatch/vmbatch.conf")
        config.write_text(config.read_text().replace("[images]\n", f'[images]\nhash_programs = ["{program}"]\n'))
        stage.template(disk=CHECKED % ("0" * 128))
    with slow(program):
        job = stage.submit(torque)
        assert torque.run(20, is_slow), stage.hanging(torque)
        return ended_there(stage, torque, job)


@pytest.mark.parametrize("program", ["/usr/bin/cp", "/usr/bin/qemu-img", "/usr/bin/ssh-keygen", "/usr/bin/cksum"])
def test_at_a_program(nest: Worker, program: str) -> None:
    print(f"{program}: {nest.play(at_a_program, program=program):.2f} s")


def at_the_sites_hook(stage: Stage) -> float:
    """It is left to its own end, as mom leaves it."""
    stage.hook("prologue.site", "#!/bin/sh\necho $$ > /run/fakeguest/site\nexec sleep 1.5\n")
    torque = stage.torque(kill_delay=0.0)
    job = stage.submit(torque)
    assert torque.run(20, lambda: SOCKET.with_name("site").exists())
    begin = time.monotonic()
    torque.qdel(job)
    assert torque.run(20), stage.hanging(torque)
    seconds = time.monotonic() - begin
    pid = int(SOCKET.with_name("site").read_text())
    SOCKET.with_name("site").unlink()
    assert torque.run(20, lambda: pid not in stage.node.processes())
    settle(stage, torque)
    assert "does not end; killing it" not in stage.log(job)
    return seconds


def test_at_the_sites_hook(nest: Worker) -> None:
    print(f"site's hook: {nest.play(at_the_sites_hook):.2f} s")


def at_a_guest(stage: Stage, nature: str) -> float:
    torque = stage.torque(kill_delay=0.0)
    stage.template(nature)
    job = stage.submit(torque)
    assert stage.at(torque, job, "phase start" if nature == "silent" else "phase boot"), stage.told(torque)
    return ended_there(stage, torque, job)


@pytest.mark.parametrize("nature", ["silent", "mute"])
def test_at_a_guest(nest: Worker, nature: str) -> None:
    """One that never announces itself, and one that lets nobody in."""
    print(f"{nature} guest: {nest.play(at_a_guest, nature=nature):.2f} s")


def at_a_download(stage: Stage, waiting: bool) -> float:
    """Of a slow server; `waiting`: for another job that downloads the same image."""
    WEB.mkdir(exist_ok=True)
    (WEB / "big.raw").write_bytes(bytes(4 << 20))
    server = subprocess.Popen(
        [sys.executable, "-m", "lab.imageserver", "--directory", WEB, "--rate", "20000"],
        stdout=subprocess.PIPE, cwd=place.CLONE)
    assert server.stdout is not None
    stage.template(disk=DOWNLOAD % int(server.stdout.readline()))
    stage.node.daemons.add(server.pid)
    torque = stage.torque(kill_delay=0.0)
    try:
        jobs = [stage.submit(torque)]
        parts = Path("/var/lib/vmbatch/store")
        assert torque.run(20, lambda: any(parts.rglob("*.lock"))), stage.hanging(torque)
        torque.run(0.5, lambda: False)
        if waiting:
            jobs.append(stage.submit(torque))
            torque.run(1.0, lambda: False)
        begin = time.monotonic()
        torque.qdel(jobs[-1])
        assert torque.run(20, lambda: jobs[-1] in torque.ended and not stage.node.processes().get(torque.prologues()[len(jobs)]))
        seconds = time.monotonic() - begin
        for job in jobs[:-1]:
            torque.qdel(job)
        settle(stage, torque)
    finally:
        stage.node.daemons.discard(server.pid)
        server.kill()
        server.wait()
    assert "does not end; killing it" not in "".join(map(stage.log, jobs))
    return seconds


@pytest.mark.parametrize("waiting", [False, True])
def test_at_a_download(nest: Worker, waiting: bool) -> None:
    print(f"download, waiting {waiting}: {nest.play(at_a_download, waiting=waiting):.2f} s")


def at_a_disk_of_another_job(stage: Stage) -> float:
    """create='once': the first job fills it."""
    torque = stage.torque(kill_delay=0.0)
    stage.template(disk=base.ONCE)
    first = running(stage, torque)
    second = stage.submit(torque)
    torque.run(0.5, lambda: False)
    begin = time.monotonic()
    torque.qdel(second)
    assert torque.run(20, lambda: second in torque.ended and not stage.node.processes().get(torque.prologues()[2]))
    seconds = time.monotonic() - begin
    torque.qdel(first)
    settle(stage, torque)
    assert begins(stage) == [1]
    return seconds


def test_at_a_disk_of_another_job(nest: Worker) -> None:
    print(f"a disk of another job: {nest.play(at_a_disk_of_another_job):.2f} s")
