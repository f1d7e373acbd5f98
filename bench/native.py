"""Hooks for a job that is not ours, against the least that a Python process costs."""

import subprocess
from collections.abc import Callable, Iterator

from lab.mom import Mom
from vmbatch.report.figure import Figure

from .beside import against, measure

NULL = subprocess.DEVNULL
_LIMIT = 1.5
_REFERENCE = "python3 -I -c pass"


def figures(rounds: int = 40) -> Iterator[Figure]:
    """Each hook, with the interpreter that it has here."""
    mom = Mom()
    with open(mom.home / "mom_priv/prologue", encoding="utf-8") as hook:
        interpreter = hook.readline()[2:].split()[0]
    before = ["1.server", "alice", "alice", "job", "nodes=1", "batch", "", "/nonexistent"]
    after = ["1.server", "alice", "alice", "job", "0", "nodes=1", "", "batch", "", "0", "/nonexistent"]
    hooks = {
        "prologue": _run([str(mom.home / "mom_priv/prologue"), *before]),
        "epilogue": _run([str(mom.home / "mom_priv/epilogue"), *after]),
        "remoteshell as job_starter": _run([str(mom.home / "mom_priv/remoteshell"), "/bin/true"], {"PBS_QUEUE": "batch"}),
    }
    floors = {_REFERENCE: _run([interpreter, "-I", "-c", "pass"]),
              "python3 -I -c pass, Debian's": _run(["/usr/bin/python3", "-I", "-c", "pass"])}
    yield from against("A job of a native queue", measure({**floors, **hooks}, rounds), _REFERENCE, dict.fromkeys(hooks, _LIMIT))


def _run(argv: list[str], environment: dict[str, str] | None = None) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, stdin=NULL, stdout=NULL, stderr=NULL, check=True, env=environment)

    return run
