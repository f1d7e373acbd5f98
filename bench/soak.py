"""Jobs with mishaps of every kind, many at once, and what is left after them: `python -m bench.soak`, in the lab's node.

First jobs with played guests, in a node of their own (lab/nest.py), then jobs with real ones. Prologues, epilogues, shells,
helpers and libvirtd are killed at random moments; epilogues come early, twice, half or not at all. Then nothing may be left.
Exit status 1 if something is.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab import leftover, libvirtd, mom, nest, place, trace
from lab.remains import QuietNode

SCRIPT = b"#!/bin/sh\nexit 0\n"
FAKE = Path("/run/fakeguest/socket")
MISHAPS = {
    "none": 6, "prologue killed": 2, "prologue's session killed": 2, "helper killed": 2, "shell killed": 2, "epilogue early": 2,
    "epilogue twice": 2, "epilogue killed": 2, "epilogue missing": 2, "started twice": 1,
}
"""With how often they are chosen."""
_HANG_SECONDS = 290.0
"""As mom: `$prologalarm` of 300 s, less her 10; a guest without its share is waited for until `timeouts.boot` is over."""
_ROOM = 'cores = 5\nstarts = 3\nwait = "2s"\n'
"""Less than there are jobs."""
Hook = subprocess.Popen[bytes]


@dataclass
class Report:
    """`ran`: jobs that ended as they should; `refused`: prologues by their exit status; `libvirtd`: how often it was killed."""

    jobs: int = 0
    seconds: float = 0.0
    mishaps: dict[str, int] = field(default_factory=dict)
    ran: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    libvirtd: int = 0
    sweeps: int = 0
    left: list[str] = field(default_factory=list)


class Soak:
    """`restart` kills libvirtd and starts it again, about every `pause` seconds."""

    def __init__(self, queue: str, jobs: int, at_once: int, seed: int, restart: Callable[[], None], pause: float) -> None:
        self.mom = mom.Mom()
        self.queue = queue
        self.jobs = jobs
        self.at_once = at_once
        self.seed = seed
        self.restart = restart
        self.pause = pause
        self.typical = 1.0
        self.mishaps: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.ran = 0
        self.wrong: list[str] = []
        self.report = Report()
        self._numbers = iter(range(jobs))
        self._lock = threading.Lock()

    def run(self) -> Report:
        """All jobs, to their ends; then a sweep, as its timer does it."""
        begin = time.monotonic()
        over = threading.Event()
        others = threading.Thread(target=self._told, args=(self._disturb, over))
        others.start()
        threads = [threading.Thread(target=self._told, args=(self._live,)) for _ in range(self.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        others.join()
        _sweep()
        self.report.seconds = time.monotonic() - begin
        self.report.jobs, self.report.ran = self.jobs, self.ran
        self.report.mishaps, self.report.refused = dict(self.mishaps), dict(self.refused)
        self.report.left = self.wrong
        return self.report

    def _told(self, act: Callable[..., None], *about: object) -> None:
        """What goes wrong with the soak itself is part of its report."""
        try:
            act(*about)
        except Exception as error:
            self.wrong.append(f"the soak itself failed: {error!r}")

    def _disturb(self, over: threading.Event) -> None:
        chance = random.Random(f"{self.seed} others")  # noqa: S311 (to be repeated)
        while not over.wait(self.pause * chance.uniform(0.2, 1.0)):
            if chance.random() < 0.5:
                self.restart()
                self.report.libvirtd += 1
            else:
                _sweep()
                self.report.sweeps += 1

    def _live(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            chance = random.Random(f"{self.seed} {number}")  # noqa: S311
            kind = chance.choices(list(MISHAPS), list(MISHAPS.values()))[0]
            user = "bob" if chance.random() < 0.1 else "alice"
            job = self.mom.accept(SCRIPT, user=user, queue=self.queue, variables={"JOB_SECONDS": "0.1"})
            ran = self._life(job, kind, chance)
            self.mom.forget(job)
            with self._lock:
                self.mishaps[kind] += 1
                self.ran += ran

    def _life(self, job: mom.Job, kind: str, chance: random.Random) -> bool:
        """A job with one mishap; whether it ended as it should."""
        begin = time.monotonic()
        hooks = [self.mom.start_prologue(job)]
        if kind in ("prologue killed", "prologue's session killed", "helper killed", "epilogue early", "started twice"):
            time.sleep(chance.random() * self.typical)
            hooks += self._beside(job, kind, hooks[0], chance)
        status, *_ = [self._end(hook, f"{kind}: job {job.id}") for hook in hooks]
        if kind == "none" and status == 0:
            self.typical += 0.1 * (time.monotonic() - begin - self.typical)
        if status:
            with self._lock:
                self.refused[f"{kind}: {status}"] += 1
        ended = -1
        if status == 0 and kind not in ("started twice", "epilogue early"):
            shell = self.mom.start_shell(job)
            if kind == "shell killed":
                time.sleep(chance.random() * 0.5)
                shell.kill()
            ended = self._end(shell, f"{kind}: job {job.id}")
        self._epilogues(job, kind, chance)
        return ended == 0

    def _beside(self, job: mom.Job, kind: str, prologue: Hook, chance: random.Random) -> list[Hook]:
        if kind == "prologue killed":
            prologue.kill()
        elif kind == "prologue's session killed":
            mom.kill_session(prologue.pid)
        elif kind == "helper killed":
            for pid in _session(prologue.pid)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif kind == "epilogue early":
            return [self.mom.start_epilogue(job)]
        else:
            return [self.mom.start_prologue(job)]
        return []

    def _epilogues(self, job: mom.Job, kind: str, chance: random.Random) -> None:
        if kind in ("epilogue missing", "epilogue early"):
            return
        hooks = [self.mom.start_epilogue(job)]
        if kind == "epilogue twice":
            hooks.append(self.mom.start_epilogue(job))
        elif kind == "epilogue killed":
            time.sleep(chance.random() * 0.3)
            mom.kill_session(hooks[0].pid)
        for hook in hooks:
            self._end(hook, f"epilogue, {kind}: job {job.id}")

    def _end(self, hook: Hook, what: str) -> int:
        try:
            return hook.wait(_HANG_SECONDS)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"hung: {what}: {hook.args!r}")
            mom.kill_session(hook.pid)
            return hook.wait()


def _session(leader: int) -> list[int]:
    """The other processes of a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            if int(words[3]) == leader and int(name) != leader:
                found.append(int(name))
    return found


def _sweep() -> None:
    subprocess.run([place.ENVIRONMENT / "bin/vmbatch", "sweep"], capture_output=True, check=False, timeout=_HANG_SECONDS)


def played(scratch: Path, jobs: int, seed: int) -> Report:
    """In this process's own namespaces."""
    nest.enter(scratch, nest.CONFIG.replace('cores = "none"\n', _ROOM), FAKE)
    Path("/etc/vmbatch/domains/crash.xml").write_text(nest.TEMPLATE.replace(nest.ONCE, ""))
    node = QuietNode()
    before = trace.found()
    running = node.daemons - {os.getpid()}

    def restart() -> None:
        nonlocal running
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        running = nest.start_daemons(["--socket", FAKE])
        node.daemons |= running

    report = Soak(nest.QUEUE, jobs, 8, seed, restart, 10.0).run()
    report.left += [*node.left(), *sorted(trace.found() - before)]
    return report


def real(jobs: int, seed: int) -> Report:
    """In the lab's node."""
    before = trace.found()

    def restart() -> None:
        libvirtd.kill()
        time.sleep(1.0)
        libvirtd.start()

    report = Soak("busybox", jobs, 2, seed, restart, 40.0).run()
    report.left += [*leftover.found(), *sorted(trace.found() - before)]
    return report


def show(title: str, report: Report) -> str:
    """Markdown."""
    refused: Counter[str] = Counter()
    for kind, count in report.refused.items():
        refused["killed" if kind.rpartition(": ")[2].startswith("-") else "back into the queue"] += count
    lines = [f"### Soak: {title}", "",
             f"{report.jobs} jobs in {report.seconds:.0f} s: {report.ran} ran to their ends. Prologues that started no job: "
             f"{', '.join(f'{count} {what}' for what, count in sorted(refused.items()))}. libvirtd was killed {report.libvirtd} "
             f"times; {report.sweeps} sweeps ran beside.", "",
             "| mishap | jobs |", "|---|---|", *(f"| {kind} | {report.mishaps.get(kind, 0)} |" for kind in MISHAPS), "",
             f"Left: {'nothing' if not report.left else ''}", *(f"- {line}" for line in report.left)]
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """Prints the report; 1 if something is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Jobs with mishaps, and what is left after them.")
    parser.add_argument("--played", type=int, default=1000, metavar="JOBS", help="with guests that are played (1000)")
    parser.add_argument("--real", type=int, default=60, metavar="JOBS", help="with real guests (60)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens when (1)")
    options = parser.parse_args(words)
    reports = {}
    if options.played:
        told: dict[str, Any] = nest.apart("bench.soak", "inside", str(options.played), str(options.seed))
        reports["played guests"] = Report(**told)
    if options.real:
        reports["real guests"] = real(options.real, options.seed)
    for title, report in reports.items():
        print(show(f"{title}, seed {options.seed}", report))
    return int(any(report.left for report in reports.values()))


def inside(scratch: str, jobs: str, seed: str) -> None:
    """The part with played guests; prints its report as JSON."""
    answers = nest.answers()
    answers.write(json.dumps(asdict(played(Path(scratch), int(jobs), int(seed)))))
    answers.flush()


if __name__ == "__main__":
    if sys.argv[2:3] == ["inside"]:
        inside(sys.argv[1], *sys.argv[3:])
    else:
        raise SystemExit(main())
