"""Percentiles, causes, the text and the page of a report."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import config, history, hooked
from vmbatch.cli import main
from vmbatch.phase import PHASES
from vmbatch.report import Row, causes, groups, percentile, short
from vmbatch.report.page import MOST_JOBS, page
from vmbatch.status import Failure

from .past import MOMENT, month, record
from .sample import OTHER_TOKEN


@pytest.mark.parametrize(("values", "share", "found"), [
    ([3.0], 0.99, 3.0), ([1.0, 2.0], 0.5, 1.5), ([1.0, 2.0, 3.0], 0.5, 2.0), ([0.0, 10.0], 0.9, 9.0),
    ([float(number) for number in range(101)], 0.99, 99.0),
])
def test_percentiles(values: list[float], share: float, found: float) -> None:
    assert percentile(values, share) == pytest.approx(found)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order(values: list[float]) -> None:
    values.sort()
    found = [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)]
    assert found == sorted(found)
    assert values[0] - 0.001 <= found[0] <= found[-1] <= values[-1] + 0.001


def test_groups() -> None:
    failed = record(outcome="failed", failure=Failure("VB301", "node", "x"), seconds={"image": 999.0}, token=OTHER_TOKEN)
    [first, second] = groups([record(), record(provisioning=20.5), failed, record(node="node2")])
    assert (first.template, first.node, first.starts, first.ran, first.failed) == ("debian", "node1", 3, 2, 1)
    assert [row.phase for row in first.rows] == ["queue", "admission", "image", "disks", "context", "boot", "ready",
                                                 "provisioning", "run", "epilogue"]
    rows = {row.phase: row for row in first.rows}
    assert rows["provisioning"] == Row("provisioning", 2, 17.5, 19.9, 20.44, 20.5)
    assert rows["image"].most == 0.5, "what was cut short has no part in it"
    assert (second.node, second.starts) == ("node2", 1)
    assert groups([]) == []
    [none] = groups([failed])
    assert none.rows == ()


def test_causes() -> None:
    made = [record(failure=Failure("VB301", "node", f"server {number}"), ended=number, job=f"{number}.vm")
            for number in (1, 3, 2)]
    made.append(record(failure=Failure("", "site", "no code yet")))
    found = causes([record(), *made])
    assert [(cause.code, cause.fault, cause.starts, cause.job, cause.what) for cause in found] == [
        ("VB301", "node", 3, "3.vm", "server 3"), ("", "site", 1, "42.vm", "no code yet")]


@pytest.mark.parametrize(("path", "name"), [("/etc/vmbatch/domains/debian.xml", "debian"), ("x", "x"), ("", "-")])
def test_templates_names(path: str, name: str) -> None:
    assert short(path) == name


class Page(HTMLParser):
    """The tags of a page, whether each is closed, and what it refers to."""

    VOID = {"meta", "br", "link", "img", "input"}
    OPEN = {"html"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.refers: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.refers += [(tag, value or "") for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "localtime", time.gmtime)


@pytest.mark.usefixtures("zone")
def test_the_page(golden: Callable[[str, str], None]) -> None:
    text = page(month(60), MOMENT + 86400 * 3)
    golden("report.html", text)
    made = Page(text)
    assert made.open == []
    assert made.refers == []
    assert not re.search(r"@[A-Z_]+@", text)
    assert not re.search(r"https?://|@import|url\(", page([], MOMENT)), "nothing comes from elsewhere"
    styles = text.partition("<style>")[2].partition("</style>")[0]
    light, dark = styles.split("@media (prefers-color-scheme: dark)")[:2]
    for name in PHASES:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark.partition("* {")[0]


def data_of(text: str) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(re.findall(r"^const data = (.*);$", text, re.MULTILINE)[0])
    return found


HOSTILE = "</script><script>alert(1)</script><b>\u2028&amp;\"'@DATA@"


def test_what_users_wrote_stays_text() -> None:
    bad = record(why=HOSTILE, user=HOSTILE, job=HOSTILE, template=HOSTILE, node=HOSTILE, failure=Failure(HOSTILE, "job", HOSTILE),
                 outcome="failed")
    text = page([bad], MOMENT)
    plain = Page(page([record()], MOMENT))
    assert Page(text).seen.count("script") == 1
    assert set(Page(text).seen) <= set(plain.seen)
    assert "\u2028" not in text.partition("<script>")[2]
    [job] = data_of(text)["jobs"]
    assert (job["why"], job["user"], job["job"]) == (HOSTILE, HOSTILE, HOSTILE)


def test_a_page_without_jobs() -> None:
    text = page([], MOMENT)
    assert "No job yet" in text
    assert "No start has failed." in text
    assert data_of(text)["jobs"] == []


def test_a_page_does_not_grow_for_ever() -> None:
    many = [record(started=MOMENT + number, token=f"{number:032x}", job=f"{number}.vm", steps=())
            for number in range(MOST_JOBS + 5)]
    text = page(many, MOMENT)
    assert data_of(text)["jobs"][0]["job"] == "5.vm"
    assert f"the pictures have the last {MOST_JOBS:,} of {MOST_JOBS + 5:,} starts" in text
    assert f"<b>{MOST_JOBS + 5:,}</b><span>starts</span>" in text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's history, and its configuration."""
    place = tmp_path / "history"
    for each in (record(), record(token=OTHER_TOKEN, job="43.vm", template="/t/el9.xml", started=MOMENT + 500, outcome="failed",
                                  failure=Failure("VB301", "node", "no \x1b[2Jserver"))):
        history.write(str(place), each)
    monkeypatch.setattr(hooked, "load_config", lambda: config.parse(f"[log]\nhistory = '{place}'".encode(), "test"))
    return place


def ask(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["report", *words])
    return done.exit_code, done.output


def test_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hooked, "load_config", interrupted)
    assert ask() == (130, "vmbatch: interrupted\n")


@pytest.mark.usefixtures("zone", "place")
def test_the_text(golden: Callable[[str, str], None]) -> None:
    status, text = ask()
    assert status == 0
    golden("report.txt", text)
    assert "\x1b" not in text


def test_what_is_counted(place: Path) -> None:
    def templates(*words: str) -> list[str]:
        status, text = ask("--json", *words)
        assert status == 0
        return [row["template"] for row in map(json.loads, text.splitlines()) if row["kind"] == "phases"]

    assert templates() == ["debian", "el9"]
    assert templates("--template", "el9.xml") == templates("--template", "el9") == ["el9"]
    assert templates("--since", str(MOMENT + 100)) == ["el9"]
    assert templates("--since", "1d") == []
    assert templates(str(place / "jobs.jsonl"), str(place)) == ["debian", "el9"]


@pytest.mark.usefixtures("place")
def test_the_file(tmp_path: Path) -> None:
    status, text = ask("--html", str(tmp_path / "report.html"))
    assert (status, text) == (0, f"{tmp_path}/report.html: 2 starts\n")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "report.html"]
    status, text = ask("--html", str(tmp_path / "none/report.html"))
    assert (status, text) == (1, f"vmbatch: {tmp_path}/none/report.html cannot be written: No such file or directory [VB906]\n")


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooked, "load_config", lambda: config.parse(b"[log]\nhistory = ''", "test"))
    assert ask() == (1, "vmbatch: this node keeps no history of its jobs (set [log] history in vmbatch.conf) [VB920]\n")
    assert ask("--since", "yesterday")[0] == 2
    assert ask("/none")[0] == 2


def test_records_are_what_programs_read() -> None:
    assert msgspec.json.decode(msgspec.json.encode(record()), type=history.Record) == record()


def test_of_which_the_guest_had_waited() -> None:
    """They are said beside the others, and only where there are any."""
    group, = groups([record(token="1" * 32, pooled=True), record(token="2" * 32)])
    assert group.counts == [(2, "ran"), (1, "of these in a guest that had waited")]
    group, = groups([record(token="1" * 32)])
    assert group.counts == [(1, "ran")]
