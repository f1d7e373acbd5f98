"""Workers, each on a node of its own."""

import queue
import threading
from collections.abc import Iterable

from tests.isolated import Isolated

from .case import NOT_REACHED, Answer, Case

_WORKERS = 4
"""For two processors: many cases mostly wait."""


class Worker(Isolated):
    """Plays cases."""

    def __init__(self) -> None:
        super().__init__("tests.crash.worker")

    def ask(self, case: Case) -> Answer:
        """Plays a case."""
        line = self.exchange(case.encode())
        return Answer.decode(line) if line else Answer(leaks=[f"the worker died of {case}"])


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
