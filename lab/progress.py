"""Progress of long steps on stderr: one line a step, with its seconds."""

import contextlib
import sys
import time
from collections.abc import Iterator


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins (on a terminal at once, else when it is done), and how long it took."""
    began = time.monotonic()
    live = sys.stderr.isatty()
    if live:
        print(f"  ....  {what}", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(f"failed  {what}", file=sys.stderr, flush=True)
        raise
    print(f"{time.monotonic() - began:5.1f}s  {what}", file=sys.stderr, flush=True)
