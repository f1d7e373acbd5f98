"""Hooks that wait for the tracer, and hooks with a mistake in them."""

import os
import time

from . import syscalls
from .mutant import MUTATIONS

_HELD = "held."


def hook(name: str, mutation: str = "") -> str:
    """The name of a hook, or a mutated one, that waits for its tracer."""
    return _HELD + mutated(name, mutation)


def mutated(name: str, mutation: str) -> str:
    """The name of a mutated hook that does not wait."""
    return f"{mutation}.{name}" if mutation else name


def hold() -> None:
    """For a program that is no hook: a session of its own, which waits for the tracer."""
    os.setsid()
    prepare(_HELD)


def prepare(name: str) -> str:
    """The hook that this process is to be, as it is named above: waits for the tracer, makes the mistake."""
    mutation, _, plain = name.removeprefix(_HELD).rpartition(".")
    if mutation:
        MUTATIONS[mutation]()
    if name.startswith(_HELD):
        while not _traced():
            time.sleep(0.0005)
        syscalls.install()
    return plain


def _traced() -> bool:
    with open("/proc/self/status", encoding="ascii") as status:
        return any(line.startswith("TracerPid:") and int(line.split()[1]) for line in status)
