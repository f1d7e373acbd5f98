"""Workers, each on a node of its own, for scenes of tests."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from lab import place

Scene = Callable[..., Any]
_START = f"import sys; sys.path.append({str(place.CLONE)!r}); from tests.torque.worker import main; main()"


class Worker:
    """One process in namespaces of its own; all in it die with it. Isolated, as hooks must be."""

    def __init__(self) -> None:
        self._disk = tempfile.TemporaryDirectory(prefix="vmbatch-torque-")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", sys.executable, "-I", "-c", _START,
             self._disk.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place.CLONE,
        )

    def play(self, scene: Scene, **arguments: Any) -> Any:
        """What the scene returns; AssertionError with its traceback if it fails."""
        to, back = self._streams()
        to.write(json.dumps([scene.__module__, scene.__name__, arguments]) + "\n")
        to.flush()
        line = back.readline()
        told = json.loads(line) if line else {"failed": "the worker died"}
        if "failed" in told:
            raise AssertionError(told["failed"])
        return told["answer"]

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


class Pool:
    """Several workers at once."""

    def __init__(self, count: int) -> None:
        self._workers = [Worker() for _ in range(count)]

    def play(self, scene: Scene, cases: Sequence[dict[str, Any]]) -> list[Any]:
        """One case for each worker at most, all at once; what each returns."""
        answers: list[Any] = [None] * len(cases)

        def work(number: int) -> None:
            try:
                answers[number] = self._workers[number].play(scene, **cases[number])
            except AssertionError as error:
                answers[number] = [f"the scene failed: {error}"]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(cases))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def close(self) -> None:
        """Ends all."""
        for worker in self._workers:
            worker.close()
