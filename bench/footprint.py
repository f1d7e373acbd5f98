"""What the hooks of one job take of the node: memory of each process, and bytes written to disks."""

import os
import subprocess
from collections.abc import Callable, Iterator

from lab.mom import Mom
from vmbatch.report import figure
from vmbatch.report.figure import Figure

_REFERENCE = "python3 -I -c pass"
_BLOCK = 512
"""Of ru_oublock (getrusage(2))."""


def figures(rounds: int = 5) -> Iterator[Figure]:
    """A job in a guest of busybox; the peak is that of the hook or of a helper of its, whichever is larger."""
    mom = Mom()
    with open(mom.home / "mom_priv/prologue", encoding="utf-8") as hook:
        interpreter = hook.readline()[2:].split()[0]
    memory: dict[str, list[float]] = {}
    written: dict[str, list[float]] = {}
    for _ in range(rounds):
        job = mom.accept(b"#!/bin/sh\nexit 0\n", queue="busybox")
        steps: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            _REFERENCE: lambda: subprocess.Popen([interpreter, "-I", "-c", "pass"]),
            "prologue": lambda: mom.start_prologue(job),  # noqa: B023
            "remoteshell": lambda: mom.start_shell(job),  # noqa: B023
            "epilogue": lambda: mom.start_epilogue(job),  # noqa: B023
        }
        for name, start in steps.items():
            peak, size = _taken(start(), job.id)
            memory.setdefault(name, []).append(peak)
            written.setdefault(name, []).append(size)
        mom.forget(job)
    floor = memory.pop(_REFERENCE)
    for name, values in memory.items():
        yield figure.beside("Memory of a hook's process, at its peak", name, values, floor, _REFERENCE, unit="B")
    whole = [sum(values) for values in zip(*(written[name] for name in memory), strict=True)]
    for name, values in {**{name: written[name] for name in memory}, "a job": whole}.items():
        yield figure.alone("Bytes written to disks by the hooks of a job", name, values, unit="B")


def _taken(process: "subprocess.Popen[bytes]", what: str) -> tuple[float, float]:
    """Bytes of memory at the peak, and bytes written, of a process and those that it waited for, once it ends well."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{what}: {process.args!r} ended with {process.returncode}")
    return used.ru_maxrss * 1024.0, used.ru_oublock * float(_BLOCK)
