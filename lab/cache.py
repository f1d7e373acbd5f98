"""Directories that are built once for each state of their builder's inputs, safely by several builders at once."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .place import CACHE
from .progress import step

KEEP = 2
"""How many directories of a kind survive a new build in any case."""
IN_USE = 3600.0
"""Seconds since its last use by some lab for which a directory survives too: a guest may read it, or a template name it."""


def digest(inputs: Iterable[Path]) -> str:
    """12 hex digits for names, modes and contents of files and trees, in the order given."""
    total = hashlib.sha256()
    for top in inputs:
        for path in [top, *sorted(top.rglob("*"))]:
            if path.is_file() and "__pycache__" not in path.parts:
                executable = bool(path.stat().st_mode & 0o100)
                total.update(f"{top.name}/{path.relative_to(top)} {executable} {path.stat().st_size}\n".encode())
                total.update(path.read_bytes())
    return total.hexdigest()[:12]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` of the cache; it ends with the process, however that ends."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(CACHE / f".lock-{name}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def built(kind: str, inputs: Iterable[Path], build: Callable[[Path], None]) -> Path:
    """The directory CACHE/KIND-DIGEST, filled by `build` if there is none for these inputs yet."""
    wanted = CACHE / f"{kind}-{digest(inputs)}"
    if _in_use(wanted):
        return wanted
    with locked(kind):
        if _in_use(wanted):
            return wanted
        for stale in CACHE.glob(f".build-{kind}-*"):  # we hold the lock: its builder was killed
            shutil.rmtree(stale)
        scratch = Path(tempfile.mkdtemp(prefix=f".build-{kind}-", dir=CACHE))
        try:
            with step(f"build {kind} ({wanted.name})"):
                build(scratch)
            scratch.chmod(0o755)
            os.rename(scratch, wanted)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        prune(kind)
    return wanted


def _in_use(directory: Path) -> bool:
    """Note that a directory is used from now on, if there is one: its time of change is that of its last use."""
    try:
        os.utime(directory)
    except FileNotFoundError:
        return False
    return True


def prune(kind: str) -> None:
    """Remove the directories of a kind that nobody wants any more; the caller holds its lock."""
    found = {path: path.stat().st_mtime for path in CACHE.glob(f"{kind}-{'?' * 12}")}
    newest_first = sorted(found, key=found.__getitem__, reverse=True)
    for old in newest_first[KEEP:]:
        if found[old] < time.time() - IN_USE:
            shutil.rmtree(old)
