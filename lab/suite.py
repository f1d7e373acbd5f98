"""The whole suite, folder by folder, in two nodes at the same time, as a guest under emulation takes one processor; what often
waits goes into a third one beside them.
"""

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
from .xen import parts as outer

LONG = (
    "xen", "guest/test_context_matrix.py", "guest/test_examples.py", "guest/test_disks.py", "guest/test_run.py", "guestdisk",
    "guest/test_resume.py", "guest/test_hostile_guest.py", "guest/test_pool.py", "guest/test_reuse.py",
    "guest/test_start_and_end.py", "guest/test_pool_matrix.py", "guest/test_disk_context.py",
    "nodes", "load", "image", "install", "guest/test_console_shell.py", "pure", "hostile_user", "rootssh",
)
"""Parts that take long are begun first, so that no node has one left when the others are done."""
WAITING = ("slurm", "crash", "torque", "kit", "guest/test_failures.py", "guest/test_shares.py", "guest/test_lost_guests.py")
"""Parts that leave their processor idle for a third of their time and more: they wait for hooks, limits, other machines."""
_ENDING_SECONDS = 10.0
_TESTS = place.CLONE / "tests"
_COUNT = re.compile(r"(\d+) ([a-z]+)")
_show = threading.Lock()
Parts = collections.deque[str]


class Done(NamedTuple):
    """pytest's exit status for a part, or 1 if only something was left; its last line, seconds."""

    part: str
    status: int
    verdict: str
    seconds: float


def nodes() -> tuple[str, str, str]:
    """Their labs' names; the first is the clone's own, the last is that for parts that wait."""
    return place.name(), f"{place.name()}-2", f"{place.name()}-3"


def parts() -> list[str]:
    """All folders with tests, below `tests`; of the one that boots most guests each file is a part."""
    folders = sorted({path.parent.relative_to(_TESTS).parts[0] for path in _TESTS.glob("*/**/test_*.py")} - {"guest"})
    files = [f"guest/{path.name}" for path in sorted((_TESTS / "guest").glob("test_*.py"))]
    return sorted([*files, *folders], key=lambda part: LONG.index(part) if part in LONG else len(LONG))


def run() -> int:
    """0, or the exit status of the first part that failed; all parts run. What a part says is shown when it is done."""
    _build()
    began = time.monotonic()
    working: Parts = collections.deque(part for part in parts() if part not in WAITING)
    waiting: Parts = collections.deque(WAITING)
    *two, third = nodes()
    takes = {**dict.fromkeys(two, (working, waiting)), third: (waiting,)}
    with ThreadPoolExecutor(len(takes)) as workers:
        try:
            done = [one for of_node in workers.map(_work, takes, takes.values()) for one in of_node]
        finally:
            working.clear()
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


def _build() -> None:
    """All that machines boot from, as the nodes have no way to Debian's packages."""
    with ThreadPoolExecutor(2) as builders:
        guests, xen = builders.submit(guest.directories), builders.submit(outer.directories)
        guests.result()
        xen.result()


def _work(node: str, queues: tuple[Parts, ...]) -> list[Done]:
    """Runs the first queue's parts, then the next one's."""
    done: list[Done] = []
    left: set[str] = set()
    for queue in queues:
        while part := _next(queue):
            one, left = _run(node, part, left)
            done.append(one)
    return done


def _next(queue: Parts) -> str | None:
    try:
        return queue.popleft()
    except IndexError:
        return None


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
