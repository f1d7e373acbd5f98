"""Hooks, daemons and guests that die, and what is left of them in dom0: nothing."""

import time

import pytest

from .conftest import OWN, Dom0
from .template import MEDIUM, ROOT, template

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

JOB = "#!/bin/sh\nid -un\n"


def started(dom0: Dom0, until: str, **about: str) -> str:
    """A job whose prologue has come so far, as its log shows."""
    job = dom0.accept(JOB, **about)
    dom0.call("start_prologue", job=job)
    assert dom0.call("wait_for", path=f"/var/log/vmbatch/{job}.log", pattern=until), dom0.call("log", job=job)
    return job


def test_kill_9_of_a_prologue_whose_guest_boots(dom0: Dom0) -> None:
    dom0.call("write", path=OWN, text=template(devices=ROOT + MEDIUM, disk=True))
    job = started(dom0, "phase start [0-9]")
    dom0.call("kill_prologue", job=job, session=False)
    left = dom0.call("left")
    assert any(line.startswith("xl list: vmbatch-") for line in left), left
    said = dom0.run("/srv/vmbatch/venv/bin/vmbatch", "sweep")
    assert f"released job {job} of alice: dead, its prologue ended before the guest was ready" in said
    dom0.call("forget", job=job)


def test_kill_9_while_libvirt_creates_the_domain(dom0: Dom0) -> None:
    """The request is still in libvirtd's hands; whoever releases looks a little longer."""
    job = started(dom0, "phase context [0-9]", queue="busybox")
    time.sleep(0.5)
    dom0.call("kill_prologue", job=job, session=True)
    assert dom0.call("epilogue", job=job) == 0, dom0.call("log", job=job)
    dom0.call("forget", job=job)


def test_libvirtd_restarted_in_the_middle_of_a_job(dom0: Dom0) -> None:
    job = started(dom0, "is ready at", queue="busybox")
    assert dom0.call("finish_prologue", job=job) == "run"
    dom0.run("pkill", "-x", "-KILL", "libvirtd")
    dom0.run("libvirtd", "-d")
    assert dom0.call("shell", job=job) == 0
    assert dom0.call("streams", job=job)[0] == "alice\n"
    assert dom0.call("epilogue", job=job) == 0, dom0.call("log", job=job)
    dom0.call("forget", job=job)


def test_a_domain_that_libvirt_has_forgotten(dom0: Dom0) -> None:
    """libvirtd dies, and its memory of the guest with it: the uuid is the mark by which Xen's domain is known as ours."""
    job = started(dom0, "is ready at", queue="busybox")
    assert dom0.call("finish_prologue", job=job) == "run"
    dom0.run("pkill", "-x", "-KILL", "libvirtd")
    dom0.run("sh", "-c", "rm -f /run/libvirt/libxl/vmbatch-*.xml; libvirtd -d")
    assert "vmbatch-" not in dom0.run("virsh", "-q", "-c", "xen:///system", "list", "--all")
    assert "vmbatch-" in dom0.run("xl", "list")
    assert dom0.call("epilogue", job=job) == 0, dom0.call("log", job=job)
    dom0.call("forget", job=job)


def test_a_guest_whose_kernel_dies(dom0: Dom0) -> None:
    ended = dom0.play(JOB, template(line="lab.fault=panic"))
    assert ended.verdict == "requeue"
    assert "Kernel panic - not syncing: Attempted to kill init!" in ended.errors, ended.told()
