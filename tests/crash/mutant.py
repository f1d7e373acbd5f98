"""Lifecycles with a mistake in them, to prove that the matrix finds such, and one with less patience. For processes of tests."""

import contextlib
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec

from vmbatch import endmarker, hooked, journal, lifecycle
from vmbatch.config import Config
from vmbatch.errors import NodeError
from vmbatch.host import distant, file, libvirtd, process, virt
from vmbatch.journal import Journal
from vmbatch.resource import Piece, Resource, Work
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline


def _act_before_record() -> None:
    def act(step: Resource | Piece, book: Journal, work: Work, begin: Callable[[], None] = lambda: None) -> None:
        if isinstance(step, Resource):
            step.acquire()
            book.promise(step)
        else:
            step.make(work)

    lifecycle.act = act


def _share_unrecorded() -> None:
    promise = Journal.promise

    def some(self: Journal, resource: Resource) -> None:
        if not (isinstance(resource, Directory) and resource.path.startswith("/srv/vmbatch/share/")):
            promise(self, resource)

    _set(Journal, "promise", some)


def _unlink_first() -> None:
    def release(self: Journal, seconds: float, *, orphaned: bool = True, **_: object) -> None:
        os.unlink(self.path)
        file.sync_directory(journal.directory())
        for resource in self.resources:
            resource.release(Deadline(seconds), last=False)

    _set(Journal, "release", release)


def _no_mark() -> None:
    _set(endmarker, "mark", lambda job, by: None)


def _no_wait() -> None:
    _set(journal, "lock", SimpleNamespace(wait=lambda *_: True))


def _no_check() -> None:
    _set(endmarker, "check_not_ended", lambda start: None)


def _impatient() -> None:
    """No mistake: whatever does not answer is given up sooner, and the share is on a server."""
    load = hooked.load_config

    def config() -> Config:
        return msgspec.structs.replace(load(), share_local=False, timeouts_boot=2.0, timeouts_release=2.0)

    _set(hooked, "load_config", config)
    _set(libvirtd, "ANSWER_SECONDS", 1.0)
    _set(virt, "_START_SECONDS", 1.0)
    _set(distant, "_ANSWER_SECONDS", 1.0)
    _set(distant, "_AGAIN_SECONDS", 0.2)


def _libvirt_unbounded() -> None:
    _impatient()
    _set(libvirtd, "within", lambda over, ask: ask())


def _share_unbounded() -> None:
    _impatient()
    _set(distant, "call", lambda place, act, kind=None, deadline=None: act())


def _orphans_work() -> None:
    _set(process, "_OWN_CHILD", 'shift && exec "$@"')


def _no_space_unseen() -> None:
    """A line that could not be written is taken for one that was."""
    append = journal._append

    def careless(fd: int, record: bytes) -> None:
        with contextlib.suppress(NodeError):
            append(fd, record)

    _set(journal, "_append", careless)


def _set(owner: object, name: str, value: Any) -> None:
    setattr(owner, name, value)


MUTATIONS: dict[str, Callable[[], None]] = {
    "act-before-record": _act_before_record,
    "share-unrecorded": _share_unrecorded,
    "unlink-first": _unlink_first,
    "no-end-marker": _no_mark,
    "no-wait-for-lock": _no_wait,
    "no-end-check": _no_check,
    "impatient": _impatient,
    "libvirt-unbounded": _libvirt_unbounded,
    "share-unbounded": _share_unbounded,
    "no-space-unseen": _no_space_unseen,
    "orphans-work": _orphans_work,
}
