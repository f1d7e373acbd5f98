"""remoteshell beside bare ssh, to the same sshd, in turns: what a job's start costs, and the rate of its output.

`ssh` has the same key and pinned host key, and OpenSSH's own defaults for all else; `ssh, our options` has remoteshell's.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import loopback
from lab.mom import Job, Mom
from vmbatch import request, sshargs
from vmbatch.report.figure import Figure

from .beside import against, measure

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
            raise RuntimeError(job.errors.decode())

    return run


def start(mom: Mom, guest: loopback.Guest, rounds: int) -> list[Figure]:
    """A job that does nothing."""
    job = mom.accept(b"#!/bin/sh\nexit 0\n", queue="busybox")
    place = guest.hand_over(mom, job)
    try:
        return against("A job's start, `exit 0`, sshd on the loopback", measure({
            "ssh": _run(bare(place, job, "exit 0")),
            "ssh, our options": _run(with_our_options(place, job, "exit 0")),
            "ssh, our options, the kit's job.sh": _job(place, job),
            "remoteshell": _shell(mom, job, "shell"),
            "remoteshell as job_starter": _shell(mom, job, "starter"),
        }, rounds), "ssh")
    finally:
        guest.take_back(mom, job)


def rate(mom: Mom, guest: loopback.Guest, rounds: int) -> list[Figure]:
    """1 GB of zeros through stdout, into a pipe that is read."""
    command = f"head -c {_GIGABYTE} /dev/zero"
    job = mom.accept(f"#!/bin/sh\nexec {command}\n".encode(), queue="busybox")
    place = guest.hand_over(mom, job)

    def ssh(argv: list[str]) -> Callable[[], None]:
        return lambda: _drain(subprocess.Popen(argv, stdin=NULL, stdout=subprocess.PIPE))

    try:
        return against("1 GB through stdout, sshd on the loopback", measure({
            "ssh": ssh(bare(place, job, command)), "ssh, our options": ssh(with_our_options(place, job, command)),
            "remoteshell": lambda: _drain(mom.start_shell(job, stdout=subprocess.PIPE)),
        }, rounds), "ssh")
    finally:
        guest.take_back(mom, job)


def _drain(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    size = 0
    while piece := process.stdout.read1(1 << 20):  # type: ignore[attr-defined]
        size += len(piece)
    if process.wait() or size != _GIGABYTE:
        raise RuntimeError(f"{size} bytes came")


def figures(rounds: int = 40, gigabytes: int = 3) -> Iterator[Figure]:
    """A job's start, and the rate of its output."""
    mom = Mom()
    with loopback.guest() as guest:
        yield from start(mom, guest, rounds)
        yield from rate(mom, guest, gigabytes)
