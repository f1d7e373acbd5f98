"""A task of Slurm's on the node: runs it in the job's guest over ssh, as if it ran here.

Slurm's plugin (slurm/vmbatch.c) starts this in place of a batch script, or of a task of a step, with an environment of its own
that users cannot change. The job's is in a file without a name: NAME=VALUE, each with a NUL behind it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shell.task import Task

_FAILURE = 255
_NO_GUEST = 1
_PIECE_BYTES = 1 << 20
_LIMITS = "SLURM_RLIMIT_"
"""Of the names of the submitter's limits, which slurmstepd takes for itself."""


def main() -> None:
    """`slurm-task`, with the words of what is to be run."""
    from .shell import RefusedError, say

    try:
        if not sys.flags.isolated:
            raise RefusedError(f"{sys.argv[0]} must run as `python3 -I`; have `vmbatch hooks` write it anew", code="VB916")
        status = _run(sys.argv[1:])
    except RefusedError as refused:
        say(f"the job does not run: {refused}", refused.code)
        status = _FAILURE
    os._exit(status)


def _run(words: list[str]) -> int:
    """The task's exit status. RefusedError."""
    from .shell import RefusedError, proof, run
    from .shell.task import Task as Understood

    try:
        job_id, queue, step = (os.environ[f"VMBATCH_{name}"] for name in ("JOB", "QUEUE", "STEP"))
        environ = read_environment(int(os.environ["VMBATCH_ENVIRONMENT"]))
    except (OSError, ValueError, KeyError) as error:
        raise RefusedError(f"its environment was not handed over: {error} (admin: slurm-task is for Slurm's plugin)",
                           code="VB803") from None
    found = proof.find(job_id)
    if found is None:
        return _explain(job_id, queue)
    place, handover = found
    terminal = os.isatty(0)

    def understand() -> Task:
        return Understood(handover, step, words, environ, terminal=terminal)

    if handover.console:
        from .consoleshell import Session
        from .shell.guest import Guest

        return Session(handover.console, Guest(place, handover)).run(understand)
    if terminal:
        return run.on_terminal(place, handover, understand(), environ, of_many=True)
    return run.without_terminal(place, handover, understand, of_many=True)


def read_environment(descriptor: int) -> dict[str, str]:
    """The job's environment out of its file. OSError."""
    text = b"".join(iter(lambda: os.read(descriptor, _PIECE_BYTES), b""))
    os.close(descriptor)
    entries = (entry.partition(b"=") for entry in text.split(b"\0"))
    environ = {os.fsdecode(name): os.fsdecode(value) for name, equals, value in entries if equals}
    return {name: value for name, value in environ.items() if not name.startswith(_LIMITS)}


def _explain(job_id: str, queue: str) -> int:
    """Tells the user why a job has no guest, if its Prolog has left word; the task's exit status. RefusedError."""
    from .shell import RefusedError, proof, say
    from .sshargs import HANDOVER

    try:
        lines = proof.trusted(f"{HANDOVER}/{job_id}/refusal").decode(errors="replace").splitlines()
    except OSError:
        raise RefusedError(f"job {job_id} of partition {queue} has no guest: its Prolog has not handed one over "
                           "(admin: is slurm-prolog the Prolog in slurm.conf?)") from None
    for line in lines:
        say(line)
    return _NO_GUEST
