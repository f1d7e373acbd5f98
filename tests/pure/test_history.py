"""What is written down of a start that is over, and read again."""

import gzip
import json
from pathlib import Path

import pytest

from vmbatch import history
from vmbatch.errors import NodeError
from vmbatch.history import Span
from vmbatch.status import Failure, Step

from .past import MOMENT, STATUS, record, status
from .sample import OTHER_TOKEN


def test_a_start_that_ran() -> None:
    made = record()
    assert made.seconds == {"queue": 7.5, "admission": 0.5, "image": 0.5, "disks": 0.5, "context": 0.5, "boot": 11.0,
                            "ready": 1.5, "run": 60.0, "epilogue": 1.5}
    assert (made.provisioning, made.running) == (14.5, 60.0)
    assert (made.outcome, made.status, made.why, made.failure) == ("ran", 0, "its epilogue has run", None)
    assert (made.started, made.ended) == (MOMENT, MOMENT + 76)
    assert made.steps[:2] == (Span("begin", 0.0, 0.25), Span("admission", 0.25, 0.25))
    assert sum(span.seconds for span in made.steps) == pytest.approx(76)
    assert sum(made.seconds.values()) == pytest.approx(76 + 7.5), "nothing is lost between phases"


FAILURE = Failure("VB301", "node", "no server answers")


@pytest.mark.parametrize(("changed", "outcome"), [
    ({"failure": FAILURE}, "failed"), ({"cancelled": True}, "cancelled"), ({}, "lost"),
])
def test_a_start_that_never_ran(changed: dict[str, object], outcome: str) -> None:
    known = status(steps=(Step("begin", 100.0), Step("images", 101.0), Step("release", 131.0)), queued=None, **changed)
    made = history.of(known, "it could not start", None, 132.0)
    assert (made.outcome, made.running, made.provisioning) == (outcome, None, 31.0)
    assert made.seconds == {"admission": 1.0, "image": 30.0, "epilogue": 1.0}
    assert made.failure == changed.get("failure")


def test_lines(tmp_path: Path) -> None:
    """Whoever reads them needs no VmBatch; what logrotate put aside counts, a start counts once, a torn line not at all."""
    place = tmp_path / "history"
    history.write(str(place), record())
    path = place / "jobs.jsonl"
    (place / "jobs.jsonl-20260101.gz").write_bytes(gzip.compress(path.read_bytes()))
    history.write(str(place), record(status=9))
    history.write(str(place), record(token=OTHER_TOKEN, job="43.vm"))
    with path.open("ab") as opened:
        opened.write(b'{"job":"44.vm","tok')
    assert [(each.job, each.status) for each in history.records([str(place)])] == [("42.vm", 0), ("43.vm", 0)]
    assert [each.job for each in history.records([str(path), str(place)])] == ["42.vm", "43.vm"]
    line = json.loads(path.read_text().splitlines()[0])
    assert (line["outcome"], line["provisioning"], line["seconds"]["boot"]) == ("ran", 14.5, 11.0)
    assert line["steps"][0] == {"step": "begin", "begin": 0.0, "seconds": 0.25}
    assert (place.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o750, 0o640)


def test_without_a_directory_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history.write("", record())
    assert list(tmp_path.iterdir()) == []
    assert list(history.records([])) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.write", lambda *_: 0)
    with pytest.raises(NodeError, match=r"jobs\.jsonl cannot be written: a line could not be written whole: is the disk full\?"):
        history.write(str(tmp_path / "history"), record())


def test_the_status_of_an_older_version() -> None:
    """Steps that nobody knows count, too."""
    known = status(steps=(Step("begin", 0.0), Step("of yesterday", 1.0), Step("run", 3.0)))
    assert history.of(known, "", None, 4.0).seconds["boot"] == 2.0
    assert history.of(STATUS, "", None, 176.0) == record(status=None, why="")
