"""Figures for Prometheus: what they are, and that counters only grow, however the history is rotated."""

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbatch import claim, config, drain, history, journal, metrics, status
from vmbatch.admission import Room
from vmbatch.errors import NodeError
from vmbatch.history import Record
from vmbatch.host import clock
from vmbatch.metrics import BUCKETS, Histogram
from vmbatch.status import Board, Failure, Step

from .past import STATUS, record
from .past import status as like
from .sample import OTHER_TOKEN


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that is looked at, in a directory of the test's own; there is room for guests."""
    monkeypatch.setattr("vmbatch.host.file._check", lambda *_args, **_named: None)
    monkeypatch.setattr(metrics, "STATE", str(tmp_path / "state/metrics"))
    monkeypatch.setattr(status, "DIRECTORY", str(tmp_path / "status"))
    monkeypatch.setattr(claim, "DIRECTORY", str(tmp_path / "claims"))
    monkeypatch.setattr(drain, "PATH", str(tmp_path / "state/drained"))
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr("vmbatch.admission.room", lambda _: Room(None, 8, 16 << 30))
    return tmp_path


def figures(place: Path) -> dict[str, float]:
    text = metrics.text(config.parse(f"[log]\nhistory = '{place}/history'".encode(), "test"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines()) if name[:1] != "#"}


def write(place: Path, *records: Record) -> Path:
    for each in records:
        history.write(str(place / "history"), each)
    return place / "history/jobs.jsonl"


def many(first: int, count: int) -> list[Record]:
    return [record(token=f"{number:032x}", job=f"{number}.vm") for number in range(first, first + count)]


def test_all_figures(place: Path, golden: Callable[[str, str], None]) -> None:
    failed = record(token=OTHER_TOKEN, template="", outcome="failed", failure=Failure("VB301", "node", "x"))
    write(place, record(), failed)
    here = clock.this_process()
    Board.new(STATUS)
    Board.new(like(job="43.vm", token=OTHER_TOKEN, steps=(Step("begin", 1.0), Step("boot", 2.0)), owner=here))
    Board.new(like(job="44.vm", token="f" * 32, steps=(Step("begin", 1.0),)))
    (place / "claims").mkdir()
    held = claim.Claim(str(place / "claims"), OTHER_TOKEN, "43.vm", 2, 640 << 20, 1.0, here)
    held.acquire()
    assert figures(place)["vmbatch_claimed_cores"] == 0, "it only asks"
    held.move(claim.ASKING, claim.HELD)
    drain.drain("root", "new disks", 1.0)
    text = metrics.text(config.parse(f"[log]\nhistory = '{place}/history'".encode(), "test"))
    golden("metrics.prom", text)


def test_the_form(place: Path) -> None:
    """Each family's lines stand together below its head; buckets grow, and the last is the count."""
    write(place, *many(0, 3))
    text = metrics.text(config.parse(f"[log]\nhistory = '{place}/history'".encode(), "test"))
    assert text.endswith("\n")
    family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
        labels = r'(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})?'
        assert re.fullmatch(rf"# (HELP {family} [A-Z].*\.|TYPE {family} (gauge|counter|histogram))"
                            rf"|{family}(_bucket|_sum|_count)?{labels} [0-9.e+]+", line), line
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
    buckets = [float(value) for value in re.findall(r'vmbatch_provisioning_seconds_bucket\{.*\} (\S+)', text)]
    assert buckets == sorted(buckets)
    assert (len(buckets), buckets[-1]) == (len(BUCKETS) + 1, 3)


def starts(place: Path) -> float:
    return figures(place)['vmbatch_starts_total{template="debian",outcome="ran"}']


def test_what_is_new_is_counted_once(place: Path) -> None:
    write(place, *many(0, 3))
    assert starts(place) == starts(place) == 3
    write(place, *many(3, 2))
    assert starts(place) == starts(place) == 5
    assert figures(place)['vmbatch_provisioning_seconds_sum{template="debian"}'] == 5 * 14.5


def test_rotation_costs_and_adds_nothing(place: Path) -> None:
    """As logrotate does it with delaycompress: what was written after the last look, and before the rotation, counts."""
    path = write(place, *many(0, 3))
    assert starts(place) == 3
    write(place, *many(3, 1))
    for number in range(3):
        for old in sorted(path.parent.glob("jobs.jsonl-*")):
            if old.suffix != ".gz":
                old.with_name(f"{old.name}.gz").write_bytes(gzip.compress(old.read_bytes()))
                old.unlink()
        path.rename(path.with_name(f"jobs.jsonl-2026010{number}"))
        assert starts(place) == 4 + 3 * number
        write(place, *many(10 * (number + 1), 3))
        assert starts(place) == 7 + 3 * number
    shutil.rmtree(path.parent)
    assert starts(place) == 13


def test_a_torn_line_waits_for_its_end(place: Path) -> None:
    path = write(place, *many(0, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert starts(place) == 1
    path.write_bytes(whole)
    assert starts(place) == 2


def test_a_damaged_state_begins_anew(place: Path) -> None:
    write(place, *many(0, 2))
    assert starts(place) == 2
    Path(metrics.STATE).write_bytes(b"{")
    assert starts(place) == 2
    assert os.stat(metrics.STATE).st_mode & 0o777 == 0o600


def test_without_libvirt_and_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: object) -> Room:
        raise NodeError("libvirt does not answer")

    monkeypatch.setattr("vmbatch.admission.room", silent)
    text = metrics.text(config.parse(b"[log]\nhistory = ''", "test"))
    assert "vmbatch_room" not in text
    assert "vmbatch_starts_total" not in text
    assert 'vmbatch_jobs{phase="run"} 0\n' in text


def test_labels_are_quoted(place: Path) -> None:
    write(place, record(template='/x/a"b\\c\nd\te.xml'))
    text = metrics.text(config.parse(f"[log]\nhistory = '{place}/history'".encode(), "test"))
    assert 'vmbatch_starts_total{template="a\\"b\\\\c\\nd e",outcome="ran"} 1\n' in text


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (86400.0, 16), (1e9, 17)])
def test_buckets(value: float, bucket: int) -> None:
    made = Histogram()
    made.add(value)
    assert made.counts.index(1) == bucket
