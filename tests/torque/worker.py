"""A worker: its own node, then scenes from stdin, one a line of JSON, and an answer to each on stdout: what went wrong, or null.

A scene is a function of a test's module; started by `pool`, with an empty directory for its disk.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the node's programs may say is not an answer
    os.set_inheritable(answers.fileno(), False)
    from .stage import Stage

    stage = Stage(Path(sys.argv[1]))
    for line in sys.stdin:
        module, name, arguments = json.loads(line)
        try:
            stage.clear()
            answer = getattr(importlib.import_module(module), name)(stage, **arguments)
            told = {"answer": answer}
        except BaseException as error:
            text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
            told = {"failed": text[-12000:]}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
