"""The one way to start other programs: argument lists, no shell, a clean environment, a deadline, no survivors."""

import os
import signal
import subprocess

from ..errors import CommandError, DeadlineError, NodeError
from ..job import User
from ..sshargs import WITH_PARENT
from ..units import Deadline

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}
_OUTPUT_LIMIT = 64 << 10
_held: set[int] = set()


def hold(fd: int) -> None:
    """From now on every helper that runs as root keeps `fd`, a lock, open until it ends."""
    _held.add(fd)


def let_go(fd: int) -> None:
    """Ends `hold`."""
    _held.discard(fd)


def start(argv: list[str], *, user: User | None = None) -> subprocess.Popen[bytes]:
    """A helper that dies with us (util-linux setpriv(1), PR_SET_PDEATHSIG), as root or as `user`, who gets no lock of ours."""
    drop = [] if user is None else [
        f"--reuid={user.uid}", f"--regid={user.group.gid}",
        f"--groups={','.join(str(group.gid) for group in user.groups)}" if user.groups else "--clear-groups",
        "--no-new-privs", "--inh-caps=-all",
    ]
    try:
        return subprocess.Popen(
            [*WITH_PARENT[:-1], *drop, "--", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=ENVIRONMENT, cwd="/", pass_fds=tuple(_held) if user is None else (), restore_signals=True,
        )
    except OSError as error:
        raise NodeError(f"/usr/bin/setpriv cannot be started: {error.strerror}", "install util-linux") from None


def run(argv: list[str], deadline: Deadline) -> str:
    """Runs a program to its end as root; what it wrote. CommandError, DeadlineError."""
    process = start(argv)
    try:
        output, _ = process.communicate(timeout=deadline.left())
    except subprocess.TimeoutExpired:
        raise DeadlineError(f"{argv[0]} did not end in time") from None
    finally:
        end(process)
    text = output[-_OUTPUT_LIMIT:].decode("utf-8", "replace")
    if process.returncode:
        raise CommandError(argv, process.returncode, text)
    return text


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills and reaps a helper that may still run."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def kill(pid: int, started: int) -> None:
    """Kills a process unless its number has gone to another one since."""
    from .clock import started as started_now

    try:
        handle = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return
    try:
        if started_now(pid) == started:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
