"""Tests that kill the machine they run in, for test_the_machine.py; pytest does not collect them by itself."""

import os
import signal
from pathlib import Path

from lab.xen import machine

from .conftest import Dom0


def kill_once(name: str) -> None:
    """QEMU, if this is the first run of the test."""
    died = Path(os.environ["VMBATCH_DEATHS"], name)
    if not died.exists():
        died.touch()
        pid = machine.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def test_in_which_it_dies_first(dom0: Dom0) -> None:
    kill_once("first")
    assert dom0.run("cat", "/sys/hypervisor/type") == "xen\n"


def test_in_the_machine_booted_again(dom0: Dom0) -> None:
    assert dom0.run("cat", "/sys/hypervisor/type") == "xen\n"


def test_in_which_it_dies_again(dom0: Dom0) -> None:
    kill_once("second")
    dom0.run("true")
