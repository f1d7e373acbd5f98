"""remoteshell beside bare ssh, to the same sshd, in turns: what a job's start costs, and the rate of its output.

`ssh` has the same key and pinned host key, and OpenSSH's own defaults for all else; `ssh, our options` has remoteshell's.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab import loopback
from lab.mom import Job, Mom
from vmbatch import request, sshargs

from .beside import Seconds, measure, table

NULL = subprocess.DEVNULL
_GIGABYTE = 1_000_000_000


def as_user(job: Job, argv: list[str]) -> list[str]:
    """The command with the rights of the job's user."""
    return ["setpriv", f"--reuid={job.person.pw_uid}", f"--regid={job.person.pw_gid}", "--clear-groups", "--", *argv]


def bare(place: Path, job: Job, command: str) -> list[str]:
    """ssh as a user would call it."""
    return as_user(job, [
        sshargs.SSH, "-F", "none", "-i", f"{place}/id_ed25519", "-o", f"UserKnownHostsFile={place}/known_hosts",
        "-o", f"HostKeyAlias={loopback.ALIAS}", "-o", "BatchMode=yes", f"{job.user}@{loopback.ADDRESS}", command,
    ])


def with_our_options(place: Path, job: Job, command: str) -> list[str]:
    """ssh with the options of remoteshell."""
    return as_user(job, [*sshargs.client(str(place), loopback.ALIAS), *sshargs.target(job.user, loopback.ADDRESS), command])


def _run(argv: list[str]) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, stdin=NULL, stdout=NULL, check=True)

    return run


def _job(place: Path, job: Job) -> Callable[[], None]:
    """What remoteshell has done in the guest, without its own start."""
    def run() -> None:
        argv = with_our_options(place, job, request.run_command(os.urandom(8).hex()))
        subprocess.run(argv, input=request.Request(environment={}).encode(), stdout=NULL, check=True)

    return run


def _shell(mom: Mom, job: Job, way: str) -> Callable[[], None]:
    def run() -> None:
        if mom.start_shell(job, way=way).wait():
            raise SystemExit(job.errors.decode())

    return run


def start(mom: Mom, guest: loopback.Guest, rounds: int) -> str:
    """A job that does nothing."""
    job = mom.accept(b"#!/bin/sh\nexit 0\n", queue="busybox")
    place = guest.hand_over(mom, job)
    try:
        return table("A job's start, `exit 0`, sshd on the loopback", measure({
            "ssh": _run(bare(place, job, "exit 0")),
            "ssh, our options": _run(with_our_options(place, job, "exit 0")),
            "ssh, our options, the kit's job.sh": _job(place, job),
            "remoteshell": _shell(mom, job, "shell"),
            "remoteshell as job_starter": _shell(mom, job, "starter"),
        }, rounds), "ssh")
    finally:
        guest.take_back(mom, job)


def rate(mom: Mom, guest: loopback.Guest, rounds: int) -> str:
    """1 GB of zeros through stdout, into a pipe that is read."""
    command = f"head -c {_GIGABYTE} /dev/zero"
    job = mom.accept(f"#!/bin/sh\nexec {command}\n".encode(), queue="busybox")
    place = guest.hand_over(mom, job)
    calls = {"ssh": bare(place, job, command), "ssh, our options": with_our_options(place, job, command)}
    seconds: Seconds = {name: [] for name in (*calls, "remoteshell")}
    try:
        for _ in range(rounds):
            for name, argv in calls.items():
                seconds[name].append(_drain(subprocess.Popen(argv, stdin=NULL, stdout=subprocess.PIPE)))
            seconds["remoteshell"].append(_drain(mom.start_shell(job, stdout=subprocess.PIPE)))
    finally:
        guest.take_back(mom, job)
    lines = ["### 1 GB through stdout, sshd on the loopback", "", "| | MB/s | ratio |", "|---|---|---|"]
    best = {name: _GIGABYTE / 1e6 / min(values) for name, values in seconds.items()}
    lines += [f"| {name} | {value:.0f} | {value / best['ssh']:.2f} |" for name, value in best.items()]
    return "\n".join(lines) + "\n"


def _drain(process: "subprocess.Popen[bytes]") -> float:
    assert process.stdout is not None
    begin, size = time.perf_counter(), 0
    while piece := process.stdout.read1(1 << 20):  # type: ignore[attr-defined]
        size += len(piece)
    if process.wait() or size != _GIGABYTE:
        raise SystemExit(f"{size} bytes came")
    return time.perf_counter() - begin


def main(rounds: int = 40, gigabytes: int = 3) -> None:
    """Prints both tables."""
    mom = Mom()
    with loopback.guest() as guest:
        print(start(mom, guest, rounds))
        print(rate(mom, guest, gigabytes))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
