"""What the lab can have done in dom0: programs run, files read and written, a batch system played, leftovers looked for."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from .. import leftover, mom
from ..sweeper import Sweeper
from . import xenstore

URI = "xen:///system"
_mom = mom.Mom()
_sweeper = Sweeper()
_jobs: dict[str, mom.Job] = {}
_hooks: dict[str, "subprocess.Popen[bytes]"] = {}


def execute(argv: list[str], stdin: str = "", seconds: float = 120) -> dict[str, Any]:
    """A program's exit status and what it wrote."""
    done = subprocess.run(argv, input=stdin.encode("latin-1"), capture_output=True, timeout=seconds, check=False)
    return {"status": done.returncode, "out": done.stdout.decode("latin-1"), "err": done.stderr.decode("latin-1")}


def read(path: str) -> str | None:
    """A file's content; None where there is no file."""
    try:
        return Path(path).read_bytes().decode("latin-1")
    except FileNotFoundError:
        return None


def write(path: str, text: str, mode: int = 0o644) -> None:
    """A file of root's, with the directories above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text.encode("latin-1"))
    os.chmod(path, mode)


def accept(script: str, about: dict[str, Any]) -> str:
    """A new job; its id."""
    job = _mom.accept(script.encode("latin-1"), **about)
    _jobs[job.id] = job
    return job.id


def start_prologue(job: str) -> int:
    """The prologue's pid, which is its session."""
    _hooks[job] = _mom.start_prologue(_jobs[job])
    return _hooks[job].pid


def finish_prologue(job: str) -> str:
    """What mom makes of its end."""
    return _mom.finish_prologue(_hooks.pop(job))


def kill_prologue(job: str, session: bool) -> None:
    """SIGKILL, to the prologue alone or to its session, and mom has seen it end."""
    hook = _hooks.pop(job)
    if session:
        mom.kill_session(hook.pid)
    else:
        os.kill(hook.pid, signal.SIGKILL)
    hook.wait()


def shell(job: str, arguments: str = "") -> int:
    """The job's shell, to its end."""
    return _mom.start_shell(_jobs[job], arguments=arguments).wait()


def epilogue(job: str, status: int = 0) -> int:
    """The epilogue's exit status."""
    return _mom.start_epilogue(_jobs[job], status).wait()


def forget(job: str) -> None:
    """As mom after the epilogue."""
    _mom.forget(_jobs.pop(job))


def play(job: str) -> dict[str, Any]:
    """Prologue, shell and epilogue."""
    ended = _mom.play(_jobs.pop(job))
    return {"verdict": ended.verdict, "status": ended.status, "epilogue": ended.epilogue, "seconds": ended.seconds,
            "output": ended.output.decode("latin-1"), "errors": ended.errors.decode("latin-1"), "log": log(ended.job.id)}


def streams(job: str) -> tuple[str, str]:
    """What the job wrote so far."""
    return _jobs[job].output.decode("latin-1"), _jobs[job].errors.decode("latin-1")


def log(job: str) -> str:
    """The job's log."""
    return read(f"/var/log/vmbatch/{job.replace('[', '-').replace(']', '')}.log") or ""


def wait_for(path: str, pattern: str, seconds: float = 120) -> bool:
    """Whether a file comes to hold what the pattern finds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if re.search(pattern, read(path) or ""):
            return True
        time.sleep(0.05)
    return False


def kernel_log() -> str:
    """Of dom0."""
    return str(execute(["dmesg"])["out"])


def left() -> list[str]:
    """A line for all that jobs have left: VmBatch's own places, libvirt, and what Xen keeps for a domain."""
    return [line for line in leftover.found(URI, _sweeper.dry_run) if line != "domain Domain-0"] + xenstore.left()
