"""The lab's door to other programs: argument lists only, and errors that show what the program said."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class ProcessError(Exception):
    """A program ended with another status than 0."""


def run(
    arguments: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Run to the end and return what it wrote to stdout; `timeout` in seconds."""
    return run_bytes(arguments, stdin=stdin, cwd=cwd, env=env, timeout=timeout).decode(errors="replace")


def run_bytes(
    arguments: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> bytes:
    """As `run`, for programs whose output is not text."""
    done = subprocess.run(
        [str(argument) for argument in arguments], input=stdin, capture_output=True, cwd=cwd, env=env, timeout=timeout
    )
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-3000:]
        raise ProcessError(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{said}")
    return done.stdout
