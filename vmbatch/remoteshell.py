"""The job's shell on the node: runs the job in its guest over ssh, as if it ran here.

Three ways lead here: as the shell of the job (`qsub -S`), as mom's `$job_starter` (the user's shell, or the words of a task, as
arguments), and as the interpreter of a script (`#!`, the script's path as first argument).

Of the environment only what mom sets last is trusted, and none of it more than the user running this could do anyway. The job
waits for what is imported before ssh is started: as little as can be.
"""

from __future__ import annotations

import os
import sys

from . import native

TYPE_CHECKING = False  # typing itself would cost a native job more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

    from .handover import Handover
    from .shell.call import Call

_FAILURE = 255


def main(started: bool = False) -> None:
    """`remoteshell`; `started`: by its starter (shell/starter.c), which hides the job's environment from all loaders."""
    from .shell import RefusedError, environment

    if not started:
        native.uncoerce()
    words = sys.argv[2:] if started else sys.argv[1:]
    environ = environment.read(started)
    queue, job_id = _identity(environ)
    if not sys.flags.isolated:
        _refuse(f"{sys.argv[0]} must run as `python3 -I`, or the user's own modules would run on the node; "
                "have `vmbatch hooks` write it anew", "VB916")
    try:
        ours = native.may_name_queue(queue)
    except OSError as error:
        _refuse(f"{native.CONFIG}: {error.strerror}", "VB107")
    if not ours:
        _native(queue, words, environ)
    try:
        os._exit(_run(queue, job_id, words, environ))
    except RefusedError as refused:
        _refuse(str(refused), refused.code)


def _identity(environ: dict[str, str]) -> tuple[str, str]:
    """Queue and id of the job: variables that mom sets behind the user's own, so that nobody can forge them."""
    return environ.get("PBS_QUEUE", ""), environ.get("PBS_JOBID", "")


def _refuse(text: str, code: str) -> None:
    os.write(2, f"vmbatch: the job does not run: {text} [{code}]\n".encode(errors="replace"))
    os._exit(_FAILURE)


def _native(queue: str, words: list[str], environ: dict[str, str]) -> None:
    """A job of a native queue runs as it would without us: as `$job_starter` we step aside."""
    if not words:
        _refuse(f"queue {queue or '(none)'} has no guests, and remoteshell is no shell for the node; "
                "leave out -S, or submit to a queue with guests", "VB803")
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    program = words[0]
    if environ.get("PBS_TASKNUM") == "1" and environ.get("SHELL") == program:  # without $job_starter it is a login shell
        words = ["-" + os.path.basename(program), *words[1:]]
    try:
        os.execvpe(program, words, environ)  # noqa: S606
    except OSError as error:
        _refuse(f"{program}: {error.strerror}", "VB803")


def _run(queue: str, job_id: str, words: list[str], environ: dict[str, str]) -> int:
    """The job's exit status. RefusedError."""
    from .shell import RefusedError, environment, proof, run
    from .shell.call import Call as Understood

    found = proof.find(job_id, task=environ.get("PBS_TASKNUM", "1") != "1")
    if found is None:
        if not _has_template(queue):
            _native(queue, words, environ)
        raise RefusedError(f"job {job_id} of queue {queue} has no guest: its prologue has not handed one over "
                           "(admin: is VmBatch's prologue in mom_priv, and did it end by itself?)")
    place, handover = found
    environ = environment.of_guest(environ)
    terminal = os.isatty(0)

    def understand() -> Call:
        return Understood(handover, words, environ, terminal=terminal)

    if not handover.address and not handover.console:
        for line in _refused(place).splitlines():
            os.write(2, f"vmbatch: {line}\n".encode())
        return _FAILURE
    if handover.console:
        return _run_through_console(place, handover, understand, terminal=terminal)
    if terminal:
        return run.on_terminal(place, handover, understand(), environ)
    if os.path.exists(f"{place}/stage"):
        from .staging import around

        return around(place, handover, environ, lambda: run.without_terminal(place, handover, understand))
    return run.without_terminal(place, handover, understand)


def _run_through_console(place: str, handover: Handover, understand: Callable[[], Call], *, terminal: bool) -> int:
    from .consoleshell import Session
    from .shell import RefusedError
    from .shell.guest import Guest

    if terminal:
        raise RefusedError("its guest has no network, and an interactive job needs one; "
                           "submit to a queue whose guests can be reached by ssh", code="VB803")
    return Session(handover.console, Guest(place, handover)).run(understand)


def _refused(place: str) -> str:
    """Why the prologue did not give the job a guest, as it wants its user to know. RefusedError."""
    from .shell import RefusedError, proof

    try:
        return proof.trusted(f"{place}/refusal").decode(errors="replace")
    except OSError:
        raise RefusedError("its guest cannot be reached in any way") from None


def _has_template(queue: str) -> bool:
    from . import config
    from .errors import VmBatchError
    from .shell import RefusedError

    try:
        with open(native.CONFIG, "rb") as file:
            return config.parse(file.read(), native.CONFIG).template_path(queue) is not None
    except VmBatchError as error:
        raise RefusedError("; ".join(error.lines()), code=error.code) from None
