"""Jobs in real guests: the hooks as mom runs them, inside the lab's node."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import node
from lab.mom import Job, Mom
from tests import summary

CONFIG = Path("/etc/vmbatch/vmbatch.conf")
SITE_SCRIPTS = Path("/etc/vmbatch/guest.d")
_booted: list[str] = []


summary.FUNCTIONS.append(lambda: f"real guests booted: {len(_booted)}" if _booted else "")


@pytest.fixture(autouse=True, scope="session")
def in_node() -> None:
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)


class CountingMom(Mom):
    """Counts the guests that its prologues started."""

    def forget(self, job: Job) -> None:
        log = Path(f"/var/log/vmbatch/{job.file_id}.log")
        if log.exists() and re.search(r"phase start \d", log.read_text()):
            _booted.append(job.id)
        super().forget(job)


@pytest.fixture(scope="session")
def mom() -> Mom:
    return CountingMom()


@contextmanager
def live_job(mom: Mom, queue: str) -> Iterator[Job]:
    """A job whose prologue has succeeded, and whose epilogue runs at the end."""
    job = mom.accept(b"#!/bin/sh\necho the script of the job\n", queue=queue, name="live", variables={"MINE": "yes"})
    verdict = mom.finish_prologue(mom.start_prologue(job))
    try:
        assert verdict == "run", job.errors.decode()
        yield job
    finally:
        mom.start_epilogue(job).wait()
        mom.forget(job)


@pytest.fixture(scope="module")
def live(mom: Mom) -> Iterator[Job]:
    """One guest for many runs of a module."""
    with live_job(mom, "busybox") as job:
        yield job


@pytest.fixture
def nothing_left(left: Callable[[], list[str]]) -> Iterator[None]:
    """The node is as empty after the test as before: what an earlier one left was said there."""
    before = left()
    yield
    assert [line for line in left() if line not in before] == []


@contextmanager
def site_scripts() -> Iterator[Path]:
    """Where the site's scripts for all guests are, which run as root: `prolog.d` before there is a user, `epilog.d` after."""
    try:
        for stage in ("prolog.d", "epilog.d"):
            (SITE_SCRIPTS / stage).mkdir(parents=True)
        yield SITE_SCRIPTS
    finally:
        shutil.rmtree(SITE_SCRIPTS)


@pytest.fixture
def scripts() -> Iterator[Path]:
    with site_scripts() as place:
        yield place


Configure = Callable[[str], AbstractContextManager[None]]


@contextmanager
def changed_configuration(more: str) -> Iterator[None]:
    """The lab's settings with others behind them."""
    before = text = CONFIG.read_text()
    behind = ""
    for section in re.split(r"(?m)^(?=\[)", more):
        header = section.partition("\n")[0]
        if header and f"\n{header}\n" in text:
            text = text.replace(f"\n{header}\n", f"\n{section}\n")
        else:
            behind += section
    CONFIG.write_text(f"{text}\n{behind}\n")
    try:
        yield
    finally:
        CONFIG.write_text(before)


@pytest.fixture
def configure() -> Configure:
    """Puts other settings in place of the lab's for a while: text to append, in which a section may stand again."""

    return changed_configuration
