"""The job's shell on the node: runs the job in its guest over ssh, as if it ran here.

Three ways lead here: as the shell of the job (`qsub -S`, the script's path on the first line of stdin), as mom's `$job_starter`
(the user's shell as first argument), and as the interpreter of a script (`#!`, the script's path as first argument).

Of the environment only what mom sets last is trusted, and none of it more than the user running this could do anyway.
"""

from __future__ import annotations

import os
import sys

from . import native

TYPE_CHECKING = False  # typing itself would cost a native job more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

    from .guest import Handover

_FAILURE = 255
_OF_NODE = frozenset((
    "HOME", "HOSTNAME", "LOGNAME", "MAIL", "OLDPWD", "PBS_GPUFILE", "PBS_JOBCOOKIE", "PBS_MICFILE", "PBS_MOMPORT", "PWD", "SHELL",
    "SHLVL", "USER", "_",
))
_SHELL_NAMES = frozenset(["ash", "bash", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "zsh"])
_PUMP_BYTES = 64 << 10
_LOOK_MS = 50


def main() -> None:
    """`remoteshell`."""
    queue = os.environ.get("PBS_QUEUE", "")
    if not sys.flags.isolated:
        _refuse(f"{sys.argv[0]} must run as `python3 -I`, or the user's own modules would run on the node; "
                "have `vmbatch hooks` write it anew")
    try:
        ours = native.may_name_queue(queue)
    except OSError as error:
        _refuse(f"{native.CONFIG}: {error.strerror}")
    if not ours:
        _native()
    try:
        os._exit(_run(queue))
    except _Refused as refused:
        _refuse(str(refused))


class _Refused(Exception):
    """The job may not run; the text says why."""


def _refuse(text: str) -> None:
    os.write(2, f"vmbatch: the job does not run: {text}\n".encode(errors="replace"))
    os._exit(_FAILURE)


def _native() -> None:
    """A job of a native queue runs as it would without us: as `$job_starter` we step aside."""
    if len(sys.argv) < 2:
        _refuse(f"queue {os.environ.get('PBS_QUEUE') or '(none)'} has no guests, and remoteshell is no shell for the node; "
                "leave out -S, or submit to a queue with guests")
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
    except OSError as error:
        _refuse(f"{sys.argv[1]}: {error.strerror}")


def _run(queue: str) -> int:
    """The job's exit status."""
    import msgspec

    from .errors import JobError
    from .guest import Handover
    from .job import slug
    from .sshargs import HANDOVER

    try:
        place = f"{HANDOVER}/{slug(os.environ.get('PBS_JOBID', ''))}"
        record = _trusted_record(f"{place}/record")
        handover = msgspec.json.decode(record, type=Handover)
    except PermissionError:
        raise _Refused(f"the guest of job {os.environ.get('PBS_JOBID')} belongs to another user") from None
    except (JobError, OSError, msgspec.DecodeError):
        if not _has_template(queue):
            _native()
        raise _Refused(f"job {os.environ.get('PBS_JOBID')} of queue {queue} has no guest: its prologue has not handed one over "
                       "(admin: is VmBatch's prologue in mom_priv, and did it end by itself?)") from None
    _check_proof(handover)
    if handover.console:
        from .consoleshell import Session

        return Session(handover.console).run(lambda: _Call(handover))
    if os.path.exists(f"{place}/stage"):
        from .staging import around

        return around(place, handover, os.environ, lambda: _Session(place, handover).run(lambda: _Call(handover)))
    return _Session(place, handover).run(lambda: _Call(handover))


def _has_template(queue: str) -> bool:
    from . import config
    from .errors import VmBatchError

    try:
        with open(native.CONFIG, "rb") as file:
            return config.parse(file.read(), native.CONFIG).template_path(queue) is not None
    except VmBatchError as error:
        raise _Refused("; ".join(error.lines())) from None


def _trusted_record(path: str) -> bytes:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise _Refused(f"{path} is not root's")
        return file.read()


def _check_proof(handover: Handover) -> None:
    """The record must be this user's and this start's: each start has a script file of its own."""
    if handover.uid != os.getuid() or handover.job != os.environ.get("PBS_JOBID"):
        raise _Refused(f"the guest of job {os.environ.get('PBS_JOBID')} belongs to another user")
    script = handover.script
    if script is None:
        return
    try:
        status = os.stat(script.path, follow_symlinks=False)
    except OSError:
        raise _Refused(f"its script {script.path} is not there any more") from None
    if (status.st_dev, status.st_ino, status.st_mtime_ns) != (script.device, script.inode, script.mtime_ns):
        raise _Refused("the guest was made for an earlier start of this job: the prologue of this start did not end by itself")


class _Call:
    """What is to be run, out of arguments, standard input and environment."""

    def __init__(self, handover: Handover) -> None:
        import re

        self.handover = handover
        self.shell = ""
        self.script: bytes | None = None
        self.arguments = b""
        self.command: bytes | None = None
        self.uses_input = True
        words = sys.argv[1:]
        known = handover.script.path if handover.script else None
        if words and words[0] != known and _is_program(words[0]):
            self.shell = words.pop(0).lstrip("-")
        elif words and os.path.basename(words[0]).lstrip("-") == "remoteshell":  # $job_starter and qsub -S at once
            words.pop(0)
        options = ""
        while words and re.fullmatch("-[cil]+", words[0]):
            options += words.pop(0)
        if "c" in options:
            if len(words) != 1:
                raise _Refused("-c takes one command line")
            self.command = os.fsencode(words[0])
        elif words:
            self._take_script(words[0], known)
            self.arguments = b" ".join(_quote(os.fsencode(word)) for word in words[1:])
        else:
            self._read_input(known)

    def _take_script(self, path: str, known: str | None) -> None:
        """A script file; the job's own lies in the guest already."""
        if path == known:
            return
        try:
            with open(path, "rb") as file:
                self.script = file.read()
        except OSError as error:
            raise _Refused(f"{path}: {error.strerror}") from None

    def _read_input(self, known: str | None) -> None:
        """Torque gives its shell one line, the script's path with the user's arguments behind it; some builds, the script."""
        self.uses_input = False
        if os.isatty(0):
            raise _Refused("interactive jobs are not in this version of VmBatch")
        data = b"".join(iter(lambda: os.read(0, _PUMP_BYTES), b""))
        line, _, rest = data.partition(b"\n")
        if known is not None and not rest and (line == os.fsencode(known) or line.startswith(os.fsencode(known) + b" ")):
            self.arguments = line[len(os.fsencode(known)) + 1 :]
        elif data:
            self.script = data

    def request(self) -> bytes:
        """For the kit's job.sh."""
        from .guest import Request

        return Request(
            environment=self._environment(), directory=os.fsencode(_directory()), shell=os.fsencode(self.shell),
            script=self.script, arguments=self.arguments, command=self.command,
        ).encode()

    def _environment(self) -> dict[bytes, bytes]:
        """The batch system's and the submitter's variables; what is as mom's own stays on the node."""
        import re

        from .digest import of_text

        chosen = {}
        for name, value in os.environ.items():
            if name in _OF_NODE or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                continue
            if self.handover.environment.get(name) == of_text(value) and not name.startswith("PBS_"):
                continue
            if name == "PBS_NODEFILE" and not self.handover.node_file:
                continue
            chosen[os.fsencode(name)] = os.fsencode(value)
        return chosen


def _is_program(path: str) -> bool:
    """Whether this is the user's shell, as `$job_starter` gets it, and not a script."""
    if os.path.basename(path).lstrip("-") in _SHELL_NAMES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _quote(word: bytes) -> bytes:
    return b"'" + word.replace(b"'", b"'\\''") + b"'"


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


class _Session:
    """One run of the job in its guest, over one ssh connection that carries signals, too."""

    def __init__(self, place: str, handover: Handover) -> None:
        import secrets

        from . import guest, sshargs

        self.id = secrets.token_hex(8)
        self.handover = handover
        base = sshargs.client(place, handover.alias)
        self._target = sshargs.target(handover.user, handover.address)
        control = f"{place}/control/{self.id}"
        self._master = [*sshargs.WITH_PARENT, *base, "-oControlMaster=yes", f"-oControlPath={control}"]
        self._beside = [*base, "-oControlMaster=no", f"-oControlPath={control}"]
        self._guest = guest
        self._got: dict[int, None] = {}  # a signal counts once: mom sends each several times over

    def run(self, understand: Callable[[], _Call]) -> int:
        """The job's exit status, 255 with a message if the guest was lost. What is to be run is found out while ssh connects."""
        import signal
        import threading

        forwarded = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                     signal.SIGALRM, signal.SIGCONT, signal.SIGTSTP]
        # ssh inherits "ignore": mom signals every process of the session, and the connection must outlive that
        signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
        for number in forwarded:
            signal.signal(number, signal.SIG_IGN)
        source, sink = os.pipe()
        argv = [*self._master, *self._target, self._guest.run_command(self.id)]
        child = os.posix_spawn(argv[0], argv, _ssh_environment(), setsigmask=(),
                               file_actions=[(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_CLOSE, sink)])
        os.close(source)
        for number in forwarded:
            signal.signal(number, lambda number, _frame: self._got.update({number: None}))
        call = understand()
        threading.Thread(target=_pump, args=(call.request(), sink, call.uses_input), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
        return self._wait(child)

    def _wait(self, child: int) -> int:
        """Passes signals on until ssh ends."""
        import select

        handle = os.pidfd_open(child)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(_LOOK_MS):
            for number in list(self._got):
                if self._pass_on(number):
                    del self._got[number]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if 0 <= code < _FAILURE else self._ask_status(code)

    def _pass_on(self, number: int) -> bool:
        """Whether the signal reached the job; not so while the job is only being started."""
        import signal

        name = signal.Signals(number).name.removeprefix("SIG")
        return self._command(self._guest.signal_command(self.id, name))[0] == 0

    def _ask_status(self, code: int) -> int:
        """ssh says 255 for a lost connection as for a job that exits so: the guest knows which."""
        status, output = self._command(self._guest.status_command(self.id))
        if status == 0 and output.strip().isdigit():
            return int(output) & 0xFF
        os.write(2, f"vmbatch: the connection to the job's guest was lost (ssh: {code}); the job may not have ended\n".encode())
        return _FAILURE

    def _command(self, command: str) -> tuple[int, bytes]:
        """A short command in the guest beside the job: (exit status, output)."""
        import subprocess

        try:
            done = subprocess.run([*self._beside, "-n", *self._target, command], stdin=subprocess.DEVNULL, env=_ssh_environment(),
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return _FAILURE, b""
        return done.returncode, done.stdout[:64]


def _ssh_environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}


def _pump(request: bytes, sink: int, uses_input: bool) -> None:
    """The request, then all of our standard input if it is the job's."""
    try:
        _write(sink, request)
        while uses_input and (data := os.read(0, _PUMP_BYTES)):
            _write(sink, data)
    except OSError:
        pass
    os.close(sink)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
