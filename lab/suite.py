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
_ENDING_SECONDS = 10.0
_TESTS = place.CLONE / "tests"
_COUNT = re.compile(r"(\d+) ([a-z]+)")
_show = threading.Lock()


class Done(NamedTuple):
    """pytest's exit status for a part, or 1 if only something was left; its last line, seconds."""

    part: str
    status: int
    verdict: str
    seconds: float


def nodes() -> tuple[str, str]:
    """Their labs' names; the first is the clone's own."""
    return place.name(), f"{place.name()}-2"


def parts() -> list[str]:
    """All folders with tests, below `tests`; of the one that boots most guests each file is a part."""
    folders = sorted({path.parent.relative_to(_TESTS).parts[0] for path in _TESTS.glob("*/**/test_*.py")})
    folders.sort(key=lambda folder: LONG.index(folder) if folder in LONG else len(LONG))
    files = [f"guest/{path.name}" for path in sorted((_TESTS / "guest").glob("test_*.py"))]
    return [part for folder in folders for part in (files if folder == "guest" else [folder])]


def run() -> int:
    """0, or the exit status of the first part that failed; all parts run. What a part says is shown when it is done."""
    guest.directories()
    began, waiting = time.monotonic(), collections.deque(parts())
    with ThreadPoolExecutor(2) as workers:
        try:
            done = [one for of_node in workers.map(lambda name: _work(name, waiting), nodes()) for one in of_node]
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
    done: list[Done] = []
    left: set[str] = set()
    while waiting:
        try:
            part = waiting.popleft()
        except IndexError:
            break
        one, left = _run(node, part, left)
        done.append(one)
    return done


def _run(node: str, part: str, before: set[str]) -> tuple[Done, set[str]]:
    """How the part went, and what is left of jobs on the node; what was left before is held against an earlier part."""
    began = time.monotonic()
    pytest = _in_node(node, "pytest", "--no-header", "--durations=10", "--durations-min=8", f"tests/{part}")
    left = _left(node, before)
    text = pytest.stdout.decode(errors="replace").rstrip()
    verdict, status = text.rpartition("\n")[2].strip("= "), pytest.returncode
    if new := sorted(left - before):
        text = "\n".join((text, "left on the node by these tests:", *(f"  {line}" for line in new)))
        verdict, status = f"{verdict}; left on the node: {len(new)}", status or 1
    with _show:
        print(f"\n== tests/{part}\n{text}", flush=True)
    return Done(part, status, verdict, time.monotonic() - began), left


def _left(node: str, before: set[str]) -> set[str]:
    """What jobs have left on the node; what is just ending may end."""
    over = time.monotonic() + _ENDING_SECONDS
    while True:
        left = set(filter(None, _in_node(node, "lab.leftover").stdout.decode(errors="replace").splitlines()))
        if left <= before or time.monotonic() > over:
            return left
        time.sleep(0.5)


def _in_node(node: str, module: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "lab", "exec", "--", sys.executable, "-m", module, *words]
    return subprocess.run(command, env={**os.environ, "VMBATCH_LAB": node}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
