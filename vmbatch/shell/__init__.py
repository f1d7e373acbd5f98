"""The parts of the job's shell on the node: proof, what is to be run, and how it is carried into the guest.

A job waits for what is imported here before ssh is started: nothing but what Python has loaded already.
"""

import os


class RefusedError(Exception):
    """The job may not run; the text says why."""


def say(text: str) -> None:
    """A line in the job's stderr."""
    import contextlib

    with contextlib.suppress(OSError):
        os.write(2, f"vmbatch: {text}\n".encode(errors="replace"))
