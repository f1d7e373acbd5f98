"""The process that watches a guest: it lives as long as guest and record, and ends the guest that it does not hear."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vmbatch import watcher
from vmbatch.errors import NodeError
from vmbatch.host import process
from vmbatch.host.log import Log
from vmbatch.hypervisor.watcher import Watcher, read
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline

from .cases import DomainCase, WatcherCase


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[DomainCase]:
    """A guest of libvirt's test driver, in this process."""
    case = DomainCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    yield case
    case.clear()


@pytest.fixture
def record(tmp_path: Path, domain: DomainCase) -> Watcher:
    """Of a watcher that has no patience."""
    case = WatcherCase(tmp_path)
    (tmp_path / "share").mkdir()
    Directory(str(tmp_path / "handover"), domain.token, 0o711).acquire()
    assert isinstance(case.resource, Watcher)
    made = msgspec.structs.replace(case.resource, token=domain.token, domain=domain.resource, seconds=0.4)
    made.acquire()
    return made


def test_a_silent_guest_is_ended(tmp_path: Path, record: Watcher, domain: DomainCase) -> None:
    watcher.watch(record, Log(str(tmp_path / "log"), "42.vm", "watcher"))
    assert not domain.exists()
    text = "the node has ended the job's guest: nothing was heard from it for 0 s, so it had hung\n"
    verdict = tmp_path / "handover/verdict"
    assert (verdict.read_text(), verdict.stat().st_mode & 0o777) == (text, 0o444)
    assert text in (tmp_path / "log/42.vm.log").read_text()


def test_the_next_starts_hand_over_is_left_alone(tmp_path: Path, record: Watcher, domain: DomainCase) -> None:
    (tmp_path / "handover/.vmbatch").write_text("f" * 32)
    watcher.watch(record, Log(str(tmp_path / "log"), "42.vm", "watcher"))
    assert not domain.exists()
    assert not (tmp_path / "handover/verdict").exists()


def test_another_guest_is_not_ended(tmp_path: Path, record: Watcher, domain: DomainCase) -> None:
    """Of the same uuid, with another start's mark."""
    other = msgspec.structs.replace(record, domain=msgspec.structs.replace(record.domain, token="f" * 32))
    watcher.watch(other, Log(str(tmp_path / "log"), "42.vm", "watcher"))
    assert domain.exists()


def test_a_guest_that_is_heard(tmp_path: Path, record: Watcher, domain: DomainCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its record is gone."""
    beats = iter(range(20))

    def sleep(seconds: float) -> None:
        number = next(beats)
        (tmp_path / "share/heartbeat").write_text(f"vmbatch 1 heartbeat {record.token} {number}\n")
        if number == 19:
            os.unlink(record.path)
        real(seconds)

    real = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    watcher.watch(record, Log(None, "42.vm", "watcher"))
    assert domain.exists()
    assert next(beats, None) is None


def test_what_cannot_be_seen_is_not_judged(
    tmp_path: Path, record: Watcher, domain: DomainCase, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The share is gone, and comes back with a guest that is silent."""
    (tmp_path / "share").rename(tmp_path / "away")
    looks = iter(range(12))

    def sleep(seconds: float) -> None:
        if next(looks, 12) == 10:
            assert domain.exists()
            (tmp_path / "away").rename(tmp_path / "share")
        real(seconds)

    real = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    watcher.watch(record, Log(None, "42.vm", "watcher"))
    assert not domain.exists()
    assert next(looks, None) is None


def test_the_process_is_ended_with_its_record(tmp_path: Path) -> None:
    """It has no pid in its record; others that look alike, or are another user's, live."""
    case = WatcherCase(tmp_path)
    assert isinstance(case.resource, Watcher)
    case.resource.acquire()
    program = "import sys, time; print(flush=True); time.sleep(1000)"
    words = ["-Im", "vmbatch.watcher", case.resource.path]
    started = [subprocess.Popen(["python3", "-c", program, *more], executable=sys.executable, stdout=subprocess.PIPE, user=user)
               for more, user in ((words, 0), (words[2:], 0), (words, 1))]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        process.end_all(["-c", program, *words], Deadline(30))
        assert started[0].wait(60) == -signal.SIGKILL
        assert [each.poll() for each in started[1:]] == [None, None]
    finally:
        for each in started:
            each.kill()
            each.wait()
    case.resource.release(Deadline(30), last=False)
    assert not case.exists()


def test_a_real_process(tmp_path: Path) -> None:
    """From the hand-over to the release; its guest is none that libvirt knows of, so it may end first."""
    case = WatcherCase(tmp_path)
    assert isinstance(case.resource, Watcher)
    case.resource.acquire()
    case.resource.hand_over()
    case.resource.release(Deadline(30), last=False)
    assert not case.exists()
    over = Deadline(10)  # one that had not begun when it was looked for finds no record, and ends
    while case.resource.path in subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout:
        assert not over.passed()
        time.sleep(0.02)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind":"domain"}', b"\xff\xfe"])
def test_a_record_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "watch").write_bytes(content)
    with pytest.raises(NodeError, match="is no watcher's record"):
        read(str(tmp_path / "watch"))
