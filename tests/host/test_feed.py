"""A pipe that is fed from a file: whole, without hanging, and without leaving anything open."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.descriptors import descriptors
from vmbatch.host.feed import Feed, remove

MIB = 1 << 20
HEAD = b"head" * 50_000


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(5 * MIB))
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "pipe")
    os.mkfifo(path, 0o600)
    before, threads = descriptors(), threading.active_count()
    yield path
    assert descriptors() == before
    assert threading.active_count() == threads


def feed(pipe: str, content: Path, offset: int = 0) -> Feed:
    with open(content, "rb") as file:
        return Feed(pipe, HEAD, file.fileno(), offset)  # which keeps it open itself


@pytest.mark.parametrize("offset", [0, 1, 5 * MIB - 1, 5 * MIB])
def test_all_of_it_comes(pipe: str, content: Path, offset: int) -> None:
    feeding = feed(pipe, content, offset)
    with open(pipe, "rb") as reader:
        assert reader.read() == HEAD + content.read_bytes()[offset:]
    feeding.close()


def test_a_reader_that_takes_its_time(pipe: str, content: Path) -> None:
    feeding = feed(pipe, content)
    read = b""
    with open(pipe, "rb", buffering=0) as reader:
        while piece := reader.read(300_000):
            read += piece
            time.sleep(0.002)
    assert read == HEAD + content.read_bytes()
    feeding.close()


def test_nobody_reads(pipe: str, content: Path) -> None:
    feeding = feed(pipe, content)
    time.sleep(0.05)
    begin = time.monotonic()
    feeding.close()
    assert time.monotonic() - begin < 15


def test_a_reader_that_stops(pipe: str, content: Path) -> None:
    feeding = feed(pipe, content)
    with open(pipe, "rb") as reader:
        reader.read(10)
    feeding.close()


def test_a_reader_that_hangs(pipe: str, content: Path) -> None:
    feeding = feed(pipe, content)
    with open(pipe, "rb", buffering=0) as reader:
        reader.read(10)
        begin = time.monotonic()
        feeding.close()
        assert time.monotonic() - begin < 15
        while reader.read(MIB):
            pass


def test_a_link_is_not_followed(tmp_path: Path, content: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "pipe").symlink_to(tmp_path / "precious")
    feeding = feed(str(tmp_path / "pipe"), content)
    time.sleep(0.05)
    feeding.close()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_reader_that_waits_for_one_who_has_died_is_let_go(pipe: str) -> None:
    read: list[bytes] = []

    def wait() -> None:
        with open(pipe, "rb") as reader:
            read.append(reader.read())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    remove(pipe)
    thread.join(2)
    assert read == [b""]
    assert not os.path.exists(pipe)


def test_what_nobody_reads_is_removed(pipe: str, tmp_path: Path) -> None:
    remove(pipe)
    assert not os.path.exists(pipe)
    remove(pipe)
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    remove(str(tmp_path / "link"))
    assert (tmp_path / "precious").exists()
