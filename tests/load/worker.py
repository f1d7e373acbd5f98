"""A node of its own with a server of images: many prologues want one image. Prints what came of it as JSON.

    python -m tests.load.worker SCRATCH JOBS KILL_AT

`KILL_AT`: per cent of the image that are sent, before the prologue that downloads is killed; 0 for never.
"""

import dataclasses
import fcntl
import json
import os
import sys
import time
from pathlib import Path

from lab import mom, nest
from lab.imageserver import Generated, ImageServer, Page
from lab.remains import Node

QUEUE = "load"
SIZE = 96 << 20
RATE = 60 << 20
STORE = Path("/var/lib/vmbatch/store")
_SECONDS = 240


@dataclasses.dataclass
class Result:
    """`sent` and `starts` are the server's counts, `lost` bytes sent that the killed prologue cannot have kept."""

    verdicts: list[str]
    errors: list[str]
    starts: int
    requests: int
    sent: int
    kept_at_kill: int
    left: list[str]
    contents: list[int]


def template(url: str, digest: str) -> str:
    """The crash tests' template with one more disk."""
    disk = f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <vbdisksource source='{url}' copy_method='shared'/>
      <vbcheckhash hashfunction='sha256' hashvalue='{digest}'/>
      <target dev='vdd' bus='virtio'/></disk>
    <interface"""
    return nest.TEMPLATE.replace(nest.ONCE, "").replace("<interface", disk, 1)


def main() -> None:
    """One scenario."""
    answers = nest.answers()
    nest.enter(Path(sys.argv[1]))
    content, kill_at = Generated(SIZE), SIZE * int(sys.argv[3]) // 100
    page = Page(content, rate=RATE, stall_after=kill_at or None, times=1)
    with ImageServer({"/image.raw": page}) as server:
        config = nest.CONFIG.replace("[queues]\n", f'[queues]\n{QUEUE} = "load.xml"\n')
        Path("/etc/vmbatch/vmbatch.conf").write_text(config.replace("[timeouts]\n", "[timeouts]\nscale = 10\n"))
        Path("/etc/vmbatch/domains/load.xml").write_text(template(server.url("/image.raw"), content.sha256))
        result = play(server, int(sys.argv[2]), kill_at)
    answers.write(json.dumps(dataclasses.asdict(result)) + "\n")
    answers.flush()


def play(server: ImageServer, number: int, kill_at: int) -> Result:
    """The jobs, their epilogues, and what is left."""
    node = Node()
    player = mom.Mom()
    jobs = [player.accept(b"#!/bin/sh\n", queue=QUEUE) for _ in range(number)]
    hooks = [(job, player.start_prologue(job)) for job in jobs]
    kept = kill_downloader(server, kill_at) if kill_at else 0
    over = time.monotonic() + _SECONDS
    verdicts, errors = [], []
    for job, hook in hooks:
        code = hook.wait(max(1.0, over - time.monotonic()))
        verdicts.append("killed" if code == -9 else "run" if code == 0 else f"exit {code}")
        errors.append(job.errors.decode())
    for job in jobs:
        player.start_epilogue(job).wait()
        player.forget(job)
    count = server.count("/image.raw")
    left = [line for line in node.left() if "load.worker" not in line]
    left += [str(path) for path in (STORE / "site/incoming").iterdir()] + [str(path) for path in (STORE / "uses").iterdir()]
    return Result(verdicts, [text for text in errors if text], count.starts, count.requests, count.bytes, kept, left,
                  [path.stat().st_size for path in (STORE / "site/content").iterdir()])


def kill_downloader(server: ImageServer, at: int) -> int:
    """Kills the session that holds the image's lock once so much is sent; what it had written by then."""
    over = time.monotonic() + _SECONDS
    while server.count("/image.raw").bytes < at:
        if time.monotonic() > over:
            raise TimeoutError("nobody downloads the image")
        time.sleep(0.002)
    [lock] = (STORE / "site/incoming").glob("*.lock")
    holder = holder_of(lock)
    mom.kill_session(os.getsid(holder))
    [partial] = (STORE / "site/incoming").glob("*.part")
    return partial.stat().st_size


def holder_of(lock: Path) -> int:
    """The process that has the lock (proc(5), /proc/locks)."""
    inode = lock.stat().st_ino
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for line in Path("/proc/locks").read_text().splitlines():
                words = line.split()
                if "->" not in words and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                    return int(words[4])
    raise RuntimeError("nobody holds the lock")


if __name__ == "__main__":
    main()
