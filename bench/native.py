"""Hooks for a job that is not ours, against the least that a Python process costs."""

import subprocess
from collections.abc import Callable, Iterator

from lab.mom import Mom
from vmbatch.report.figure import Figure

from .beside import against, measure

NULL = subprocess.DEVNULL
_LIMIT = 1.5
REFERENCE = "python3 -I -c pass"


def figures(rounds: int = 40) -> Iterator[Figure]:
    """Each hook, with the interpreter that it has here."""
    mom = Mom()
    before = ["1.server", "alice", "alice", "job", "nodes=1", "batch", "", "/nonexistent"]
    after = ["1.server", "alice", "alice", "job", "0", "nodes=1", "", "batch", "", "0", "/nonexistent"]
    hooks = {
        "prologue": _run([str(mom.home / "mom_priv/prologue"), *before]),
        "epilogue": _run([str(mom.home / "mom_priv/epilogue"), *after]),
        "remoteshell as job_starter": _run([str(mom.home / "mom_priv/remoteshell"), "/bin/true"], {"PBS_QUEUE": "batch"}),
    }
    floors = {REFERENCE: _run([interpreter(mom), "-I", "-c", "pass"]),
              "python3 -I -c pass, Debian's": _run(["/usr/bin/python3", "-I", "-c", "pass"])}
    yield from against("A job of a native queue", measure({**floors, **hooks}, rounds), REFERENCE, dict.fromkeys(hooks, _LIMIT))


def interpreter(mom: Mom) -> str:
    """The Python of the hooks here."""
    with open(mom.home / "mom_priv/prologue", encoding="utf-8") as hook:
        return hook.readline()[2:].split()[0]


def _run(argv: list[str], environment: dict[str, str] | None = None) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, stdin=NULL, stdout=NULL, stderr=NULL, check=True, env=environment)

    return run
