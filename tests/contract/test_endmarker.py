"""The end marker: every start whose process began no later than the one that ended it is over."""

import os
import time
from pathlib import Path

import msgspec
import pytest

from vmbatch import endmarker
from vmbatch.errors import EndedError
from vmbatch.host import clock
from vmbatch.host.clock import ProcessIdentity
from vmbatch.job import Leader
from vmbatch.record import Start

from .book import START

pytestmark = pytest.mark.usefixtures("places")
EARLIER, TICK, LATER = 1000, 2000, 3000
BOOT, OTHER_BOOT = "this", "another"


def start(started: int = TICK, pid: int = 10, boot: str = BOOT) -> Start:
    return msgspec.structs.replace(START, owner=ProcessIdentity(pid, started, boot))


def by(started: int = TICK, pid: int = 20, boot: str = BOOT) -> ProcessIdentity:
    return ProcessIdentity(pid, started, boot)


def is_over(of: Start) -> bool:
    try:
        endmarker.check_not_ended(of)
    except EndedError:
        return True
    return False


def test_without_a_marker() -> None:
    assert not is_over(start())


@pytest.mark.parametrize(
    ("ended_by", "over"),
    [
        (by(LATER), True),
        (by(TICK), True),
        (by(EARLIER), False),
        (by(LATER, boot=OTHER_BOOT), False),
        (by(TICK, pid=10), False),
        (by(LATER, pid=11), True),
    ],
    ids=["later", "same tick", "earlier", "other boot", "itself", "later, other pid"],
)
def test_matrix(ended_by: ProcessIdentity, over: bool) -> None:
    endmarker.mark(START.job, ended_by)
    assert is_over(start()) == over


def test_of_this_job_alone() -> None:
    endmarker.mark("43.vm", by(LATER))
    endmarker.mark("42[2].vm", by(LATER))
    endmarker.mark("42.vm", by(LATER))
    assert not is_over(start())


@pytest.mark.parametrize("order", [(EARLIER, LATER), (LATER, EARLIER)])
def test_the_latest_is_kept(order: tuple[int, int]) -> None:
    for started in order:
        endmarker.mark(START.job, by(started))
    assert is_over(start(TICK))
    assert not is_over(start(LATER + 1))


def test_a_marker_of_another_boot_is_replaced() -> None:
    endmarker.mark(START.job, by(LATER, boot=OTHER_BOOT))
    endmarker.mark(START.job, by(EARLIER))
    assert is_over(start(EARLIER))


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b'{"ended_by":{"pid":1,"started":1,"boot":"\xff"}}', b"[" * 100_000])
def test_a_broken_marker_is_replaced(text: bytes) -> None:
    """It ends nobody, and does not stay."""
    path = Path(endmarker.DIRECTORY) / "42-1.vm"
    path.write_bytes(text)
    assert not is_over(start())
    endmarker.mark(START.job, by())
    assert is_over(start())


def test_nothing_else_is_left() -> None:
    endmarker.mark(START.job, by())
    assert os.listdir(endmarker.DIRECTORY) == ["42-1.vm"]


def test_the_marker_is_there_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its name when all is written."""
    seen: list[bytes] = []
    real = os.rename

    def rename(source: str, target: str) -> None:
        seen.append(Path(source).read_bytes())
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    endmarker.mark(START.job, by())
    assert [msgspec.json.decode(text, type=endmarker.EndMarker).ended_by for text in seen] == [by()]


def test_the_message_names_the_job() -> None:
    endmarker.mark(START.job, by())
    with pytest.raises(EndedError, match=r"job 42\[1\]\.vm was ended by the batch system"):
        endmarker.check_not_ended(start())


def test_old_markers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that has gone since this boot: the node's clock may be set meanwhile."""
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(clock, "uptime", lambda: 10_000.0)
    monkeypatch.setattr(clock, "boot_id", lambda: BOOT)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    endmarker.mark("1.vm", by((10_000 - 3601) * ticks))
    endmarker.mark("2.vm", by((10_000 - 3599) * ticks))
    endmarker.forget_old(3600)
    assert os.listdir(endmarker.DIRECTORY) == ["2.vm"]


def test_what_is_no_marker_is_forgotten_by_its_age() -> None:
    """A marker that is just being written is none yet."""
    for name, age in (("old", 3601.0), (".1.vm.new", 0.0)):
        path = Path(endmarker.DIRECTORY, name)
        path.write_bytes(b'{"ended')
        os.utime(path, (time.time() - age,) * 2)
    endmarker.forget_old(3600)
    assert os.listdir(endmarker.DIRECTORY) == [".1.vm.new"]


def test_how_long_a_shell_has_been_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since a sweep has seen it first; the node's clock may be set meanwhile."""
    up = 1000.0
    monkeypatch.setattr(clock, "uptime", lambda: up)
    monkeypatch.setattr(clock, "this_process", lambda: ProcessIdentity(7, int(up * os.sysconf("SC_CLK_TCK")), clock.boot_id()))
    of = msgspec.structs.replace(START, leader=Leader(2**22 + 1, 1))
    assert endmarker.shell_over(of, note=False) == 0
    assert os.listdir(endmarker.DIRECTORY) == []
    assert endmarker.shell_over(of, note=True) == 0
    up += 901
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert endmarker.shell_over(of, note=True) == 901
