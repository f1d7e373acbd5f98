"""What the hooks of one job take of the node: memory of each process, and bytes written to disks."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial

from lab.mom import Mom
from vmbatch.report import figure
from vmbatch.report.figure import Figure

from .native import REFERENCE, interpreter

_BLOCK = 512
"""Of ru_oublock (getrusage(2))."""
_LOOK_SECONDS = 0.0005


def figures(rounds: int = 5) -> Iterator[Figure]:
    """A job in a guest of busybox; the peak is that of the hook itself, without its helpers."""
    mom = Mom()
    floor_command = [interpreter(mom), "-I", "-c", "pass"]
    memory: dict[str, list[float]] = {}
    written: dict[str, list[float]] = {}
    for _ in range(rounds):
        job = mom.accept(b"#!/bin/sh\nexit 0\n", queue="busybox")
        steps: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            REFERENCE: lambda: subprocess.Popen(floor_command),
            "prologue": partial(mom.start_prologue, job),
            "remoteshell": partial(mom.start_shell, job),
            "epilogue": partial(mom.start_epilogue, job),
        }
        for name, start in steps.items():
            peak, size = _taken(start(), job.id)
            memory.setdefault(name, []).append(peak)
            written.setdefault(name, []).append(size)
        mom.forget(job)
    floor = memory.pop(REFERENCE)
    for name, values in memory.items():
        yield figure.beside("Memory of a hook's process, at its peak", name, values, floor, REFERENCE, unit="B")
    whole = [sum(values) for values in zip(*(written[name] for name in memory), strict=True)]
    for name, values in {**{name: written[name] for name in memory}, "a job": whole}.items():
        yield figure.alone("Bytes written to disks by the hooks of a job", name, values, unit="B")


def _taken(process: "subprocess.Popen[bytes]", what: str) -> tuple[float, float]:
    """Bytes of memory of a process at its peak, and bytes that it and those that it waited for have written, once it ends well.

    The peak is looked at again and again: ru_maxrss of a new process begins with what the one that started it has (Linux'
    fs/exec.c, exec_mmap).
    """
    peak, ended = 0, 0
    while not ended:
        peak = max(peak, _peak(process.pid))
        time.sleep(_LOOK_SECONDS)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{what}: {process.args!r} ended with {process.returncode}")
    return float(peak), used.ru_oublock * float(_BLOCK)


def _peak(pid: int) -> int:
    """VmHWM (proc(5)) in bytes; 0 of a process that has ended."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")), 0)
