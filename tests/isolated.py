"""A process on a node of its own, for what tests play there."""

import subprocess
import sys
import tempfile
from typing import IO

from lab import place


class Isolated:
    """A module's `main` in namespaces of its own; all in it die with it. Isolated, as hooks must be, which are forked from it.

    It is given a directory that ends with it, reads lines and answers each of them with one.
    """

    def __init__(self, module: str) -> None:
        self._disk = tempfile.TemporaryDirectory(prefix="vmbatch-worker-")
        start = f"import sys; sys.path.append({str(place.CLONE)!r}); from {module} import main; main()"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", sys.executable, "-I", "-c", start,
             self._disk.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place.CLONE,
        )

    def exchange(self, line: str) -> str:
        """The answer; '' if the process has died."""
        to, back = self._streams()
        to.write(line + "\n")
        to.flush()
        return back.readline()

    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """Ends the node."""
        self._process.kill()
        self._process.wait()
        for stream in self._streams():
            stream.close()
        self._disk.cleanup()
