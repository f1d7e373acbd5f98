"""The whole suite, folder by folder, in two nodes at the same time: a guest under emulation takes one processor."""

import collections
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from . import guest, place

LONG = ("xen", "slurm", "crash", "kit", "guest", "torque", "hostile_user", "image", "guestdisk", "nodes", "signature", "transfer",
        "shell", "rootssh", "load", "pure")
"""Folders that take long are begun first, so that no node has one left when the other is done."""
_TESTS = place.CLONE / "tests"
_COUNT = re.compile(r"(\d+) ([a-z]+)")
_show = threading.Lock()


class Done(NamedTuple):
    """pytest's exit status for a part, its last line, seconds."""

    part: str
    status: int
    verdict: str
    seconds: float


def parts() -> list[str]:
    """All folders with tests, below `tests`; of the one that boots most guests each file is a part."""
    folders = sorted({path.parent.relative_to(_TESTS).parts[0] for path in _TESTS.glob("*/**/test_*.py")})
    folders.sort(key=lambda folder: LONG.index(folder) if folder in LONG else len(LONG))
    files = [f"guest/{path.name}" for path in sorted((_TESTS / "guest").glob("test_*.py"))]
    return [part for folder in folders for part in (files if folder == "guest" else [folder])]


def run() -> int:
    """0, or pytest's exit status for the first part that failed; all parts run. What a part says is shown when it is done."""
    guest.directories()
    began, waiting = time.monotonic(), collections.deque(parts())
    with ThreadPoolExecutor(2) as nodes:
        names = (place.name(), f"{place.name()}-2")
        try:
            done = [one for of_node in nodes.map(lambda name: _work(name, waiting), names) for one in of_node]
        finally:
            waiting.clear()
    print("\n== the whole suite")
    total: dict[str, int] = {}
    for one in sorted(done, key=lambda one: -one.seconds):
        print(f"{one.seconds:6.0f} s  {one.part:32}  {one.verdict}")
        for number, what in _COUNT.findall(one.verdict.partition(" in ")[0]):
            total[what] = total.get(what, 0) + int(number)
    told = ", ".join(f"{number} {what}" for what, number in sorted(total.items()))
    print(f"{time.monotonic() - began:6.0f} s  {told}")
    return next((one.status for one in done if one.status), 0)


def _work(node: str, waiting: "collections.deque[str]") -> list[Done]:
    done = []
    while waiting:
        try:
            part = waiting.popleft()
        except IndexError:
            break
        done.append(_run(node, part))
    return done


def _run(node: str, part: str) -> Done:
    began = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", "--no-header", f"tests/{part}"]
    ended = subprocess.run([sys.executable, "-m", "lab", "exec", "--", *pytest], env={**os.environ, "VMBATCH_LAB": node},
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = ended.stdout.decode(errors="replace").rstrip()
    with _show:
        print(f"\n== tests/{part}\n{text}", flush=True)
    return Done(part, ended.returncode, text.rpartition("\n")[2].strip("= "), time.monotonic() - began)
