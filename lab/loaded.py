"""Hooks without their start: forked from a process that has loaded what they load, which is most of what a short hook does."""

import ctypes
import faulthandler
import gc
import importlib
import os
import pkgutil
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from vmbatch import template

from . import mom

_SET_NAME = 15
Prepare = Callable[[str], str]
"""Called in the new process with the hook's file name; the name of the hook that it is."""


def preload() -> None:
    """What hooks load when they need it, for those that are forked from here."""
    import pycdlib  # noqa: F401

    import vmbatch

    for found in pkgutil.walk_packages(vmbatch.__path__, "vmbatch."):
        if not found.name.startswith("vmbatch.cli"):
            importlib.import_module(found.name)
    path = "/etc/vmbatch/domains/crash.xml"
    template.parse(Path(path).read_bytes(), path)
    gc.freeze()


def called(path: str, argv: list[str], environ: dict[str, str]) -> NoReturn:
    """Runs VmBatch's hooks in this process, which has loaded them, in place of executing them; all else is executed."""
    name = os.path.basename(path)
    if name not in ("prologue", "epilogue", "remoteshell"):
        os.execve(path, argv, environ)  # noqa: S606
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [path, *argv[1:]]
    from vmbatch import hooks, remoteshell

    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (as a new process has them)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGQUIT, file=2)
    if name == "remoteshell":
        os.closerange(3, 1 << 10)
        remoteshell.main()
    getattr(hooks, name)()
    os._exit(0)


class Forked:
    """A hook that was forked, with what subprocess.Popen has for who started it."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, if it has ended; 0 if somebody else has reaped it."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. subprocess.TimeoutExpired."""
        if self.poll() is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            finally:
                os.close(handle)
        status = self.poll()
        assert status is not None
        return status


def vmbatch(words: Sequence[str], seconds: float = 30.0) -> tuple[int, str]:
    """`vmbatch WORDS`, forked from this process: its exit status, what it wrote on both streams. subprocess.TimeoutExpired."""
    with open(os.memfd_create("said"), "w+b") as said:
        pid = begin(words, said.fileno())
        try:
            status = Forked(pid, words).wait(seconds)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        said.seek(0)
        return status, said.read().decode(errors="replace")


def begin(words: Sequence[str], said: int, prepare: Callable[[], None] = lambda: None) -> int:
    """`vmbatch WORDS`, forked from this process, with both streams at `said`; its process. First it calls `prepare`."""
    from vmbatch.cli import main

    pid = os.fork()
    if pid:
        return pid
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.closerange(3, 1 << 16)
    status = 1
    try:
        prepare()
        main(list(words))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
        sys.stdout.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(status)


class LoadedMom(mom.Mom):
    """A mom whose hooks are forked from this process."""

    def __init__(self, prepare: Prepare) -> None:
        super().__init__()
        self.prepare = prepare

    def begin_hook(self, argv: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """As the other one's."""
        pid = os.fork()
        if pid == 0:
            try:
                self._become(argv, **options)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            os._exit(127)
        return cast("subprocess.Popen[bytes]", Forked(pid, argv))

    def _become(self, argv: list[str], *, stdin: int, stdout: int | IO[bytes], stderr: int | IO[bytes], env: dict[str, str],
                cwd: Path, umask: int, extra_groups: Sequence[int], pass_fds: Sequence[int] = (),
                preexec_fn: Callable[[], None] = lambda: None) -> NoReturn:
        os.setsid()
        nowhere = os.open("/dev/null", os.O_RDWR)
        for number, stream in enumerate((stdin, stdout, stderr)):
            os.dup2(nowhere if stream == subprocess.DEVNULL else stream if isinstance(stream, int) else stream.fileno(), number)
        begin = 3
        for kept in sorted(pass_fds):
            os.set_inheritable(kept, True)
            os.closerange(begin, kept)
            begin = kept + 1
        os.closerange(begin, 1 << 16)
        os.chdir(cwd)
        os.umask(umask)
        os.setgroups(extra_groups)
        os.setgid(0)
        preexec_fn()
        name = self.prepare(os.path.basename(argv[0]))
        ctypes.CDLL(None).prctl(_SET_NAME, name.encode(), 0, 0, 0)
        called(str(Path(argv[0]).with_name(name)), argv, env)
