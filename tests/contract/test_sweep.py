"""What the sweep makes of journals that change, or cannot be read, while it looks."""

import time
from pathlib import Path

import msgspec
import pytest

from vmbatch import journal, sweep
from vmbatch.config import Config, parse
from vmbatch.host.log import Log
from vmbatch.journal import Journal
from vmbatch.record import Start
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline

from .book import START
from .cases import NetworkFilterCase
from .tokens import new_token

pytestmark = pytest.mark.usefixtures("places")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a node with nothing on it."""
    places = {f"{name}_directory": str(tmp_path / name) for name in ("spool", "images", "share")}
    for place in places.values():
        Path(place).mkdir(mode=0o711)
    return msgspec.structs.replace(parse(b"", "x"), libvirt_uri="test:///default", log_directory=str(tmp_path / "log"), **places)


def book(job: str) -> Journal:
    made = Journal.create(msgspec.structs.replace(START, job=job, token=new_token()))
    assert made is not None
    return made


def test_what_is_put_aside_meanwhile_is_known(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what an epilogue has just kept would be removed as nobody's."""
    first, second = book("41.vm"), book("42.vm")
    peek = journal.peek

    def slow(path: str) -> tuple[Start, list[object], bool] | None:
        if path == first.path:
            assert second.keep(time.time() + 3600, "it ended with status 7", 9)
            second.close()
        return peek(path)  # type: ignore[return-value]

    monkeypatch.setattr(journal, "peek", slow)
    found = sweep.journals(config, Log(config.log_directory, "0", "sweep"), dry_run=True)
    first.close()
    assert found.tokens == {first.start.token, second.start.token}
    assert (found.said, found.unread) == ([], [])


def test_a_filter_that_no_journal_lists(config: Config, tmp_path: Path) -> None:
    case = NetworkFilterCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    log = Log(config.log_directory, "0", "sweep")
    try:
        assert f"would remove {case.resource}: no journal lists it" in sweep.sweep(config, log, dry_run=True)
        assert case.exists()
        assert f"removed {case.resource}: no journal lists it" in sweep.sweep(config, log, dry_run=False)
        assert not case.exists()
    finally:
        case.clear()


def test_a_filter_is_made_again_if_nobody_ends_its_start(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the journal's lock may be taking the filter away."""
    monkeypatch.setattr(sweep, "_judge", lambda book, *, dry_run: "")
    case, log = NetworkFilterCase(tmp_path), Log(config.log_directory, "0", "sweep")
    case.prepare()
    start = Journal.create(msgspec.structs.replace(START, job="42.vm", token=case.token))
    assert start is not None
    start.promise(case.resource)
    assert sweep.sweep(config, log, dry_run=False) == [], "it is just being made"
    start.hand_over()
    assert sweep.sweep(config, log, dry_run=False) == [], "it is just being ended"
    assert not case.exists()
    start.close()
    try:
        about = f"the {case.resource} of job 42.vm again: its rules"
        assert sweep.sweep(config, log, dry_run=True) == [f"would make {about} have been taken away"]
        assert not case.exists()
        assert sweep.sweep(config, log, dry_run=False) == [f"made {about} had been taken away"]
        assert case.exists()
        assert sweep.sweep(config, log, dry_run=False) == []
        case.clear()
        case.file.unlink()
        [said] = sweep.sweep(config, log, dry_run=False)
        assert said.startswith(f"could not make the {case.resource} of job 42.vm again: [Errno 2]")
    finally:
        case.clear()


def test_nothing_is_nobodys_while_a_journal_cannot_be_read(config: Config) -> None:
    damaged = Path(journal.directory()) / "42.vm.journal"
    damaged.write_bytes(b"\xff\n")
    token = new_token()
    owned = Directory(f"{config.spool_directory}/42.vm.{token}", token, 0o700)
    owned.acquire()
    log = Log(config.log_directory, "0", "sweep")
    said = sweep.sweep(config, log, dry_run=False)
    assert Path(owned.path).is_dir()
    assert f"left alone {owned}: it may be of {damaged}, which cannot be read" in said
    assert next(line for line in said if line.startswith(f"left alone {damaged}: ")).endswith(
        "(see what it lists, remove that by hand, then remove the file)")
    damaged.unlink()
    assert f"removed {owned}: no journal lists it" in sweep.sweep(config, log, dry_run=False)
    assert not Path(owned.path).exists()


def test_a_start_looks_into_no_journal_of_what_is_kept(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of what is over: that is the sweep's."""
    for number, until in ((1, time.time() + 3600), (2, time.time() - 1)):
        kept = book(f"{number}.vm")
        assert kept.keep(until, "it failed", 10)
        kept.close()
    seen: list[str] = []
    real = journal.peek

    def peek(path: str) -> object:
        seen.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(journal, "peek", peek)
    log = Log(config.log_directory, "0", "prologue")
    assert sweep.journals(config, log, dry_run=False, kept=False) == (set(), [], [])
    assert seen == []
    assert len(sweep.journals(config, log, dry_run=False).said) == 1
    assert [start.job for _, start, _, _ in journal.kept()] == ["1.vm"]


def test_a_start_has_little_time_for_what_others_left(config: Config) -> None:
    dead = book("42.vm")
    dead.close()
    log = Log(config.log_directory, "0", "prologue")
    assert sweep.journals(config, log, dry_run=False, patience=Deadline(0)) == (set(), [], [])
    assert Path(dead.path).exists()
    assert sweep.journals(config, log, dry_run=False, patience=Deadline(60)).tokens == {dead.start.token}
    assert not Path(dead.path).exists()
