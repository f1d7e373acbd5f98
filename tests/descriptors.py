"""What this process has open: for tests that nothing is left open."""

import gc
import os


def descriptors() -> set[tuple[str, str]]:
    """Number and target of each; what an earlier test left to the garbage collector is closed before."""
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            continue
    return found
