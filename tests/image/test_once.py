"""Only one job is the first for a disk made once; the others wait for what it fills."""

import contextlib
import os
import select
import time
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch.errors import DeadlineError, EndedError, NodeError
from vmbatch.host import clock, process
from vmbatch.image import once
from vmbatch.image.store import make_directories
from vmbatch.spool.first import FirstFill
from vmbatch.template import BlankSource
from vmbatch.units import Deadline

from .conftest import Other, work

TOKEN = "0123456789abcdef" * 2
FOREIGN = "f" * 32
SOURCE = BlankSource("cache", True, "cow", 1 << 30, "qcow2", "ext4", "cache")
TAKE = """
from vmbatch.image import once
from vmbatch.resource import Work
from vmbatch.units import Deadline
say("begin"); hear()
turn = once.take(a[0], a[1], Deadline(60), Work(Deadline(60), lambda: None, lambda line: None))
say("first" if turn.first else "ready")
while hear() == "make": os.mkdir(a[1]); say("made")
turn.close()
say("closed"); hear()
"""


@pytest.fixture
def ready(images: Path) -> str:
    """Where the disk will be."""
    make_directories(str(images))
    return once.places(str(images), "/etc/vmbatch/domains/a.xml", SOURCE, 1500)[0]


@pytest.fixture
def making(ready: str) -> str:
    return f"{ready}.making"


def take(ready: str, seconds: float = 0.0) -> once.Turn:
    return once.take(ready, f"{ready}.making", Deadline(seconds), work())


def test_places(images: Path) -> None:
    def of(template: str = "/a.xml", source: BlankSource = SOURCE, uid: int | None = 1500) -> tuple[str, str]:
        return once.places(str(images), template, source, uid)

    ready, making = of()
    assert os.path.dirname(ready) == str(images / "once")
    assert making == f"{ready}.making"
    import msgspec
    others = [of("/b.xml"), of(uid=1501), of(uid=None), *(
        of(source=msgspec.structs.replace(SOURCE, **change)) for change in (
            {"name": "b"}, {"size": 1 << 31}, {"form": "raw"}, {"filesystem": "xfs"}, {"label": "b"}))]
    assert len({ready, *(place for place, _ in others)}) == 9
    assert of(source=msgspec.structs.replace(SOURCE, method="copy")) == (ready, making)


def test_first_then_waits_then_ready(ready: str, making: str) -> None:
    turn = take(ready)
    assert (turn.first, turn.ready, turn.making) == (True, ready, making)
    with pytest.raises(DeadlineError) as caught:
        take(ready)
    text = f"another job still makes and fills the disk {ready} (this job will find it there later)"
    assert caught.value.lines() == [text]
    os.mkdir(making)
    turn.close()
    with pytest.raises(DeadlineError) as caught:
        take(ready, 0.3)
    assert caught.value.lines() == [text]
    Path(ready).write_bytes(b"disk")
    os.rmdir(making)
    later = take(ready)
    assert (later.first, later.ready) == (False, ready)
    later.close()


def test_first_again_if_nothing_came_of_it(ready: str) -> None:
    turn = take(ready)
    turn.close()
    again = take(ready)
    assert again.first
    again.close()


def test_ready_cannot_go_away(ready: str) -> None:
    from vmbatch.image.store import remove_unused

    Path(ready).write_bytes(b"disk")
    turn = take(ready)
    assert not remove_unused(ready)
    turn.close()
    assert remove_unused(ready)


def test_ready_is_used_now(ready: str) -> None:
    Path(ready).write_bytes(b"disk")
    os.utime(ready, (5, 5))
    take(ready).close()
    assert time.time() - os.stat(ready).st_mtime < 60


def test_alive_ends_the_waiting(ready: str, making: str) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    os.mkdir(making)
    before = descriptors()
    with pytest.raises(EndedError, match=r"^the job has ended$"):
        once.take(ready, making, Deadline(60), work(alive=over))
    assert not descriptors() - before


def test_no_way_through_a_link(ready: str, place: Path) -> None:
    (place / "target").write_bytes(b"x")
    os.symlink(place / "target", ready)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        take(ready)


def test_of_many_exactly_one_is_first(ready: str, making: str) -> None:
    for _ in range(5):
        with contextlib.ExitStack() as last:
            others = [last.enter_context(Other(TAKE, ready, making)) for _ in range(6)]
            assert [other.line() for other in others] == ["begin"] * 6
            for other in others:
                other.tell()
            [first] = _said_something(others)
            assert first.line() == "first"
            first.tell("make")
            assert first.line() == "made"
            first.tell("close")
            assert first.line() == "closed"
            time.sleep(0.3)
            assert not any(_has_said(other) for other in others), "the disk is not there yet"
            Path(ready).write_bytes(b"disk")
            os.rmdir(making)
            assert [other.line() for other in others if other is not first] == ["ready"] * 5
        os.unlink(ready)


def _has_said(other: Other) -> bool:
    return bool(_talking([other], 0))


def _said_something(others: list[Other]) -> list[Other]:
    """Those that have, a little after the first of them did."""
    assert _talking(others, 60)
    time.sleep(0.3)
    return _talking(others, 0)


def _talking(others: list[Other], seconds: float) -> list[Other]:
    outputs = {other.process.stdout.fileno(): other for other in others if other.process.stdout}
    return [outputs[number] for number in select.select(list(outputs), [], [], seconds)[0]]


def test_a_killed_first_is_followed_by_one(ready: str, making: str) -> None:
    with Other(TAKE, ready, making) as one, Other(TAKE, ready, making) as two, Other(TAKE, ready, making) as three:
        for other in (one, two, three):
            assert other.line() == "begin"
        one.tell()
        assert one.line() == "first"
        two.tell()
        three.tell()
        time.sleep(0.3)
        assert not _has_said(two)
        one.kill()
        assert len(_said_something([two, three])) == 1


@pytest.fixture
def right(ready: str, making: str) -> FirstFill:
    return FirstFill(making, TOKEN, ready)


def fill(right: FirstFill) -> None:
    """As libvirt leaves it: another's, and writable."""
    Path(right.disk).write_bytes(b"filled")
    os.chown(right.disk, 1501, 1501)
    os.chmod(right.disk, 0o660)


def release(right: FirstFill) -> None:
    right.release(Deadline(10), last=False)


def published(right: FirstFill) -> bool:
    return os.path.exists(right.ready)


def test_filled(right: FirstFill, making: str, images: Path) -> None:
    right.acquire()
    assert right.disk == f"{making}/disk"
    assert os.stat(making).st_mode & 0o7777 == 0o711
    fill(right)
    right.hand_over()
    release(right)
    status = os.stat(right.ready)
    assert (status.st_uid, status.st_gid, status.st_mode) == (0, 0, 0o100444)
    assert Path(right.ready).read_bytes() == b"filled"
    assert os.listdir(images / "once") == [os.path.basename(right.ready)]
    release(right)
    assert published(right)
    turn = take(right.ready)
    assert not turn.first
    turn.close()


def test_filled_for_qemus_group_alone(ready: str, making: str) -> None:
    """A user's own disk, whose name can be computed by everybody."""
    right = FirstFill(making, TOKEN, ready, 1600)
    right.acquire()
    fill(right)
    right.hand_over()
    release(right)
    status = os.stat(ready)
    assert (status.st_uid, status.st_gid, status.st_mode) == (0, 1600, 0o100440)


def test_another_job_cannot_have_it(right: FirstFill) -> None:
    right.acquire()
    other = FirstFill(right.path, FOREIGN, right.ready)
    with pytest.raises(NodeError, match=rf"^{right.path} cannot be made: File exists$"):
        other.acquire()
    fill(right)
    right.hand_over()
    release(other)
    assert (published(right), Path(right.disk).read_bytes()) == (False, b"filled")
    release(right)
    assert published(right)


def test_not_handed_over(right: FirstFill, images: Path) -> None:
    right.acquire()
    fill(right)
    release(right)
    assert os.listdir(images / "once") == []
    turn = take(right.ready)
    assert turn.first
    turn.close()


@pytest.mark.parametrize("mark", [
    f"{TOKEN} 01234567-89ab-cdef-0123-456789abcdef", TOKEN, "", f"{FOREIGN} BOOT", f"{TOKEN} BOOT\n", f"{TOKEN} BOOT" + " " * 200,
], ids=["other boot", "torn", "empty", "foreign", "more", "long"])
def test_another_mark(right: FirstFill, images: Path, mark: str) -> None:
    right.acquire()
    fill(right)
    (Path(right.path) / "filled").write_text(mark.replace("BOOT", clock.boot_id()))
    release(right)
    assert os.listdir(images / "once") == []


def test_after_another_boot(right: FirstFill, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right.acquire()
    fill(right)
    right.hand_over()
    monkeypatch.setattr(clock, "boot_id", lambda: "01234567-89ab-cdef-0123-456789abcdef")
    release(right)
    assert os.listdir(images / "once") == []


def test_half_way(right: FirstFill, images: Path) -> None:
    """Killed between the disk's new name and the directory's removal; or the disk was never made."""
    right.acquire()
    right.hand_over()
    release(right)
    assert os.listdir(images / "once") == []
    right.acquire()
    fill(right)
    right.hand_over()
    os.rename(right.disk, right.ready)
    release(right)
    assert os.listdir(images / "once") == [os.path.basename(right.ready)]


def test_never_acquired(right: FirstFill, images: Path) -> None:
    release(right)
    release(right)
    assert os.listdir(images / "once") == []


def test_a_disk_that_is_a_link(right: FirstFill, place: Path) -> None:
    """Its permissions are nobody's way to those of another file."""
    (place / "target").write_bytes(b"secret")
    (place / "target").chmod(0o600)
    right.acquire()
    os.symlink(place / "target", right.disk)
    right.hand_over()
    with contextlib.suppress(NodeError):
        release(right)
    assert (place / "target").stat().st_mode & 0o777 == 0o600
    assert not published(right)


def test_whole_before_it_has_its_name(right: FirstFill, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found there is whole, even after a power loss."""
    right.acquire()
    fill(right)
    right.hand_over()
    done: list[str] = []
    run, rename = process.run, os.rename

    def noted(argv: list[str], deadline: Deadline) -> str:
        done.append(" ".join(argv))
        return run(argv, deadline)

    def named(old: str, new: str) -> None:
        done.append(f"rename {old}")
        rename(old, new)

    monkeypatch.setattr(process, "run", noted)
    monkeypatch.setattr(os, "rename", named)
    release(right)
    assert published(right)
    assert done == [f"/usr/bin/sync -- {right.disk}", f"rename {right.disk}"]
