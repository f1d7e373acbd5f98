"""Guests that wait for jobs, of every kind, and with all that a template can have beside."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.mom import Ended, Mom

from . import matrix
from .conftest import CONFIG
from .start import NFS_HOMES, log, look_at_home, look_at_programs, vmbatch, waiting
from .test_context_matrix import JOB, archive, check, configured
from .test_pool import refill
from .test_shares import shares, software

__all__ = ["archive", "software"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]

VIRTIOFS = 'directory = "/srv/vmbatch/share"\ntype = "virtiofs"\noptions = ""'


@contextmanager
def pooled(text: str, share: str = "") -> Iterator[None]:
    """One guest of the queue `matrix` waits."""
    text = text.replace("<vbhypervisor>", "<vbstart lifetime='1h'>POOL</vbstart><vbhypervisor>", 1)
    with configured(text):
        if share:
            CONFIG.write_text(re.sub(r"\[share\].*", f"[share]\n{share}\n", CONFIG.read_text(), flags=re.DOTALL))
        try:
            refill()
            assert len(waiting()) == 1
            yield
        finally:
            assert vmbatch("pool", "drain").returncode == 0


def run(mom: Mom, script: bytes) -> Ended:
    """The job in the guest that waits."""
    ended = mom.run(script, queue="matrix")
    assert ended.verdict == "run", ended.errors.decode()
    assert "no guest that waits is taken" not in log(ended)
    assert waiting() == []
    return ended


@pytest.mark.parametrize("network", ["dhcp", "static"])
@pytest.mark.parametrize("guest", ["busybox", "sysv", "systemd"])
def test_cell(mom: Mom, guest: str, network: str) -> None:
    """A job cannot tell it from one that was booted for it."""
    with pooled(matrix.template(guest, "CDROM", network)):
        check(run(mom, JOB), network)


def test_homes_on_nfs(mom: Mom) -> None:
    with pooled(shares(matrix.template("systemd", "CDROM", "dhcp"), NFS_HOMES)):
        ended = look_at_home(lambda script: run(mom, script))
    assert "login at" not in log(ended), "the first attempt was good"


def test_directories_of_the_node(mom: Mom, software: Path) -> None:
    text = matrix.template("systemd", "CDROM", "dhcp")
    with pooled(shares(text, f"<vbshare type='virtiofs' source='{software}' target='/opt/software'/>")):
        ended = run(mom, b"#!/bin/sh\ncat /opt/software/tool; echo x 2>/dev/null > /opt/software/new || echo refused\n")
    assert (ended.status, ended.output, ended.errors) == (0, b"of the node\nrefused\n", b"")


def test_a_share_without_a_server(mom: Mom) -> None:
    with pooled(matrix.template("systemd", "CDROM", "dhcp"), VIRTIOFS):
        ended = run(mom, b"#!/bin/sh\ngrep ' /mnt/vmbatch ' /proc/mounts | cut -d ' ' -f 1-3\n")
    assert ended.output == b"vmbatch /mnt/vmbatch virtiofs\n"


def test_one_that_is_watched(mom: Mom) -> None:
    """From its job on: nobody misses the life signs of one that waits."""
    text = matrix.template("busybox", "CDROM", "dhcp", config="<vbheartbeat seconds='12'/>")
    with pooled(text):
        ended = run(mom, b"#!/bin/sh\nsleep 20\nexit 7\n")
    assert ended.status == 7, ended.errors.decode()


def test_the_site_s_programs(mom: Mom) -> None:
    with pooled(matrix.template("busybox", "CDROM", "dhcp")):
        look_at_programs(lambda script: run(mom, script))
