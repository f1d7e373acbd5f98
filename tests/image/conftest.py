"""A store of images in a directory of root's, users of the node, and other processes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import node
from lab.imageserver import ImageServer
from vmbatch.host.http import Access
from vmbatch.image.record import Record
from vmbatch.image.store import Store, stamp
from vmbatch.image.terms import Terms
from vmbatch.job import Group, User
from vmbatch.resource import Work
from vmbatch.units import Deadline

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
GIB = 1 << 30
KEY = "0" * 32
OTHER = "1" * 32
ALICE = User("alice", 1500, Group("alice", 1500), (Group("physics", 1600),), "/home/alice", "/bin/bash")
BOB = User("bob", 1501, Group("bob", 1501), (), "/home/bob", "/bin/bash")


def nothing() -> None:
    """Alive."""


def work(seconds: float = 60.0, alive: Callable[[], None] = nothing, say: Callable[[str], None] = lambda _line: None) -> Work:
    return Work(Deadline(seconds), alive, say)


@pytest.fixture(autouse=True, scope="session")
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that only root can write, and all above it."""
    made = Path(tempfile.mkdtemp(prefix="images-", dir="/srv"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of alice's in her closed home."""
    made = Path(tempfile.mkdtemp(prefix="images-", dir="/home/alice"))
    os.chown(made, ALICE.uid, ALICE.group.gid)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def images(place: Path) -> Path:
    """Where the store is."""
    return place / "images"


@pytest.fixture
def store(images: Path) -> Store:
    made = Store(str(images))
    made.make()
    return made


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as made:
        yield made


@pytest.fixture
def terms(images: Path) -> Terms:
    access = Access(connect_timeout=5.0, read_timeout=10.0)
    return Terms(
        directory=str(images), limit=64 * GIB, keep_free=0, largest=GIB, recheck=3600.0, transfer=60.0, wait=30.0, access=access,
        bare=access, programs=(), account="nobody", sources=("/home/alice/",), user_largest=GIB, user_limit=16 * GIB, user_cpu=60,
        user_memory=4 * GIB, user_digests=(), signers="", authorities="")


def put(store: Store, key: str, data: bytes, content: str = "", *, used: float | None = None) -> str:
    """An image in the store, which nobody holds; its path."""
    made = Path(store.incoming(key, "new"))
    made.write_bytes(data)
    name = content or f"{int(key[-8:], 16):064x}"
    held = store.publish(key, str(made), record(str(made), name))
    held.close()
    if used is not None:
        os.utime(os.path.join(store.root, "source", key), (used, used))
    return held.path


def record(made: str, content: str) -> Record:
    status = os.stat(made)
    return Record(origin="http://example.org/image", format="raw", size=status.st_size, content=content,
                  published={"sha256": content}, validators=None, stamp=stamp(status), checked=time.time())


def incoming(store: Store) -> list[str]:
    return sorted(os.listdir(os.path.join(store.root, "incoming")))


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits; fails if it does not come true."""
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, "it did not happen in time"
        time.sleep(0.01)


class Other:
    """Another process: `code` runs with `arguments` as `a`; it says a line with `say(...)`, and waits in `hear()`."""

    def __init__(self, code: str, *arguments: object) -> None:
        head = ("import json, os, sys, time\na = json.loads(sys.argv[1])\n"
                "def say(*w): print(*w, flush=True)\ndef hear(): return sys.stdin.readline().strip()\n")
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + code, json.dumps(arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, bufsize=1)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Its exit status, once nothing more is said to it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=60)
        return self.process.returncode

    def __enter__(self) -> "Other":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
