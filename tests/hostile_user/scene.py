"""What all attempts need: the queue that is attacked, users that act on the node, and what may come of it."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import mom, nest
from lab.process import run
from lab.remains import in_child
from tests.torque.stage import Stage

CONFIG = (nest.CONFIG.replace('"/etc/vmbatch/"', '"/home/"').replace('pause = "0s"', 'pause = "0s"\njob_fault = "abort"')
          .replace("[requests]\nkeep = 2\n", "").replace(nest.TIMEOUTS, ""))
OFFERS = """<vbrequests>
      <vbrequest name='vbmemory' max='1G'/><vbrequest name='vbcores' max='2'/>
      <vbrequest name='vbstagein' max='1M'/><vbrequest name='vbstageout' max='1M'/><vbrequest name='vbkeep' max='1h'/>
    </vbrequests>"""
SECRET = b"a secret that only root may read; " * 512
HOMES = {"alice": 1500, "bob": 1501}
FOOTPRINT = Path("/run/fakeguest/footprint")
"""Nobody makes it, unless something of a user's is executed on the node."""
_mounted: set[str] = set()


def prepare(stage: Stage) -> None:
    """A queue that offers all there is; homes with what the attempts need, and nothing else."""
    Path("/etc/vmbatch/vmbatch.conf").write_text(CONFIG)
    Path("/etc/vmbatch/domains/crash.xml").write_text(nest.TEMPLATE.replace(nest.ONCE, "").replace(nest.REQUESTS, OFFERS))
    FOOTPRINT.unlink(missing_ok=True)
    FOOTPRINT.parent.chmod(0o777)
    for name, uid in HOMES.items():
        home = Path("/home", name)
        if name not in _mounted:  # the users of the lab keep theirs
            run(["mount", "-t", "tmpfs", "-o", f"mode=700,uid={uid},gid={uid}", "home", home])
            _mounted.add(name)
        for path in home.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        own(home / "image.raw", b"raw!" * 4096, uid)
    own(Path("/home/alice/secret.raw"), SECRET, 0)


def own(path: Path, data: bytes, uid: int, mode: int = 0o600) -> Path:
    """A file of somebody's."""
    path.write_bytes(data)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def accept(stage: Stage, **about: object) -> mom.Job:
    """A job of alice's that would leave a footprint on the node."""
    return stage.house.accept(f"#!/bin/sh\ntouch {FOOTPRINT}\n".encode(), queue=nest.QUEUE, **about)  # type: ignore[arg-type]


def begin(stage: Stage, job: mom.Job) -> str:
    """The prologue's verdict."""
    return stage.house.finish_prologue(stage.house.start_prologue(job))


def end(stage: Stage, job: mom.Job) -> None:
    """The epilogue."""
    assert stage.house.start_epilogue(job).wait(60) == 0, job.errors.decode()


def finish(stage: Stage, job: mom.Job) -> None:
    """The epilogue; nothing is left, and nothing of the user's has run on the node."""
    end(stage, job)
    nothing_left(stage, job)


def nothing_left(stage: Stage, job: mom.Job) -> None:
    """As if the job had never been, even without an epilogue."""
    stage.house.forget(job)
    assert stage.node.left() == []
    assert not FOOTPRINT.exists()


@contextlib.contextmanager
def started(stage: Stage, **about: object) -> Iterator[mom.Job]:
    """A job whose guest is ready, to its end."""
    job = accept(stage, **about)
    assert begin(stage, job) == "run", job.errors.decode()
    yield job
    finish(stage, job)


def become(uid: int, gid: int | None = None) -> None:
    """This process acts as a user from now on."""
    number = uid if gid is None else gid
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(uid, uid, uid)


def as_user(uid: int, act: Callable[[], list[str]], gid: int | None = None) -> list[str]:
    """What `act` returns in a process of the user's."""

    def acting() -> list[str]:
        become(uid, gid)
        return act()

    return in_child(acting)


@contextlib.contextmanager
def meanwhile(uid: int, act: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """A process of the user's repeats `act` without a pause, whatever it raises; how often it did so far."""
    source, sink = os.pipe2(os.O_NONBLOCK)
    child = os.fork()
    if child == 0:
        try:
            become(uid)
            while True:
                with contextlib.suppress(Exception):
                    act()
                with contextlib.suppress(BlockingIOError):
                    os.write(sink, b".")
        finally:
            os._exit(0)
    os.close(sink)
    count = 0

    def turns() -> int:
        nonlocal count
        with contextlib.suppress(BlockingIOError):
            count += len(os.read(source, 1 << 16))
        return count

    try:
        over = time.monotonic() + 10
        while not turns():
            assert time.monotonic() < over, "the user does nothing"
            time.sleep(0.001)
        yield turns
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(source)
