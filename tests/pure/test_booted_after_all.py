"""A start whose guest cannot go on from its saved one: it is booted, and nobody tries that one again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vmbatch import lifecycle, record, trace
from vmbatch.disk.overlay import Overlay
from vmbatch.errors import DeadlineError, EndedError, NodeError, SiteError
from vmbatch.host.clock import ProcessIdentity
from vmbatch.host.log import Log
from vmbatch.hypervisor.domain import Domain
from vmbatch.plan import Plan, plan
from vmbatch.resource import Resource, Work
from vmbatch.units import Deadline

from .sample import facts, form, job, settings
from .test_resume import SAVED, TEMPLATE

Fail = Callable[[Domain], None]


class Start:
    """A start with a saved guest, and what it does; `fail` may raise as its guest is made."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.fail: Fail = lambda _domain: None
        self.place = directory / "saved"
        self.place.mkdir()
        (self.place / "record").write_text("{}")
        self.log = Log(str(directory), "42.vm", "prologue")
        monkeypatch.setattr(Domain, "acquire", self.acquire_of())
        monkeypatch.setattr(Domain, "release", lambda _domain, _deadline, *, last: self.done.append(f"release, last {last}"))
        monkeypatch.setattr(Overlay, "make", lambda piece, _work: self.done.append(f"make {piece.path.rpartition('/')[2]}"))
        monkeypatch.setattr(trace, "write", lambda _place, event: self.done.append(type(event).__name__))

    def acquire_of(self) -> Callable[[Domain], None]:
        def acquire(domain: Domain) -> None:
            self.done.append("restore" if domain.restore else "boot")
            self.fail(domain)

        return acquire

    def promise(self, resource: Resource) -> None:
        self.done.append(f"promise {'restored' if getattr(resource, 'restore', None) else 'booted'} domain")

    def acted(self) -> None:
        """Is told each time."""

    start = record.Start("42.vm", "t", "alice", "vm", None, ProcessIdentity(1, 2, "boot"), 0.0)

    def run(self, *, resumed: bool = True) -> None:
        guest = msgspec.structs.replace(SAVED, directory=str(self.place))
        chosen: Plan = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE, saved=guest if resumed else None))
        book: Any = self
        lifecycle._start(chosen, book, Work(Deadline(60), lambda: None, lambda _: None), settings(), self.log)

    def is_known(self) -> bool:
        """Whether others find the saved guest."""
        return (self.place / "record").exists()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


def refuse(error: Exception) -> Fail:
    def fail(domain: Domain) -> None:
        if domain.restore is not None:
            raise error

    return fail


def test_a_guest_that_goes_on(start: Start) -> None:
    start.run()
    assert start.done == ["promise restored domain", "Begin", "restore"]
    assert start.is_known()


def test_a_guest_that_boots(start: Start) -> None:
    start.run(resumed=False)
    assert start.done == ["promise booted domain", "Begin", "boot"]


def test_a_guest_that_is_booted_after_all(start: Start) -> None:
    """What libvirt may have begun is gone before; its disk is made only now."""
    start.fail = refuse(NodeError("libvirt did not restore the guest: no", code="VB714"))
    start.run()
    assert start.done == ["promise restored domain", "Begin", "restore", "release, last True", "make vda.qcow2",
                          "promise booted domain", "boot"]
    assert not start.is_known()
    said = Path(start.log.path).read_text()
    assert "the guest is booted, as it cannot go on from the saved one: libvirt did not restore the guest: no [VB714]" in said


@pytest.mark.parametrize("error", [DeadlineError("libvirtd did not answer in time"), EndedError("ended"), SiteError("wrong")])
def test_what_no_boot_would_mend(start: Start, error: Exception) -> None:
    start.fail = refuse(error)
    with pytest.raises(type(error)):
        start.run()
    assert start.done == ["promise restored domain", "Begin", "restore"]
    assert start.is_known()


def test_a_boot_that_fails_is_tried_once(start: Start) -> None:
    def fail(_domain: Domain) -> None:
        raise NodeError("libvirt did not start the guest")

    start.fail = fail
    with pytest.raises(NodeError):
        start.run(resumed=False)
    assert start.done == ["promise booted domain", "Begin", "boot"]


@pytest.mark.parametrize(("error", "known"), [(SiteError("the guest ended before it was ready"), False),
                                              (DeadlineError("the guest was not ready"), False), (EndedError("ended"), True)])
def test_a_guest_that_goes_on_and_does_not_get_ready(start: Start, error: Exception, known: bool) -> None:
    guest = msgspec.structs.replace(SAVED, directory=str(start.place))
    chosen = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE, saved=guest))
    with pytest.raises(type(error)), lifecycle._distrusted(chosen, start.log):
        raise error
    assert start.is_known() is known
    booted = plan(job(), form(TEMPLATE), settings(), facts(text=TEMPLATE))
    with pytest.raises(type(error)), lifecycle._distrusted(booted, start.log):
        raise error
