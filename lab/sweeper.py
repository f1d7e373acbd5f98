"""`vmbatch sweep --dry-run` without a program's start: forked from a process that has loaded it, which ends with its owner.

For who asks often, or where that start takes seconds, as under emulation.
"""

import gc
import importlib
import os
import subprocess
import sys

from . import loaded

LOADS = ("vmbatch.cli", "vmbatch.hooked", "vmbatch.sweep", "vmbatch.host.xen")
"""What the command loads when it needs it; the rest comes with these."""
_SECONDS = 600.0


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

    def close(self) -> None:
        """Ends the process."""
        with self._server:
            pass


def main() -> None:
    """A sweep for each line of standard input; each answer begins with a line that has its length in bytes."""
    for name in LOADS:
        importlib.import_module(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "wb")
    for _line in sys.stdin.buffer:
        said = loaded.vmbatch(["sweep", "--dry-run"], _SECONDS)[1].encode()
        answers.write(b"%d\n%s" % (len(said), said))
        answers.flush()


if __name__ == "__main__":
    main()
