"""Hooks load what every job of theirs needs, and no more: half of what VmBatch adds to a guest's start is loading modules."""

import subprocess
import sys

import pytest

from .imports import ROOT

RARE = {"asyncio", "cryptography", "http", "importlib.resources", "multiprocessing", "paramiko", "pathlib", "pycdlib", "requests",
        "ssl", "tarfile", "vmbatch.bootloader", "vmbatch.cli", "vmbatch.doctor", "vmbatch.guestdisk", "yaml", "zstandard"}
"""What some jobs need."""
OF_STARTS = {"_hashlib", "lxml", "secrets", "vmbatch.boot", "vmbatch.facts", "vmbatch.lifecycle", "vmbatch.plan",
             "vmbatch.template"}


@pytest.mark.parametrize(("hook", "not_wanted"), [
    ("vmbatch.lifecycle", RARE), ("vmbatch.ending", RARE | OF_STARTS),
])
def test_a_hook_loads_little(hook: str, not_wanted: set[str]) -> None:
    code = f"import sys; import vmbatch.hooked, {hook}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path += {[*sys.path[1:]]!r}; {code}"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"msgspec", "libvirt", hook} <= loaded
    assert loaded & not_wanted == set()
