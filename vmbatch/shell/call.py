"""What is to be run in the guest: out of arguments, standard input and environment."""

from __future__ import annotations

import os

from . import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..handover import Handover

_OF_NODE = frozenset((
    "HOME", "HOSTNAME", "LOGNAME", "MAIL", "OLDPWD", "PBS_GPUFILE", "PBS_JOBCOOKIE", "PBS_MICFILE", "PBS_MOMPORT", "PWD", "SHELL",
    "SHLVL", "USER", "_",
))
_SHELL_NAMES = frozenset(["ash", "bash", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "zsh"])
_NAME = "remoteshell"
_PIECE_BYTES = 64 << 10


class Call:
    """A call of the job's shell with `words` behind its name; `terminal`: standard input is one, and there is no script.

    Torque's builds hand a script over in three ways (resmom/start_exec.c): its path on a line of standard input, with the
    user's arguments behind it (--enable-shell-pipe, the default); its path as the first argument (--enable-shell-use-argv); the
    script itself on standard input (--disable-shell-pipe). As `$job_starter` there is the user's shell before all that, which
    mom has in SHELL, too; and a task's words, for all tasks but the first.
    """

    def __init__(self, handover: Handover, words: list[str], environ: dict[str, str], *, terminal: bool = False) -> None:
        self.handover = handover
        self.terminal = terminal
        self.shell = ""
        self.script: bytes | None = None
        self.arguments = b""
        self.directory = b""
        self.command: bytes | None = None
        self.uses_input = not is_null(0)
        self._environ = environ
        words = list(words)
        if words and _is_task(environ):
            self.command = b"exec " + b" ".join([quote(os.fsencode(word)) for word in words])
            return
        known = handover.script.path if handover.script else None
        if words and os.path.basename(words[0]).lstrip("-") == _NAME:  # $job_starter and qsub -S at once
            words.pop(0)
        elif words and words[0] != known and (words[0] == environ.get("SHELL") or _is_program(words[0])):
            self.shell = words.pop(0).lstrip("-")
        options = ""
        while words and _is_options(words[0]):
            options += words.pop(0)
        if "c" in options:
            if len(words) != 1:
                raise RefusedError("-c takes one command line", code="VB803")
            self.command = os.fsencode(words[0])
        elif words:
            self._take_script(words[0], known)
            self.arguments = b" ".join([quote(os.fsencode(word)) for word in words[1:]])
        elif not terminal:
            self._read_input(known)

    def _take_script(self, path: str, known: str | None) -> None:
        """A script file; the job's own lies in the guest already."""
        if path == known:
            return
        try:
            with open(path, "rb") as file:
                self.script = file.read()
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror}", code="VB803") from None

    def _read_input(self, known: str | None) -> None:
        """A line with the script's path, or the script."""
        self.uses_input = False
        data = b"".join(iter(lambda: os.read(0, _PIECE_BYTES), b""))
        line, _, rest = data.partition(b"\n")
        path = os.fsencode(known or "")
        if path and not rest:
            line = self._as_openpbs_has_it(line, path)
        if path and not rest and (line == path or line.startswith(path + b" ")):
            self.arguments = line[len(path) + 1 :]
        elif data:
            self.script = data

    def _as_openpbs_has_it(self, line: bytes, path: bytes) -> bytes:
        """Its line is for a shell (finish_exec): an array member's path has backslashes, `cd SANDBOX;` may stand before it."""
        written = path.replace(b"[", b"\\[").replace(b"]", b"\\]")
        change, _, last = line.rpartition(b";")
        if change.startswith(b"cd ") and last == written:
            self.directory = change[3:]
            return path
        return path if line == written else line

    def request(self) -> bytes:
        """For the kit's job.sh."""
        from ..request import Request

        return Request(
            environment=self._environment(), directory=self.directory or os.fsencode(_directory()), shell=os.fsencode(self.shell),
            script=self.script, arguments=self.arguments, command=self.command,
            login=self.terminal and self.command is None and self.script is None,
            lifeline=not self.uses_input and not self.terminal and not self.handover.console,
        ).encode()

    def _environment(self) -> dict[bytes, bytes]:
        """The batch system's and the submitter's variables; what is as mom's own stays on the node."""
        from ..digest import of_text

        chosen = {}
        for name, value in self._environ.items():
            if name in _OF_NODE or not (name.isascii() and name.isidentifier()):
                continue
            if self.handover.environment.get(name) == of_text(value) and not name.startswith(("PBS_", "SLURM_")):
                continue
            if name == "PBS_NODEFILE" and not self.handover.node_file:
                continue
            if self.terminal and (name == "TERM" or (name in ("DISPLAY", "XAUTHORITY") and self.handover.x11)):
                continue  # ssh brings them
            chosen[os.fsencode(name)] = os.fsencode(value)
        return chosen


def _is_task(environ: dict[str, str]) -> bool:
    """Whether mom starts a program for the job (TM, as for pbsdsh) and not the job: that is the first task of the first node."""
    return environ.get("PBS_NODENUM", "0") != "0" or environ.get("PBS_TASKNUM", "1") != "1"


def _is_options(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not word[1:].strip("cil")


def _is_program(path: str) -> bool:
    """Whether this is the user's shell, as `$job_starter` gets it, and not a script."""
    if os.path.basename(path).lstrip("-") in _SHELL_NAMES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def is_null(descriptor: int) -> bool:
    """Whether there is nothing to be read, now or later: closed, or /dev/null."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return True
    return status.st_mode & 0o170000 == 0o020000 and status.st_rdev == os.makedev(1, 3)


def quote(word: bytes) -> bytes:
    return b"'" + word.replace(b"'", b"'\\''") + b"'"


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""
