"""What a test of the hook has before it: a mom, and programs that write down how they were called."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from lab.openpbs import Job, Mom

NOTES = Path("/run/vmbatch/openpbs")
HANDOVER = Path("/run/vmbatch/handover")
JOURNALS = Path("/var/lib/vmbatch/jobs")

PROGRAM = r"""#!/bin/sh
{ printf '%s' "${0##*/}"; printf ' [%s]' "$@"; echo; } >> "$(dirname "$0")/calls"
echo "says ${0##*/}"; echo "complains ${0##*/}" >&2
cat
@WHAT@
"""


class Desk:
    """A mom, the directory of programs, and what the test puts onto the node."""

    def __init__(self, mom: Mom, programs: Path) -> None:
        self.mom = mom
        self.programs = programs
        self._made: list[Path] = []

    def program(self, name: str, what: str = "exit 0") -> None:
        """A program that writes its call down and then does `what`."""
        path = self.programs / name
        path.write_text(PROGRAM.replace("@WHAT@", what))
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The calls of all programs, in their order."""
        with contextlib.suppress(FileNotFoundError):
            return (self.programs / "calls").read_text().splitlines()
        return []

    def verdict(self, job: Job, verdict: str, text: str) -> str:
        """Shell words with which a prologue says what is to become of its job."""
        return f"echo '{json.dumps({'verdict': verdict, 'text': text})}' > {NOTES / slug(job)}.verdict; exit 2"

    def hand_over(self, job: Job) -> None:
        """The job has a guest."""
        self._put(HANDOVER / slug(job) / "record")

    def journal(self, job: Job) -> None:
        """A start of the job owns something."""
        self._put(JOURNALS / f"{slug(job)}.journal")

    def _put(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._made.append(path)

    def facts(self, job: Job) -> tuple[str, dict[str, Any]] | None:
        """Queue and description that the hook has noted."""
        path = NOTES / f"{slug(job)}.facts"
        if not path.exists():
            return None
        assert path.stat().st_mode & 0o7777 == 0o600
        queue, _, text = path.read_text().partition("\n")
        return queue, json.loads(text)

    def clear(self) -> None:
        """Takes back what the test put onto the node."""
        for path in self._made:
            if path.parent.parent == HANDOVER:
                shutil.rmtree(path.parent, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in NOTES.glob("*") if NOTES.exists() else ():
            path.unlink()


def slug(job: Job) -> str:
    """The job's id in file names."""
    return job.id.replace("[", "-").replace("]", "")
