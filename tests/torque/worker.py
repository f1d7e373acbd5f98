"""A worker: its own node, then scenes from stdin, one a line of JSON, and an answer to each on stdout: what went wrong, or null.

A scene is a function of a test's module; started by `pool`, with an empty directory for its disk.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stage import Stage


def main() -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the node's programs may say is not an answer
    os.set_inheritable(answers.fileno(), False)
    from .stage import Stage

    stage = Stage(Path(sys.argv[1]))
    for line in sys.stdin:
        answers.write(json.dumps(_play(stage, *json.loads(line))) + "\n")
        answers.flush()


def _play(stage: "Stage", module: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        stage.clear()
        return {"answer": getattr(importlib.import_module(module), name)(stage, **arguments)}
    except BaseException as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        return {"failed": text[-12000:]}
