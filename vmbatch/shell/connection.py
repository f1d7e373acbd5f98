"""ssh into the guest of a job: one connection for a run, and short commands beside it."""

from __future__ import annotations

import os
import time

from .. import request, sshargs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

    from ..handover import Handover

FAILURE = 255
_COMMAND_SECONDS = 60
_OUTPUT_LIMIT = 64
_TERM = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-._")


class Connection:
    """To the guest of a job, for the run `id`, 16 hexadecimal digits."""

    def __init__(self, place: str, handover: Handover) -> None:
        self.id = os.urandom(8).hex()
        self._handover = handover
        self._base = sshargs.client(place, handover.alias)
        self._socket = f"{place}/control/{self.id}"
        self._control = f"-oControlPath={self._socket}"
        self._target = sshargs.target(handover.user, handover.address, handover.port)
        self.answered = True
        """Whether the guest has answered when it was asked for the status of the run."""

    @property
    def up(self) -> bool:
        """Whether the guest has let us in."""
        return os.path.exists(self._socket)

    def start(self, stdin: int, *, close: tuple[int, ...] = (), blocked: Iterable[int] = ()) -> int:
        """Starts the run without a terminal, in a session of its own so that mom's signals pass the connection by; its process.

        It dies with the caller. `close`: descriptors that it must not have; `blocked`: signals that stay pending with it, which
        needs no session of its own then, and stays in our process group.
        """
        argv = [*sshargs.WITH_PARENT, *self._base, "-T", "-oControlMaster=yes", self._control, *self._target,
                request.run_command(self.id)]
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in close)]
        return os.posix_spawn(argv[0], argv, environment(), setsigmask=blocked, setsid=not blocked, file_actions=actions)

    def start_on_terminal(self, environ: dict[str, str]) -> int:
        """Starts the run on the terminal of our standard input, in our session; its process."""
        display = ["-Y"] if self._handover.x11 and environ.get("DISPLAY") else []
        argv = [*sshargs.WITH_PARENT, *self._base, *display, "-tt", "-oControlMaster=yes", self._control, *self._target,
                request.run_command(self.id)]
        own = environment()
        term = environ.get("TERM", "")
        if term and len(term) <= 60 and not set(term) - _TERM:
            own["TERM"] = term
        if display:
            own.update({name: environ[name] for name in ("DISPLAY", "XAUTHORITY", "HOME") if name in environ})
        return os.posix_spawn(argv[0], argv, own, setsigmask=())

    def give_request(self, data: bytes) -> bool:
        """Sends a request ahead of a run on a terminal; whether the guest took it. ssh's complaints go to our stderr."""
        return self._run(request.request_command(self.id), data, "-oControlPath=none", quiet=False)[0] == 0

    def signal(self, name: str, *, alone: bool = False) -> bool:
        """Whether the signal, `TERM`, reached the job, or its first process `alone`; not so while the job is being started."""
        return self._run(request.signal_command(self.id, name, alone=alone))[0] == 0

    def status(self) -> int | None:
        """The exit status of a run that has ended."""
        code, output = self._run(request.status_command(self.id))
        self.answered = code != FAILURE
        return int(output) & 0xFF if code == 0 and output.strip().isdigit() else None

    def _run(self, command: str, data: bytes = b"", control: str = "", *, quiet: bool = True) -> tuple[int, bytes]:
        """A short command in the guest beside the job, over its connection if that is there: (exit status, output)."""
        import subprocess

        beside = ["-oControlMaster=no", control or self._control]
        argv = [*sshargs.WITH_PARENT, *self._base, "-T", *beside, *self._target, command]
        given = os.memfd_create("request", os.MFD_CLOEXEC)
        try:
            os.write(given, data)
            os.lseek(given, 0, os.SEEK_SET)
            with subprocess.Popen(argv, stdin=given, env=environment(), stdout=subprocess.PIPE, start_new_session=True,
                                  stderr=subprocess.DEVNULL if quiet else None) as running:
                return _answer(running)
        except OSError:
            return FAILURE, b""
        finally:
            os.close(given)


def _answer(running: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Exit status and output of a short command; one that writes more than such a command does, or hangs, has failed."""
    import select
    import subprocess

    end, output = time.monotonic() + _COMMAND_SECONDS, b""
    while running.stdout is not None and len(output) <= _OUTPUT_LIMIT:
        if not select.select([running.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            break
        piece = os.read(running.stdout.fileno(), _OUTPUT_LIMIT + 1)
        if not piece:
            try:
                return running.wait(max(0.0, end - time.monotonic())), output
            except subprocess.TimeoutExpired:
                break
        output += piece
    running.kill()
    return FAILURE, b""


def environment() -> dict[str, str]:
    """Of all programs that are started: nothing of the user's."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/"}
