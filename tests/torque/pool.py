"""Workers, each on a node of its own, for scenes of tests."""

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.isolated import Isolated

Scene = Callable[..., Any]


class Worker(Isolated):
    """Plays scenes."""

    def __init__(self) -> None:
        super().__init__("tests.torque.worker")

    def play(self, scene: Scene, **arguments: Any) -> Any:
        """What the scene returns; AssertionError with its traceback if it fails."""
        line = self.exchange(json.dumps([scene.__module__, scene.__name__, arguments]))
        told = json.loads(line) if line else {"failed": "the worker died"}
        if "failed" in told:
            raise AssertionError(told["failed"])
        return told["answer"]


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
