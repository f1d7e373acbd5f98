"""The node from outside: up, down, and running commands in it.

A node is a set of namespaces around one process 1 (`init.py`); kill that and nothing is left but the state directory.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import place
from .cache import digest
from .process import ProcessError
from .progress import step

INPUTS = [place.CLONE / "lab/init.py", place.CLONE / "lab/daemons"]
"""What a node is made from."""


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    """The state directory, locked against another up or down of the same lab."""
    state = place.state()
    with contextlib.suppress(FileExistsError):
        state.mkdir(mode=0o755)
    if state.stat(follow_symlinks=False).st_uid != 0 or state.is_symlink():
        raise SystemExit(f"{state} is not root's own directory; remove it")
    with open(state / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield state


def inside() -> bool:
    """Whether this process runs in a node already."""
    return place.INSIDE.exists()


def pid() -> int | None:
    """The host's number for the node's process 1, if the node is up."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        number = int((place.state() / "pid").read_text())
        if (Path(f"/proc/{number}/root") / place.INSIDE.relative_to("/")).read_text() == place.name():
            return number
    return None


def up() -> int:
    """Make the node unless it is there; returns process 1's pid."""
    if not (place.CLONE / ".venv").is_dir():
        raise SystemExit("the node shows the product as installed in .venv, which is missing: make lab-up")
    running = pid()
    if running and _is_current(running):
        return running
    with _locked() as state:
        running = pid()
        if running and _is_current(running):
            return running
        with step(f"lab {place.name()} up"):
            if running:
                end(running)
            _clear(state, {".lock"})
            return _start(state)


def _is_current(running: int) -> bool:
    """Whether the node sees the .venv that the clone has now, and was made as the clone would make it."""
    try:
        return ((place.CLONE / ".venv").samefile(f"/proc/{running}/root{place.ENVIRONMENT}")
                and (place.state() / "inputs").read_text() == digest(INPUTS))
    except FileNotFoundError:
        return False


def _start(state: Path) -> int:
    for name in ("scratch", "share", "vmbatch", "log/libvirt", "log/vmbatch", "log/lab"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (place.CACHE / "libvirt").mkdir(parents=True, exist_ok=True)
    (state / "inputs").write_text(digest(INPUTS))
    spaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private"]
    with open(state / "log/lab/init.out", "wb") as out:
        outer = subprocess.Popen(
            ["unshare", *spaces, sys.executable, "-m", "lab.init", str(state)],
            cwd=place.CLONE,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    while not (state / "pid").exists():
        if outer.poll() is not None:
            raise ProcessError(f"the node did not start:\n{(state / 'log/lab/init.out').read_text()}")
        time.sleep(0.005)
    running = pid()
    if running is None:
        raise ProcessError(f"the node died at once; see {state}/log")
    return running


def down() -> None:
    """End everything in the node at once; the logs stay in the state directory."""
    with _locked() as state:
        if running := pid():
            end(running)
        _clear(state, {".lock", "log"})


def end(running: int) -> None:
    """SIGKILL process 1, and wait until the kernel has ended all others of its pid namespace."""
    handle = os.pidfd_open(running)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
    finally:
        os.close(handle)


def _clear(state: Path, keep: set[str]) -> None:
    for path in state.iterdir():
        if path.name in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def enter(running: int, command: Sequence[str], cwd: str | None = None) -> list[str]:
    """The argument list that runs a command in the node: in `cwd` there, and not longer than who started it."""
    enter_all = [f"--target={running}", "--mount", "--net", "--pid", "--uts", "--ipc", f"--wdns={cwd or os.getcwd()}"]
    return ["nsenter", *enter_all, "setpriv", "--pdeathsig=TERM", *command]
