"""Lifecycles with a mistake in them, to prove that the matrix finds such. Only hooks that a test made load this."""

import os
import sys
from collections.abc import Callable
from typing import Any

from vmbatch import hooks, journal, lifecycle
from vmbatch.host import file
from vmbatch.journal import Journal
from vmbatch.resource import Piece, Resource, Work
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline


def _act_before_record() -> None:
    def act(step: Resource | Piece, book: Journal, work: Work) -> None:
        if isinstance(step, Resource):
            step.acquire()
            book.promise(step)
        else:
            step.make(work)

    lifecycle._act = act


def _share_unrecorded() -> None:
    promise = Journal.promise

    def some(self: Journal, resource: Resource) -> None:
        if not (isinstance(resource, Directory) and resource.path.startswith("/srv/vmbatch/share/")):
            promise(self, resource)

    _set(Journal, "promise", some)


def _unlink_first() -> None:
    def release(self: Journal, seconds: float, *, orphaned: bool = True) -> None:
        os.unlink(self.path)
        file.sync_directory(journal.directory())
        for resource in self.resources:
            resource.release(Deadline(seconds), last=False)

    _set(Journal, "release", release)


def _no_mark() -> None:
    _set(journal, "mark_end", lambda job, by: None)


def _no_wait() -> None:
    _set(journal, "_lock", lambda fd: True)


def _no_check() -> None:
    _set(journal, "check_not_ended", lambda start: None)


def _set(owner: object, name: str, value: Any) -> None:
    setattr(owner, name, value)


MUTATIONS: dict[str, Callable[[], None]] = {
    "act-before-record": _act_before_record,
    "share-unrecorded": _share_unrecorded,
    "unlink-first": _unlink_first,
    "no-end-marker": _no_mark,
    "no-wait-for-lock": _no_wait,
    "no-end-check": _no_check,
}


def run(mutation: str) -> None:
    """The hook that this process was started as, with its mistake."""
    MUTATIONS[mutation]()
    if sys.argv[0].endswith("prologue"):
        hooks.prologue()
    hooks.epilogue()
