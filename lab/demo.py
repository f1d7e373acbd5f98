"""`make demo`: one real job in a real guest, as a pbs_mom would run it, with its output, its phases and what it leaves."""

import re
import time
from pathlib import Path

from . import leftover, place
from .mom import Job, Mom
from .progress import step

JOB = b"""#!/bin/bash
#PBS -N demo
#PBS -q debian
echo "Hello from job $PBS_JOBID, submitted from $PBS_O_HOST."
echo "user      $(id)"
echo "host      $(hostname)"
echo "kernel    $(uname -sr)"
echo "system    $(. /etc/os-release; echo "$PRETTY_NAME")"
echo "machine   $(cat /sys/class/dmi/id/sys_vendor), $(nproc) processors, $(free -m | awk '/^Mem/ {print $2}') MiB"
echo "share     $(findmnt -n -o SOURCE,FSTYPE /mnt/vmbatch)"
echo "directory $(pwd), umask $(umask), arguments: $*"
echo "this line goes to stderr" >&2
exit 3
"""


def demo() -> int:
    """Exit status 0 if everything was as it should be."""
    mom = Mom()
    job = mom.accept(JOB, queue="debian", name="demo", variables={"MINE": "from qsub -v"})
    print(f"\nA job of alice for queue debian, which has the template /etc/vmbatch/domains/debian.xml:\n\n{_indent(JOB)}")
    print("As pbs_mom on this node does:\n")
    seconds: dict[str, float] = {}
    with step("prologue: guest made, booted, ready"):
        begin = time.monotonic()
        prologue = mom.start_prologue(job)
        verdict = mom.finish_prologue(prologue)
        exited = time.time()
        seconds["prologue"] = time.monotonic() - begin
    late = _ready_to_exit(job, exited)
    status = None
    if verdict == "run":
        with step("remoteshell: the job, in the guest, as alice"):
            begin = time.monotonic()
            status = mom.start_shell(job, arguments="one 'two three'").wait()
            seconds["job"] = time.monotonic() - begin
    with step("epilogue: everything removed"):
        begin = time.monotonic()
        mom.start_epilogue(job, status or 0).wait()
        seconds["epilogue"] = time.monotonic() - begin
    mom.forget(job)
    print(f"\nThe job's stdout:\n\n{_indent(job.output)}\nIts stderr:\n\n{_indent(job.errors)}\nIts exit status: {status}\n")
    _table(job, seconds, late)
    remains = leftover.found()
    print("Left on the node (journals, disks, keys, share, domains, processes, vmbatch sweep --dry-run): "
          + ("nothing" if not remains else "\n  " + "\n  ".join(remains)))
    right = verdict == "run" and status == 3 and b"uid=1500(alice)" in job.output and not remains
    if not right:
        print(f"\nThis is not as it should be. The job's log:\n{_log(job)}")
    return 0 if right else 1


def _indent(text: bytes) -> str:
    return "".join(f"    {line}\n" for line in text.decode(errors="replace").splitlines())


def _log(job: Job) -> str:
    path = Path(f"/var/log/vmbatch/{job.file_id}.log")
    return path.read_text() if path.exists() else "none"


def _ready_to_exit(job: Job, exited: float) -> float | None:
    """Seconds from the guest's writing of the ready file to the prologue's exit."""
    for path in place.SHARE.glob(f"{job.file_id}@*/guest/ready"):
        return exited - path.stat().st_mtime
    return None


def _table(job: Job, seconds: dict[str, float], late: float | None) -> None:
    """Phases with their seconds: what the hooks logged, in their order, and what is between."""
    rows = [(hook, phase, float(value)) for hook, phase, value in
            re.findall(r"Z (\w+): phase ([\w ]+) ([\d.]+) s", _log(job))]
    print(f"    {'part':12}{'phase':22}{'seconds':>8}\n    {'-' * 42}")
    for part in ("prologue", "job", "epilogue"):
        known = 0.0
        for hook, phase, value in rows:
            if hook == part:
                of_boot = phase.startswith("guest ")
                print(f"    {part:12}{'  ' * of_boot + phase:22}{value:8.3f}")
                known += 0 if of_boot else value
        if part in seconds:
            if known:
                print(f"    {part:12}{'start, journal, end':22}{seconds[part] - known:8.3f}")
            print(f"    {part:12}{'whole':22}{seconds[part]:8.3f}\n")
    if late is not None:
        print(f"    From the guest's ready file to the prologue's exit: {late * 1000:.0f} ms\n")


if __name__ == "__main__":
    raise SystemExit(demo())
