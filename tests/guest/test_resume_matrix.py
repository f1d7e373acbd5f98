"""Guests that go on from a saved one, of every kind, and with what a template can have beside."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.mom import Ended, Mom

from . import matrix
from .conftest import CONFIG
from .disks import DOMAINS
from .start import NFS_HOMES, log, look_at_home, look_at_programs, vmbatch
from .test_context_matrix import JOB, archive, check, configured
from .test_shares import shares

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]


@contextmanager
def saved(text: str) -> Iterator[None]:
    """A guest of the queue `matrix` is saved."""
    with configured(text.replace("<vbhypervisor>", "<vbstart>RESUME</vbstart><vbhypervisor>", 1)):
        done = vmbatch("save", str(DOMAINS / "matrix.xml"))
        assert done.returncode == 0, done.stderr
        yield
    assert vmbatch("image", "prune").returncode == 0


def run(mom: Mom, script: bytes) -> Ended:
    """The job in a guest that was not booted for it."""
    ended = mom.run(script, queue="matrix")
    assert ended.verdict == "run", ended.errors.decode()
    assert "the guest is booted" not in log(ended)
    return ended


@pytest.mark.parametrize(("guest", "network"), [
    ("busybox", "static"), ("sysv", "dhcp"), ("sysv", "static"), ("systemd", "static")])
def test_cell(mom: Mom, guest: str, network: str) -> None:
    """A job cannot tell it from one that was booted for it."""
    with saved(matrix.template(guest, "CDROM", network)):
        check(run(mom, JOB), network)


def test_homes_on_nfs(mom: Mom) -> None:
    with saved(shares(matrix.template("systemd", "CDROM", "dhcp"), NFS_HOMES)):
        look_at_home(lambda script: run(mom, script))


def test_messages_by_a_port_and_life_signs(mom: Mom) -> None:
    """The port's other end is another one for each guest."""
    text = matrix.template("busybox", "CDROM", "dhcp", config="<vbmessages>CHANNEL</vbmessages><vbheartbeat seconds='12'/>")
    with saved(text):
        for status, seconds in ((7, 16), (8, 0)):
            ended = run(mom, b"#!/bin/sh\ngrep -c vmbatch /proc/mounts\nsleep %d\nexit %d\n" % (seconds, status))
            assert (ended.status, ended.output) == (status, b"1\n"), "the medium, and no share"


def test_the_site_s_programs(mom: Mom) -> None:
    with saved(matrix.template("busybox", "CDROM", "dhcp")):
        look_at_programs(lambda script: run(mom, script))


@pytest.mark.parametrize("device", ["hvc0", "ttyS1"])
def test_the_job_by_a_console(mom: Mom, device: str) -> None:
    """Without network and share: the other end of the console and of the port is another one for each guest."""
    config = f"<vbshell device='{device}'>CONSOLE</vbshell><vbmessages>CHANNEL</vbmessages>"
    text = matrix.template("busybox", "CDROM", "dhcp", config=config)
    with saved(re.sub(r"<interface.*?</interface>", "", text, flags=re.DOTALL)):
        for status in (7, 8):
            ended = run(mom, b"#!/bin/sh\nid -un; ls /sys/class/net; exit %d\n" % status)
            assert (ended.status, ended.output) == (status, b"alice\nlo\n"), ended.errors


def test_disks_that_are_kept(mom: Mom, tmp_path: Path) -> None:
    """They are whole though the saved guest is gone, on whose disks they lie."""
    config = "<vbrequests><vbrequest name='vbkeep' max='2h'/></vbrequests>"
    script = b"#!/bin/sh\necho 'the evidence' of alice >~/left; sync; exit 7\n"
    with saved(matrix.template("busybox", "CDROM", "dhcp", config=config)):
        CONFIG.write_text(f"{CONFIG.read_text()}\n[requests]\nkeep = 1\n")
        ended = mom.play(mom.accept(script, queue="matrix", other="vbkeep=1h"))
        assert (ended.status, "the guest is booted" in log(ended)) == (7, False), ended.errors
    assert "saved" not in vmbatch("image", "list").stdout
    [spool] = Path("/var/lib/vmbatch/spool").glob(f"{ended.job.file_id}.*")
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", spool / "vda.resumed.qcow2", raw], check=True)
    assert b"the evidence of alice\n" in raw.read_bytes()
    assert vmbatch("sweep", "--release", ended.job.id).stdout == f"released what was kept of job {ended.job.id} of alice\n"
