"""A machine that dies is not a test that fails: QEMU is killed under tests of another session, which share this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.xen import machine

pytestmark = pytest.mark.xen

DYING = Path(__file__).with_name("dying.py")


@pytest.mark.usefixtures("dom0")
def test_a_machine_that_dies_is_booted_again_once(tmp_path: Path) -> None:
    before = machine.pid()
    session = [sys.executable, "-m", "pytest", "--no-header", "-p", "no:cacheprovider", str(DYING)]
    env = {**os.environ, "VMBATCH_DEATHS": str(tmp_path)}
    done = subprocess.run(session, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout, "the test in which it died first passed when it was run again"
    assert "the Xen machine died and was booted again: the Xen machine's QEMU has ended" in done.stdout
    assert "not a failing test, but the machine has died: the Xen machine's QEMU has ended" in done.stdout
    assert len(list(tmp_path.iterdir())) == 2
    assert machine.pid() != before
