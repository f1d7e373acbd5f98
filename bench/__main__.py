"""`make bench`: all benchmarks, as Markdown on stdout. Runs inside the lab's node."""

import os
import subprocess
import sys
from collections.abc import Callable

from lab.mom import Job, Mom

from . import context, disk
from . import shell as shells
from .beside import measure, table

NULL = subprocess.DEVNULL


def _run(argv: list[str], environment: dict[str, str] | None = None) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, stdin=NULL, stdout=NULL, stderr=NULL, check=True, env=environment)

    return run


def native(mom: Mom, rounds: int) -> str:
    """Hooks for a job that is not ours, against the least that a Python process costs."""
    with open(mom.home / "mom_priv/prologue", encoding="utf-8") as hook:
        interpreter = hook.readline()[2:].split()[0]
    before = ["1.server", "alice", "alice", "job", "nodes=1", "batch", "", "/nonexistent"]
    after = ["1.server", "alice", "alice", "job", "0", "nodes=1", "", "batch", "", "0", "/nonexistent"]
    return table("A job of a native queue", measure({
        "python3 -I -c pass, the hooks' interpreter": _run([interpreter, "-I", "-c", "pass"]),
        "python3 -I -c pass, Debian's": _run(["/usr/bin/python3", "-I", "-c", "pass"]),
        "prologue": _run([str(mom.home / "mom_priv/prologue"), *before]),
        "epilogue": _run([str(mom.home / "mom_priv/epilogue"), *after]),
        "remoteshell as job_starter": _run([str(mom.home / "mom_priv/remoteshell"), "/bin/true"], {"PBS_QUEUE": "batch"}),
    }, rounds), "python3 -I -c pass, the hooks' interpreter")


def shell(mom: Mom, rounds: int) -> str:
    """remoteshell against bare ssh with the same key to the same guest."""
    from vmbatch import handover as handovers
    from vmbatch import sshargs

    job = mom.accept(b"#!/bin/sh\nexit 0\n", queue="busybox")
    try:
        if mom.finish_prologue(mom.start_prologue(job)) != "run":
            raise SystemExit(job.errors.decode())
        place = f"{sshargs.HANDOVER}/{job.file_id}"
        with open(f"{place}/record", "rb") as record:
            handover = handovers.decode(record.read())
        bare = [*sshargs.client(place, handover.alias), *sshargs.target(job.user, handover.address), "true"]
        drop = ["setpriv", f"--reuid={job.person.pw_uid}", f"--regid={job.person.pw_gid}", "--clear-groups", "--", *bare]
        return table("A job's shell, `true` in a busybox guest", measure({
            "ssh": _run(drop), "remoteshell": lambda: _shell(mom, job),
        }, rounds), "ssh")
    finally:
        mom.start_epilogue(job).wait()
        mom.forget(job)


def _shell(mom: Mom, job: Job) -> None:
    if mom.start_shell(job).wait():
        raise SystemExit(job.errors.decode())


def main() -> None:
    """Prints the report."""
    mom = Mom()
    print(f"VmBatch benchmarks, {os.cpu_count()} processors, Python {sys.version.split()[0]}\n")
    print(native(mom, 40))
    print(shell(mom, 15))
    shells.main()
    disk.main()
    context.main()


if __name__ == "__main__":
    main()
