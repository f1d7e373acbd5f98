"""What is written down when a start is over, whichever way; and a guest that an admin ends."""

import json
from pathlib import Path

import msgspec
import pytest

from vmbatch import config, drain, ending, endmarker, history, journal, lifecycle, pool, status, verdict
from vmbatch.batch.system import Call
from vmbatch.batch.torque import Torque
from vmbatch.errors import BusyError, EndedError, NodeError
from vmbatch.host import clock
from vmbatch.host.log import Log
from vmbatch.hypervisor.domain import Domain
from vmbatch.journal import Journal
from vmbatch.record import HandedOver, Kept, Start
from vmbatch.release import conclude
from vmbatch.resource import Resource
from vmbatch.status import Board

from .past import MOMENT, STATUS
from .sample import TOKEN

DOMAIN = Domain("test:///default", "vmbatch-42.vm-01234567", "01234567-89ab-4def-8123-456789abcdef", TOKEN, "/x/domain.xml")
START = Start("42.vm", TOKEN, "alice", "vm", None, STATUS.owner, MOMENT)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("vmbatch.host.file._check", lambda *_args, **_named: None)
    monkeypatch.setattr(status, "DIRECTORY", str(tmp_path / "status"))
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(endmarker, "DIRECTORY", str(tmp_path / "run" / "ended"))
    monkeypatch.setattr(pool, "DIRECTORY", str(tmp_path / "run" / "pool"))
    monkeypatch.setattr(drain, "PATH", str(tmp_path / "state/drained"))
    return tmp_path


def settings(place: Path) -> config.Config:
    return config.parse(f"[log]\ntrace = '{place}/trace'\nhistory = '{place}/history'\n".encode(), "test")


def book(*resources: Resource, handed_over: bool = True) -> Journal:
    made = Journal.__new__(Journal)
    made.start, made.resources, made.handed_over, made.kept = START, list(resources), handed_over, None
    return made


def ended(place: Path, made: Journal, code: int | None = 0) -> tuple[list[history.Record], list[str]]:
    """(history, events of the trace) after its end."""
    conclude(made, "its epilogue has run", code, settings(place), Log(None, "42.vm", "epilogue"))
    path = place / "trace/trace.jsonl"
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []
    return list(history.records([str(place / "history")])), events


def test_a_job_that_ran(place: Path) -> None:
    Board.new(STATUS)
    [record], events = ended(place, book(DOMAIN), 7)
    assert (record.job, record.outcome, record.status, record.why) == ("42.vm", "ran", 7, "its epilogue has run")
    assert events == ["end"]
    assert status.look() == []


def test_a_start_that_failed_before_its_guest(place: Path) -> None:
    """Of such a one there is no trace: there was no guest."""
    Board.new(msgspec.structs.replace(STATUS, steps=STATUS.steps[:3])).failed(NodeError("no server"), cancelled=False)
    [record], events = ended(place, book(handed_over=False), None)
    assert (record.outcome, events) == ("failed", [])
    assert record.failure is not None
    assert record.failure.what == "no server"


def test_what_an_admin_says_counts(place: Path) -> None:
    Board.new(STATUS)
    Board(STATUS).learn(why="mines coins")
    [record], _ = ended(place, book(DOMAIN))
    assert record.why == "mines coins"
    [line] = (place / "trace/trace.jsonl").read_text().splitlines()
    assert json.loads(line)["why"] == "mines coins"


def test_a_prologue_that_died_as_it_handed_over(place: Path) -> None:
    """The journal alone says whether the job had its guest."""
    Board.new(STATUS)
    [record], _ = ended(place, book(DOMAIN, handed_over=False), None)
    assert (record.outcome, record.running, "run" in record.seconds) == ("lost", None, False)


def test_after_a_boot_of_the_node(place: Path) -> None:
    """What was in /run is gone: the line says what the journal knows."""
    [record], events = ended(place, book(DOMAIN), None)
    assert (record.job, record.user, record.started, record.outcome, record.seconds) == ("42.vm", "alice", MOMENT, "lost", {})
    assert events == ["end"]


def test_its_line_is_written_once(place: Path) -> None:
    """Also where the release goes on after it, and is called again."""
    Board.new(STATUS)
    made = book(DOMAIN)
    made.start = msgspec.structs.replace(START, owner=clock.this_process())
    assert len(ended(place, made)[0]) == len(ended(place, made)[0]) == 1
    assert len((place / "history/jobs.jsonl").read_text().splitlines()) == 1


def test_a_journal_that_only_says_why_not(place: Path) -> None:
    assert ended(place, book()) == ([], [])


def test_what_was_kept_has_its_line_already(place: Path) -> None:
    made = book(DOMAIN)
    made.kept = Kept(MOMENT, "it failed")
    assert ended(place, made) == ([], [])


def test_a_full_disk_stops_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board.new(STATUS)
    monkeypatch.setattr("os.write", lambda *_: 0)
    log = Log(None, "42.vm", "epilogue")
    said: list[str] = []
    monkeypatch.setattr(log, "line", lambda text, **_: said.append(text))
    conclude(book(DOMAIN), "", 0, settings(place), log)
    assert [text.partition(" cannot be written")[0].rpartition("/")[2] for text in said] == ["trace.jsonl", "jobs.jsonl"]
    assert status.look() == []


CALL = Call(["prologue", "42.vm", "alice", "alice", "name", "", "vm", ""], {}, "/")


@pytest.mark.parametrize("error", [NodeError("no user"), BusyError("drained")])
def test_a_start_without_a_journal(place: Path, error: NodeError) -> None:
    with pytest.raises(type(error)), lifecycle._refusals(Torque(), CALL, settings(place), Log(None, "42.vm", "prologue")):
        raise error
    [record] = history.records([str(place / "history")])
    assert (record.job, record.queue, record.outcome, record.user) == ("42.vm", "vm", "failed", "")
    assert record.failure is not None
    assert (record.failure.fault, record.failure.what) == ("node", error.what)


def test_what_is_no_utf8(place: Path) -> None:
    """As a job's name may be, in an error, and a queue's in an argument."""
    call = Call([*CALL.argv[:6], "vm\udcff", ""], {}, "/")
    with pytest.raises(NodeError), lifecycle._refusals(Torque(), call, settings(place), Log(None, "42.vm", "prologue")):
        raise NodeError("not \udcff a name")
    [record] = history.records([str(place / "history")])
    assert record.failure is not None
    assert (record.queue, record.failure.what, record.why) == ("vm?", "not ? a name", "it could not start: not ? a name")
    Board.new(STATUS).failed(NodeError("not \udcff a name"), cancelled=False)
    conclude(book(), "it could not start: \udcff", None, settings(place), Log(None, "42.vm", "prologue"))
    assert [each.why for each in history.records([str(place / "history")])][1:] == ["it could not start: ?"]


def test_a_start_that_another_one_has_ended(place: Path) -> None:
    with pytest.raises(EndedError), lifecycle._refusals(Torque(), CALL, settings(place), Log(None, "42.vm", "prologue")):
        raise EndedError("a later start")
    assert not (place / "history").exists()


def write_journal(*lines: object) -> None:
    journal.make_directories()
    Path(journal.path_of("42.vm")).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def test_an_admin_ends_a_guest(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(START, DOMAIN, HandedOver(MOMENT))
    Board.new(STATUS)
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(verdict, "end", lambda *words: done.append(words))
    said = ending.kill("42.vm", "mines coins", settings(place), Log(None, "42.vm", "kill"))
    assert said == "the guest of job 42.vm has been ended; the job ends now, and its epilogue removes the rest"
    assert done == [(DOMAIN, "/run/vmbatch/handover/42.vm", TOKEN, "mines coins")]
    assert status.look()[0].why == "mines coins"
    assert Path(journal.path_of("42.vm")).exists(), "the rest is the epilogue's"


def test_an_admin_ends_a_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(START, DOMAIN)
    done: list[str] = []
    monkeypatch.setattr(ending, "epilogue", lambda job, *_: done.append(job))
    monkeypatch.setattr(verdict, "end", lambda *_: pytest.fail("the start undoes itself"))
    said = ending.kill("42.vm", "why", settings(place), Log(None, "42.vm", "kill"))
    assert said.startswith("the start of job 42.vm has been ended")
    assert done == ["42.vm"]


def test_there_is_nothing_to_end(place: Path) -> None:
    journal.make_directories()
    with pytest.raises(NodeError, match=r"job 42\.vm has no guest on this node"):
        ending.kill("42.vm", "", settings(place), Log(None, "42.vm", "kill"))


