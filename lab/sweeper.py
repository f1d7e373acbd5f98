"""`vmbatch sweep --dry-run` without a program's start: forked from a process that has loaded it, which ends with its owner.

For machines on which that start takes seconds, as under emulation.
"""

import importlib
import os
import subprocess
import sys


class Sweeper:
    """A process that waits for its next sweep; it ends with its owner, whose end of the pipe closes."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, "-m", "lab.sweeper"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def dry_run(self) -> str:
        """What a sweep prints, on both streams."""
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"\n")
        stdin.flush()
        return stdout.read(int(stdout.readline())).decode()


def main() -> None:
    """A sweep for each line of standard input; each answer begins with a line that has its length in bytes."""
    from vmbatch.cli import main as command

    importlib.import_module("vmbatch.sweep")

    answers = os.fdopen(os.dup(1), "wb")
    for _line in sys.stdin.buffer:
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.dup2(theirs, 1)
            os.dup2(theirs, 2)
            command(["sweep", "--dry-run"])
        os.close(theirs)
        with open(ours, "rb") as opened:
            said = opened.read()
        os.wait()
        answers.write(b"%d\n%s" % (len(said), said))
        answers.flush()


if __name__ == "__main__":
    main()
