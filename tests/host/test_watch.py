"""Waiting for files, descriptors and threads at once."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbatch.host.watch import Watch

LONG = 30.0


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def waited(watch: Watch, seconds: float) -> float:
    begin = time.monotonic()
    watch.wait(seconds)
    return time.monotonic() - begin


@pytest.mark.parametrize("act", [
    lambda place: (place / "new").touch(), lambda place: (place / "old").write_text("more"),
    lambda place: (place.parent / "aside").rename(place / "ready"), lambda place: (place / "directory").mkdir(),
], ids=["made", "written", "moved", "directory"])
def test_what_happens_in_a_directory_wakes(watch: Watch, tmp_path: Path, act: Callable[[Path], object]) -> None:
    place = tmp_path / "watched"
    place.mkdir()
    (place / "old").touch()
    (tmp_path / "aside").touch()
    watch.directory(str(place))
    threading.Timer(0.05, act, [place]).start()
    assert waited(watch, LONG) < LONG / 2
    time.sleep(0.05)
    watch.wait(0)
    assert waited(watch, 0.1) > 0.05, "it wakes once"


def test_what_happened_before_the_wait_wakes_too(watch: Watch, tmp_path: Path) -> None:
    watch.directory(str(tmp_path))
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert waited(watch, LONG) < LONG / 2


def test_a_file_wakes_when_it_is_written(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    watch.file(str(path))
    (tmp_path / "other").write_text("more")
    assert waited(watch, 0.1) > 0.05
    path.write_text("more")
    assert waited(watch, LONG) < LONG / 2


def test_a_thread_and_a_descriptor_wake(watch: Watch) -> None:
    threading.Timer(0.05, watch.wake).start()
    assert waited(watch, LONG) < LONG / 2
    source, sink = os.pipe()
    watch.descriptor(source)
    os.write(sink, b"!")
    assert waited(watch, LONG) < LONG / 2
    watch.forget(source)
    assert waited(watch, 0.1) > 0.05
    os.close(source)
    os.close(sink)


@pytest.mark.parametrize(("name", "kind"), [("none", FileNotFoundError), ("file/below", NotADirectoryError)])
def test_what_cannot_be_watched_is_named(watch: Watch, tmp_path: Path, name: str, kind: type[OSError]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(kind) as caught:
        watch.directory(str(tmp_path / name))
    assert caught.value.filename == str(tmp_path / name)


def test_who_wakes_too_late_writes_into_nothing_else(tmp_path: Path) -> None:
    """The descriptors are somebody else's by then."""
    watch = Watch()
    watch.close()
    others = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(8)]
    watch.wake()
    for number, descriptor in enumerate(others):
        os.close(descriptor)
        assert (tmp_path / str(number)).read_bytes() == b""
