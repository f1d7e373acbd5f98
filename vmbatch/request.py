"""What the node asks of the kit in a guest: requests before a job's input, and commands (docs/architecture.md).

Read by the job's shell at its start, so that nothing is imported here.
"""

from __future__ import annotations

BASE = "/var/lib/vmbatch"
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._=:,+@%- ")
_FILE_CHUNK = 8192
_SIGNALS = frozenset((
    "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "WINCH", "KILL",
))


def escape(value: bytes) -> bytes:
    """For `printf %b` of a POSIX shell."""
    return b"".join([bytes((byte,)) if byte in _PLAIN else b"\\0%03o" % byte for byte in value])


class Request:
    """What a run in the guest is to do; exactly one of medium's script, `script`, `command` and `login`, a login shell.

    With `lifeline` what follows in the input is nothing of the job's, and its end is that of the connection.
    """

    __slots__ = ("arguments", "command", "directory", "environment", "lifeline", "login", "script", "shell")

    def __init__(
        self, *, environment: dict[bytes, bytes], directory: bytes = b"", shell: bytes = b"", script: bytes | None = None,
        arguments: bytes = b"", command: bytes | None = None, login: bool = False, lifeline: bool = False,
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.shell = shell
        self.script = script
        self.arguments = arguments
        self.command = command
        self.login = login
        self.lifeline = lifeline

    def encode(self) -> bytes:
        """The request as the kit's job.sh reads it."""
        lines = [b"vmbatch 1"]
        for name, value in sorted(self.environment.items()):
            lines.append(b"env " + name + b" " + escape(value))
        if self.directory:
            lines.append(b"cwd " + escape(self.directory))
        if self.shell:
            lines.append(b"shell " + escape(self.shell))
        if self.script is not None:
            chunks = range(0, max(1, len(self.script)), _FILE_CHUNK)
            lines.extend(b"file " + escape(self.script[at : at + _FILE_CHUNK]) for at in chunks)
        if self.arguments:
            lines.append(b"args " + escape(self.arguments))
        if self.command is not None:
            lines.append(b"command " + escape(self.command))
        if self.login:
            lines.append(b"login")
        if self.lifeline:
            lines.append(b"lifeline")
        lines.append(b"run")
        return b"\n".join(lines) + b"\n"


def _kit(script: str, run: str, *words: str) -> str:
    return " ".join((f"exec /bin/sh {BASE}/kit/{script}.sh", f"{int(run, 16):016x}", *words))


def login_command(*, party: bool = False) -> str:
    """Proves that the user can log in; with `party`, reads from its input what the job's other guests are."""
    return f"exec /bin/sh {BASE}/kit/login.sh{' party' if party else ''}"


def run_command(run: str) -> str:
    """Runs a request; `run` is hexadecimal."""
    return _kit("job", run)


def request_command(run: str) -> str:
    """Takes a request, for a run that is started on a terminal afterwards."""
    return _kit("request", run)


def status_command(run: str) -> str:
    """Prints the exit status of a run that has ended."""
    return _kit("status", run)


def signal_command(run: str, name: str, *, alone: bool = False) -> str:
    """Sends a signal, `TERM`, to all processes of a run's session, or to the first one `alone`."""
    if name not in _SIGNALS:
        raise ValueError(name)
    return _kit("signal", run, name, *(("alone",) if alone else ()))
