"""Room in the node's store: images and saved guests that nobody uses go, the one first that was not used for the longest time."""

import functools
import os
from collections.abc import Callable

from ..errors import NodeError
from . import saved
from .store import parts, taken


def make_room(directory: str, limit: int, keep_free: int, coming: int) -> None:
    """Evicts what was used least recently until `coming` bytes fit. NodeError if they do not."""
    candidates: list[tuple[float, Callable[[], bool]]] = [
        (content.used, functools.partial(store.remove, content.name, content.keys))
        for store in parts(directory) for content in store.contents()]
    candidates += [(used, functools.partial(saved.remove, guest.directory)) for guest, used in saved.every(directory)]
    for _used, remove in sorted(candidates, key=lambda candidate: candidate[0]):
        if _missing(directory, limit, keep_free, coming) <= 0:
            return
        remove()
    missing = _missing(directory, limit, keep_free, coming)
    if missing > 0:
        raise NodeError(f"the store of images {directory} has no room for {coming >> 20} MiB: {missing >> 20} MiB are missing, "
                        "and all else is in use", "see vmbatch image list; [images] limit and keep_free", code="VB310")


def _missing(directory: str, limit: int, keep_free: int, coming: int) -> int:
    """Bytes over the limit, or into what must remain free, whichever is more."""
    space = os.statvfs(directory)
    there = sum(store.size() for store in parts(directory))
    there += sum(taken(os.path.join(directory, name)) for name in ("once", "saved"))
    return max(there + coming - limit, coming + keep_free - space.f_bavail * space.f_frsize)
