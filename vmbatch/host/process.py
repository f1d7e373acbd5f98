"""The one way to start other programs: argument lists, no shell, a clean environment, a deadline, no survivors."""

import contextlib
import os
import pwd
import select
import signal
import subprocess
from collections.abc import Callable, Iterator

from ..errors import CommandError, DeadlineError, NodeError, SiteError
from ..job import User
from ..sshargs import WITH_PARENT
from ..units import Deadline

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}
_OUTPUT_LIMIT = 64 << 10
_PIECE = 1 << 20
_ALIVE_SECONDS = 0.2
_LAST_SECONDS = 2.0
_END_SECONDS = 5.0
DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
_OWN_CHILD = 'test "$PPID" = "$1" && shift && unset PWD OLDPWD SHLVL && exec "$@"'
"""For sh(1), once it is to die with its parent: not if that was dead before, so that the kernel had nothing to tell."""
_held: set[int] = set()
_watched: list[tuple[Callable[[], None], Deadline | None]] = []


def watch(alive: Callable[[], None] | None, deadline: Deadline | None = None) -> None:
    """From now on all that takes long asks `alive`, which may raise, and ends by the deadline; None ends that."""
    _watched[:] = [] if alive is None else [(alive, deadline)]


def alive() -> None:
    """Asks what is watched, which may raise: for whoever waits, and has no `Work` to ask."""
    for ask, _deadline in _watched:
        ask()


def patience(seconds: float) -> Deadline:
    """The time for one step, of which no more is taken than the watched deadline leaves."""
    return min((Deadline(seconds), *(deadline for _ask, deadline in _watched if deadline)), key=lambda deadline: deadline.at)


def hold(fd: int) -> None:
    """From now on every helper that runs as root keeps `fd`, a lock, open until it ends."""
    _held.add(fd)


def let_go(fd: int) -> None:
    """Ends `hold`."""
    _held.discard(fd)


def account_of(name: str) -> pwd.struct_passwd:
    """An account of this node without rights, for work on what strangers wrote. SiteError."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise SiteError(f"this node knows no account {name}", "see [images] account in vmbatch.conf", code="VB916") from None
    if found.pw_uid == 0:
        raise SiteError(f"the account {name} is root's", "see [images] account in vmbatch.conf", code="VB916")
    return found


def find(name: str) -> str | None:
    """Where a program is, or None."""
    paths = (f"{directory}/{name}" for directory in ENVIRONMENT["PATH"].split(":"))
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def start(
    argv: list[str], *, user: User | None = None, account: str | None = None, limits: tuple[str, ...] = (),
    stdin: int | None = None, pass_fds: tuple[int, ...] = (), stderr: int = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """A helper that dies with us (util-linux setpriv(1), PR_SET_PDEATHSIG), as root, as `user`, or as an account without rights.

    Who is not root has but one account, and gives a helper no way to another.

    To be called from a thread that lives as long: the kernel takes the thread for the parent (prctl(2)).
    `limits` are options of util-linux prlimit(1), such as `--cpu=60`. `stderr` as Popen takes it. Only root's helpers get
    our locks. SiteError, NodeError.
    """
    drop = [] if user is None else ["--no-new-privs"] if os.geteuid() else [
        f"--reuid={user.uid}", f"--regid={user.group.gid}",
        f"--groups={','.join(str(group.gid) for group in user.groups)}" if user.groups else "--clear-groups",
        "--no-new-privs", "--inh-caps=-all",
    ]
    if account is not None and os.geteuid():
        drop = ["--no-new-privs"]
    elif account is not None:
        nobody = account_of(account)
        drop = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
    bound = ["/usr/bin/prlimit", *limits, "--"] if limits else []
    locks = () if drop else tuple(_held)
    try:
        return subprocess.Popen(
            [*WITH_PARENT[:-1], *drop, "--", "/bin/sh", "-c", _OWN_CHILD, argv[0], str(os.getpid()), *bound, *argv],
            stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=subprocess.PIPE, stderr=stderr,
            env=ENVIRONMENT, cwd="/", pass_fds=(*locks, *pass_fds), restore_signals=True, process_group=0,
        )
    except OSError as error:
        raise NodeError(f"/usr/bin/setpriv cannot be started: {error.strerror}", "install util-linux", code="VB910") from None


def run(
    argv: list[str], deadline: Deadline, *, account: str | None = None, limits: tuple[str, ...] = (),
    stdin: int | None = None, pass_fds: tuple[int, ...] = (), quiet: bool = False,
) -> str:
    """Runs a program to its end; what it wrote, if `quiet` without its stderr. As `start`; CommandError, DeadlineError.

    What is watched (see `watch`) may raise meanwhile; then the program is ended, too.
    """
    with running(argv, account=account, limits=limits, stdin=stdin, pass_fds=pass_fds, quiet=quiet) as finish:
        return finish(deadline)


@contextlib.contextmanager
def running(
    argv: list[str], *, account: str | None = None, limits: tuple[str, ...] = (),
    stdin: int | None = None, pass_fds: tuple[int, ...] = (), quiet: bool = False,
) -> Iterator[Callable[[Deadline], str]]:
    """A program beside which we do something else, until the function waits for its end as `run` does; it is ended with us."""
    process = start(argv, account=account, limits=limits, stdin=stdin, pass_fds=pass_fds,
                    stderr=subprocess.PIPE if quiet else subprocess.STDOUT)

    def finish(deadline: Deadline) -> str:
        output, said = _to_the_end(process, argv[0], deadline)
        text = output[-_OUTPUT_LIMIT:].decode("utf-8", "replace")
        if process.returncode:
            raise CommandError(argv, process.returncode, text + (said or b"")[-_OUTPUT_LIMIT:].decode("utf-8", "replace"))
        return text

    try:
        yield finish
    finally:
        end(process)


def _to_the_end(process: subprocess.Popen[bytes], name: str, deadline: Deadline) -> tuple[bytes, bytes | None]:
    while True:
        try:
            return process.communicate(timeout=min(_ALIVE_SECONDS, deadline.left()) if _watched else deadline.left())
        except subprocess.TimeoutExpired:
            if deadline.passed():
                raise DeadlineError(f"{name} did not end in time", code="VB910") from None
            alive()


def stream(process: subprocess.Popen[bytes], deadline: Deadline, alive: Callable[[], None]) -> Iterator[bytes]:
    """What a helper writes, piece by piece, to its end; asks `alive`, which may raise. CommandError, DeadlineError."""
    if process.stdout is None:
        return
    source = process.stdout.fileno()
    while True:
        alive()
        if deadline.passed():
            raise DeadlineError(f"{_program(process)} did not end in time", code="VB910")
        if not select.select([source], [], [], min(_ALIVE_SECONDS, deadline.left()))[0]:
            continue
        piece = os.read(source, _PIECE)
        if not piece:
            break
        yield piece
    try:
        process.wait(timeout=deadline.left())
    except subprocess.TimeoutExpired:
        raise DeadlineError(f"{_program(process)} did not end in time", code="VB910") from None
    if process.returncode:
        raise CommandError([_program(process)], process.returncode, "")


def _program(process: subprocess.Popen[bytes]) -> str:
    """What a helper is, without how it is started."""
    words = process.args if isinstance(process.args, list) else [process.args]
    return str(words[words.index(_OWN_CHILD) + 1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills and reaps a helper that may still run, with what it has started; one that the kernel holds is left to its end."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def apart(work: Callable[[Callable[[], None]], None], patience: float) -> None:
    """Runs `work` in a process and session of its own, which outlives us.

    Returns once `work` calls what it is given, or ends, or after `patience` seconds.
    """
    source, sink = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(sink)
        select.select([source], [], [], patience)
        os.close(source)
        return
    try:
        os.setsid()
        os.close(source)

        def go_on() -> None:
            os.close(sink)

        work(go_on)
    finally:
        os._exit(0)


def detach(argv: list[str]) -> None:
    """Starts a program of root's that outlives us, in a session of its own, without streams or locks. NodeError."""
    try:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
                         cwd="/", start_new_session=True)
    except OSError as error:
        raise NodeError(f"{argv[0]} cannot be started: {error.strerror}", code="VB910") from None


def end_all(words: list[str], deadline: Deadline) -> None:
    """Kills root's processes that have just these arguments, and sees them gone. NodeError if one is left."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(int(name))
            try:
                if os.stat(f"/proc/{name}").st_uid != os.geteuid() or _arguments(name) != words:
                    continue
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not select.select([handle], [], [], max(_LAST_SECONDS, deadline.left()))[0]:
                    raise NodeError(f"the process {name} ({' '.join(words)}) does not end", code="VB910")
            finally:
                os.close(handle)


def _arguments(pid: str) -> list[str]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")[1:-1]]


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
