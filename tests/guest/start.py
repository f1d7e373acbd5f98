"""Queues whose guests do not start by a boot for their job: they go on from a saved one, or wait; and what is seen of them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.mom import Ended

from .conftest import CONFIG
from .disks import DOMAINS

VMBATCH = "/srv/vmbatch/venv/bin/vmbatch"


def vmbatch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([VMBATCH, *arguments], capture_output=True, text=True, check=False)


def waiting() -> list[dict[str, str]]:
    """The guests that wait."""
    done = vmbatch("pool", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def queue(name: str, like: str, tag: str, change: tuple[str, str] = ("", "")) -> Iterator[Path]:
    """A queue whose guests are those of another one, but start as its `tag` says; no guest of its template is left."""
    template = DOMAINS / f"{name}.xml"
    text = (DOMAINS / f"{like}.xml").read_text().replace("<vbhypervisor>", f"{tag}<vbhypervisor>", 1)
    template.write_text(text.replace(*change) if change[0] else text)
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[queues]\n", f'[queues]\n{name} = "{name}.xml"\n'))
    try:
        yield template
    finally:
        CONFIG.write_text(before)
        template.unlink()
        assert vmbatch("pool", "drain").returncode == 0
        assert waiting() == []
        vmbatch("image", "prune")  # saved guests that have no template any more


def log(ended: Ended) -> str:
    """What the node has written of a job."""
    return Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()


def said(output: bytes) -> dict[str, str]:
    """A job's output, whose lines are a name and a value."""
    return dict(line.partition(" ")[::2] for line in output.decode().splitlines())
