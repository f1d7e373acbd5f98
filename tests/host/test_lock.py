"""Locks that end with whoever holds them."""

import os
import threading
import time
from pathlib import Path

import pytest

from vmbatch.errors import EndedError
from vmbatch.host import lock
from vmbatch.units import Deadline


def test_one_alone_or_many_that_share(tmp_path: Path) -> None:
    first, second, third = (lock.create(str(tmp_path / "lock")) for _ in range(3))
    assert lock.take(first)
    assert not lock.take(second)
    assert not lock.take(second, shared=True)
    os.close(first)
    assert lock.take(second, shared=True)
    assert lock.take(third, shared=True)
    assert not lock.take(third)
    os.close(second)
    os.close(third)


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    held, go = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.write(held[1], b"." if lock.take(lock.create(str(tmp_path / "lock"))) else b"!")
        os.read(go[0], 1)
        os._exit(0)
    assert os.read(held[0], 1) == b"."
    fd = lock.create(str(tmp_path / "lock"))
    assert not lock.take(fd)
    os.write(go[1], b".")
    assert lock.wait(fd, Deadline(10))
    os.waitpid(child, 0)
    for end in (fd, *held, *go):
        os.close(end)


def test_the_wait_ends_with_the_holder_the_deadline_or_the_job(tmp_path: Path) -> None:
    holder, other = lock.create(str(tmp_path / "lock")), lock.create(str(tmp_path / "lock"))
    assert lock.take(holder)

    def ended() -> None:
        raise EndedError("the job is over")

    with pytest.raises(EndedError, match="is over"):
        lock.wait(other, Deadline(10), ended)
    assert not lock.wait(other, Deadline(0))
    began = time.monotonic()
    assert not lock.wait(other, Deadline(0.1), pause=60)
    assert 0.1 <= time.monotonic() - began < 10
    threading.Timer(0.1, os.close, (holder,)).start()
    assert lock.wait(other, Deadline(10), pause=0.005)
    os.close(other)


def test_alone_is_one_until_it_leaves_however_it_does(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(BlockingIOError), lock.alone(path) as mine:
        assert mine
        with lock.alone(path) as other:
            assert not other
        raise BlockingIOError("of what is done meanwhile")
    with lock.alone(path) as mine:
        assert mine
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_no_lock_is_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock.alone(str(tmp_path / "lock")):
        pass
    assert not (tmp_path / "elsewhere").exists()
