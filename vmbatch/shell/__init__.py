"""The parts of the job's shell on the node: proof, what is to be run, and how it is carried into the guest.

A job waits for what is imported here before ssh is started: nothing but what Python has loaded already.
"""

import os

LOST = "VB802"
"""The code, in the catalogue of errors, of a guest that was lost under its job."""


class RefusedError(Exception):
    """The job may not run; the text says why, and `code` is the catalogue's (vmbatch/catalogue.py)."""

    def __init__(self, text: str, *, code: str = "VB801") -> None:
        super().__init__(text)
        self.code = code


def say(text: str, code: str = "") -> None:
    """A line in the job's stderr."""
    import contextlib

    with contextlib.suppress(OSError):
        os.write(2, f"vmbatch: {text}{f' [{code}]' if code else ''}\n".encode(errors="replace"))
