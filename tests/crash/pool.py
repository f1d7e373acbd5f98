"""Workers, each on a node of its own."""

import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from typing import IO

from lab import place

from .case import NOT_REACHED, Answer, Case

_WORKERS = 4
"""For two processors: many cases mostly wait."""
_START = f"import sys; sys.path.append({str(place.CLONE)!r}); from tests.crash.worker import main; main()"


class Worker:
    """One process in namespaces of its own; all in it die with it. Isolated, as hooks must be, which are forked from it."""

    def __init__(self) -> None:
        self._disk = tempfile.TemporaryDirectory(prefix="vmbatch-crash-")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child",
             sys.executable, "-I", "-c", _START, self._disk.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place.CLONE,
        )

    def ask(self, case: Case) -> Answer:
        """Plays a case."""
        to, back = self._streams()
        to.write(case.encode() + "\n")
        to.flush()
        line = back.readline()
        return Answer.decode(line) if line else Answer(leaks=[f"the worker died of {case}"])

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
    """Deals cases out to workers. `missed` counts those whose point did not come."""

    def __init__(self) -> None:
        self._workers = [Worker() for _ in range(_WORKERS)]
        self.runs = 0
        self.leaks = 0
        self.missed = 0

    def play(self, cases: Iterable[Case]) -> list[tuple[Case, Answer]]:
        """Every case with its answer, in no particular order."""
        todo: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in cases:
            todo.put(case)
        done: list[tuple[Case, Answer]] = []

        def work(worker: Worker) -> None:
            while True:
                try:
                    case = todo.get_nowait()
                except queue.Empty:
                    return
                done.append((case, worker.ask(case)))

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return done

    def count(self, cases: Iterable[Case]) -> list[str]:
        """Plays cases for the tally; a line for each leak."""
        found = []
        for case, answer in self.play(cases):
            self.runs += answer.runs
            self.leaks += len(answer.leaks)
            self.missed += answer.where == NOT_REACHED
            found += [f"{case.kind} {'after' if case.after else 'before'} {case.at} ({answer.where}), {case.begin}, "
                      f"{case.cleanup}, seed {case.seed}: {leak}" for leak in answer.leaks]
        return found

    def ask(self, case: Case) -> Answer:
        """One case that does not count."""
        return self._workers[0].ask(case)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.close()
