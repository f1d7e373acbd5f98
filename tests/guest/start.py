"""Queues whose guests do not start by a boot for their job: they go on from a saved one, or wait; and what is seen of them."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import leftover
from lab.mom import Ended
from vmbatch.units import Deadline

from .conftest import CONFIG, site_scripts
from .disks import DOMAINS

VMBATCH = "/srv/vmbatch/venv/bin/vmbatch"


def vmbatch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([VMBATCH, *arguments], capture_output=True, text=True, check=False)


def waiting() -> list[dict[str, str]]:
    """The guests that wait."""
    done = vmbatch("pool", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def queue(name: str, like: str, tag: str, change: tuple[str, str] = ("", "")) -> Iterator[Path]:
    """A queue whose guests are those of another one, but start as its `tag` says; no guest of its template is left."""
    template = DOMAINS / f"{name}.xml"
    text = (DOMAINS / f"{like}.xml").read_text().replace("<vbhypervisor>", f"{tag}<vbhypervisor>", 1)
    template.write_text(text.replace(*change) if change[0] else text)
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[queues]\n", f'[queues]\n{name} = "{name}.xml"\n'))
    try:
        yield template
    finally:
        CONFIG.write_text(before)
        template.unlink()
        assert vmbatch("pool", "drain").returncode == 0
        assert waiting() == []
        vmbatch("image", "prune")  # saved guests that have no template any more


def interrupted(number: int, *arguments: str) -> None:
    """A call of vmbatch gets a signal while its guest boots: it says so, and nothing is left of the guest."""
    running = subprocess.Popen([VMBATCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = Deadline(60)
    while not any(line.startswith("domain ") for line in leftover.found(sweep=str)):
        assert running.poll() is None, running.communicate()
        assert deadline.left() > 0
        time.sleep(0.05)
    running.send_signal(number)
    said = running.communicate(timeout=60)
    assert (running.returncode, *said) == (130, "", "vmbatch: interrupted\n")
    assert leftover.found() == []


NFS_HOMES = "<vbshare type='nfs4' source='10.77.0.1:/home' target='/home'/>"


def look_at_home(run: Callable[[bytes], Ended]) -> Ended:
    """A job in a guest that mounts the node's homes finds there what is its user's, and leaves no key."""
    mine = Path(f"/home/alice/{os.urandom(4).hex()}")
    mine.write_text("at home\n")
    os.chown(mine, 1500, 1500)
    ended = run(f"#!/bin/sh\ncat ~/{mine.name}; grep -c ' /home nfs4 ' /proc/mounts\n".encode())
    mine.unlink()
    assert (ended.status, ended.output) == (0, b"at home\n1\n")
    assert not Path("/home/alice/.ssh").exists(), "the job's key was elsewhere"
    return ended


def look_at_programs(run: Callable[[bytes], Ended]) -> None:
    """The site's programs of today are run in the guest of a job, though the guest was there before them."""
    with site_scripts() as site:
        for stage, text in (("prolog.d", 'echo "prolog $VMBATCH_USER" >/site'), ("before.d", "echo before $(id -un)"),
                            ("epilog.d", 'echo "epilog $VMBATCH_JOB" >>/site')):
            (site / stage).mkdir(exist_ok=True)
            (site / stage / "1").write_text(f"#!/bin/sh\n{text}\n")
        ended = run(b"#!/bin/sh\ncat /site\n")
    assert ended.output.decode() == f"before alice\nprolog alice\nepilog {ended.job.id}\n"


def log(ended: Ended) -> str:
    """What the node has written of a job."""
    return Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()


def said(output: bytes) -> dict[str, str]:
    """A job's output, whose lines are a name and a value."""
    return dict(line.partition(" ")[::2] for line in output.decode().splitlines())
