"""The whole suite: its two halves in a node each, at the same time, as a guest under emulation takes one processor."""

import os
import subprocess
import sys
import tempfile

from . import guest, place

HALVES = ("guests", "others")
"""The first half's output is shown as it comes, the other's behind it."""


def run() -> int:
    """pytest's exit status, or that of the first half that failed."""
    guest.directories()
    first = subprocess.Popen(_command(HALVES[0]))
    with tempfile.TemporaryFile() as kept:
        other = subprocess.Popen(_command(HALVES[1]), stdout=kept, stderr=subprocess.STDOUT,
                                 env={**os.environ, "VMBATCH_LAB": f"{place.name()}-2"})
        status = first.wait()
        print(f"\n== the other half of the suite, in a node of its own: {HALVES[1]}", flush=True)
        other.wait()
        kept.seek(0)
        sys.stdout.buffer.write(kept.read())
        sys.stdout.flush()
    return status or other.returncode


def _command(half: str) -> list[str]:
    return [sys.executable, "-m", "lab", "exec", "--", sys.executable, "-m", "pytest", f"--half={half}"]
