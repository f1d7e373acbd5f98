"""Machines in namespaces of their own, and the context that is sent to them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import node
from vmbatch.context.parameters import assignments
from vmbatch.context.tree import Entry
from vmbatch.resource import Work
from vmbatch.units import Deadline

from .machine import Machine, machine, make_key

KIT = Path(__file__).resolve().parents[2] / "vmbatch/kit"
NONCE = "0123456789abcdef0123456789abcdef"
PARAMETERS = {
    "VMBATCH_JOB": "42.vm",
    "VMBATCH_TOKEN": NONCE,
    "VMBATCH_HOSTNAME": "vm-42",
    "VMBATCH_USER": "carol",
    "VMBATCH_UID": "1700",
    "VMBATCH_GROUP": "carol",
    "VMBATCH_GID": "1700",
    "VMBATCH_GROUPS": "physics:1600",
    "VMBATCH_HOME": "/home/carol",
    "VMBATCH_SHELL": "/bin/bash",
    "VMBATCH_SHARE_SOURCE": "127.0.0.1:/share",
    "VMBATCH_SHARE_TYPE": "tmpfs",
    "VMBATCH_SHARE_OPTIONS": "mode=755",
    "VMBATCH_SHARE_PATH": "/mnt/vmbatch",
}


@pytest.fixture(autouse=True, scope="session")
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that only root can write, and all above it."""
    made = Path(tempfile.mkdtemp(prefix="rootssh-", dir="/srv"))
    yield made
    shutil.rmtree(made)


def work(seconds: float = 60.0, alive: Callable[[], None] = lambda: None, said: list[str] | None = None) -> Work:
    return Work(Deadline(seconds), alive, (lambda _line: None) if said is None else said.append)


def context(place: Path, *more: Entry) -> list[Entry]:
    """The tree of a job, with the kit as it is; the job's key is `place`/job_key."""
    job_key = make_key(place / "job_key")
    entries = [
        Entry(path.name if path.name in ("prolog.sh", "epilog.sh") else f"kit/{path.name}", 0o755, path.read_bytes())
        for path in sorted(KIT.glob("*.sh"))
    ]
    return [
        *entries,
        Entry("parameters.sh", 0o600, assignments(PARAMETERS)),
        Entry("ssh/authorized_key", 0o600, Path(f"{job_key}.pub").read_bytes()),
        Entry("ssh/host_key", 0o600, b"the job's host key: for guests that have none"),
        Entry("ssh/host_key.pub", 0o644, b"the job's host key"),
        Entry("job/script", 0o600, b"#!/bin/sh\necho hello\n"),
        *more,
    ]


@pytest.fixture
def openssh(place: Path) -> Iterator[Machine]:
    with machine(place) as made:
        yield made
