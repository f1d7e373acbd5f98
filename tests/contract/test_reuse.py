"""A guest that has had a job, as its epilogue has it wait for another one of the same user, or ends it: killed anywhere, too."""

import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.pure.sample import job as sample_job
from vmbatch import drain, ending, filler, history, hooked, journal, metrics, pool, release, reuse, status, trace
from vmbatch.claim import Claim
from vmbatch.cli import main
from vmbatch.context import keys
from vmbatch.errors import SiteError
from vmbatch.guest import JOB_OVER, Message
from vmbatch.host import clock, virt
from vmbatch.host.log import Log
from vmbatch.hypervisor.domain import Domain
from vmbatch.job import Job
from vmbatch.journal import Journal
from vmbatch.record import Waits
from vmbatch.units import Deadline

from .test_pool import ADDRESS, JOB, Node, Starts, node, starts

__all__ = ["node", "starts"]
pytestmark = pytest.mark.usefixtures("places")

SECOND = sample_job(id="43.vm", script=None, node_file=None, batch="local")
"""Of the same user."""


class Port:
    """The port of a guest that has had a job: what it says to whoever opens it, and when its job is over."""

    def __init__(self, greeting: str = "busy", outcome: str = "waiting", address: str = ADDRESS) -> None:
        self.said = {greeting: Message(greeting, ADDRESS)}
        self.outcome = Message(outcome, "" if outcome == "failed" else address, "no rm here" if outcome == "failed" else "")
        self.heard: list[bytes] = []
        self.opened = 0
        self.descriptor, self._other = os.pipe()

    def read(self, kind: str) -> Message | None:
        return self.said.get(kind)

    def send(self, pieces: Iterable[bytes], alive: Callable[[], None]) -> None:
        alive()
        self.heard += pieces
        self.said[self.outcome.kind] = self.outcome
        os.write(self._other, b"x")

    def close(self) -> None:
        """Is opened again."""


class Reused:
    """A node whose guests may have three jobs, each in turn, and the port of each guest."""

    def __init__(self, starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts = starts
        self.node = starts.node
        self.port = Port()
        self.left = 300.0
        self.keys = 0
        self.node.write(self.node.template.read_text().replace("lifetime='8h'", "lifetime='8h' jobs='3' idle='7min'"))
        monkeypatch.setattr(reuse, "open_port", self._open)
        monkeypatch.setattr(reuse, "renew", self._renew)
        monkeypatch.setattr(reuse, "_HEARING_SECONDS", 0.2)
        monkeypatch.setattr(reuse, "_CLEANING_SECONDS", 0.4)
        self.state = "running"
        monkeypatch.setattr(virt, "state", lambda *_: self.state)

    def _open(self, *_: object) -> Port:
        self.port.opened += 1
        return self.port

    def _renew(self, directory: str, *_: object) -> None:
        assert os.path.isdir(directory)
        self.keys += 1

    def run(self) -> str:
        """A job's start, with the guest that waits."""
        return self.starts.run()[0]

    def end(self, job_id: str, exit_status: int | None = 0) -> str:
        """The job's epilogue; its log."""
        log = Log(self.node.config.log_directory, job_id, "epilogue")
        ending.epilogue(job_id, self.node.config, log, exit_status, alarm=lambda: self.left)
        return Path(log.path).read_text()

    def waits(self) -> Waits:
        (_path, _start, waits), = journal.waiting()
        return waits


@pytest.fixture
def reused(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> Reused:
    return Reused(starts, monkeypatch)


def test_it_waits_again(reused: Reused) -> None:
    """Under its own name, with all that it had and nothing of the job; and so three jobs have it."""
    node = reused.node
    node.fill()
    token, = node.running.values()
    (path, was, before), = journal.waiting()
    for had in (1, 2):
        job_id = reused.run()
        assert reused.starts.ways[-1][1] is not None
        book = journal.path_of(job_id)
        assert os.path.exists(book)
        assert not os.path.exists(path)
        assert "waits for another job of this user" in reused.end(job_id)
        assert (reused.port.heard, reused.port.opened, reused.keys) == ([JOB_OVER] * had, had, had)
        reused.port.said = {"busy": Message("busy", ADDRESS)}
        assert not os.path.exists(book)
        assert list(node.running.values()) == [token]
        (now, start, waits), = journal.waiting()
        assert (now, start) == (path, was)
        assert (waits.had, waits.user, waits.uid) == (had, "nobody", pwd.getpwnam("nobody").pw_uid)
        assert (waits.address, waits.addresses, waits.key, waits.lifetime) == (before.address, before.addresses, before.key,
                                                                               before.lifetime)
        assert waits.until == pytest.approx(clock.uptime() + 420, abs=5)
        assert not list((node.directory / "run/handover").iterdir())
        assert status.look() == []
        assert node.sweep() == []
        assert filler.prune([node.form], node.config) == []
    job_id = reused.run()
    assert "it has had 3 of 3 jobs" in reused.end(job_id)
    assert node.left() == []
    assert [(record.outcome, record.status) for record in history.records([node.config.log_history])] == [("ran", 0)] * 3
    guests = list(trace.guests(node.config.log_trace))
    assert [each.begin.user for each in guests] == ["root", "nobody", "nobody", "nobody", "nobody", "nobody"]
    assert [each.begin.job == was.job for each in guests] == [True, False, True, False, True, False]
    assert all(each.ended is not None for each in guests)


@pytest.mark.parametrize(("what", "said"), [
    ("status", "its job ended with status 7"), ("unknown", "nobody knows how its job ended"),
    ("drained", "this node is drained"), ("paused", "its domain is paused"), ("killed", "an admin ended it"),
    ("alarm", "its epilogue has no time for that"), ("lifetime", "its lifetime is over"),
    ("deaf", "it does not answer"), ("slow", "it has not cleaned itself in time"),
    ("failed", "it could not clean itself: no rm here"),
    ("early", "it says that it waits, and has not been told to"), ("elsewhere", "it says that it waits at 10.77.0.43"),
    ("keys", "no more keys"), ("port", "no such port"),
])
def test_one_that_gets_no_further_job(reused: Reused, monkeypatch: pytest.MonkeyPatch, what: str, said: str) -> None:
    """It is released as ever, and its job has ended well."""
    node = reused.node
    node.fill()
    job_id = reused.run()
    exit_status: int | None = 0

    def fail(*_: object) -> None:
        raise SiteError(said, code="VB906")

    if what in ("status", "unknown"):
        exit_status = 7 if what == "status" else None
    elif what == "drained":
        drain.drain("root", "so", 0.0)
    elif what == "paused":
        reused.state = "paused"
    elif what == "killed":
        shown, = status.look()
        status.Board(shown).learn(why=said)
    elif what == "alarm":
        reused.left = node.config.timeouts_margin + 1
    elif what == "lifetime":
        now = clock.uptime()
        monkeypatch.setattr(clock, "uptime", lambda: now + 9 * 3600)
    elif what == "deaf":
        reused.port.said = {}
    elif what == "slow":
        reused.port.outcome = Message("announce", ADDRESS)
    elif what == "failed":
        reused.port.outcome = Port(outcome="failed").outcome
    elif what == "early":
        reused.port.said["waiting"] = Message("waiting", ADDRESS)
    elif what == "elsewhere":
        reused.port.outcome = Message("waiting", "10.77.0.43")
    elif what == "keys":
        monkeypatch.setattr(reuse, "renew", fail)
    else:
        monkeypatch.setattr(reuse, "open_port", fail)
    assert f"the guest gets no further job: {said}" in reused.end(job_id, exit_status)
    assert node.left() == []
    record, = history.records([node.config.log_history])
    assert (record.outcome, record.status) == ("ran", exit_status)


def test_a_template_that_does_not_want_it(reused: Reused) -> None:
    node = reused.node
    node.write(node.template.read_text().replace(" jobs='3' idle='7min'", ""))
    node.fill()
    said = reused.end(reused.run())
    assert "further job" not in said
    assert reused.port.opened == 0
    assert node.left() == []


def test_a_guest_that_was_booted_for_its_job(reused: Reused) -> None:
    said = reused.end(reused.run())
    assert "further job" not in said
    assert reused.node.left() == []


def again(node: Node, job: Job, user: str = "alice", uid: int = 1500) -> str:
    """A guest, the only one, that has had a job of this user; its token."""
    node.fill()
    (path, start, _waits), = journal.waiting()
    book = node.take(job)
    assert book is not None
    assert book.waited is not None
    book.wait_again(book.waited.again(user, uid))
    book.close()
    assert os.path.exists(path)
    return start.token


@pytest.mark.parametrize(("user", "uid"), [("bob", 1501), ("bob", 1500), ("alice", 1501)])
def test_another_user_never_gets_it(reused: Reused, user: str, uid: int) -> None:
    """Nor one who has the name or the number alone, as when an account has changed hands."""
    node = reused.node
    again(node, JOB, user, uid)
    assert node.take(SECOND) is None
    assert "no guest that waits is taken: those that wait are for other users" in node.said()
    assert len(journal.waiting()) == 1


def test_its_user_rather_gets_it_than_a_new_one(reused: Reused) -> None:
    node = reused.node
    token = again(node, JOB)
    node.fill()
    path, waits = next((path, waits) for path, _start, waits in journal.waiting() if not waits.had)
    fresh = Journal.open(path, Deadline(0))
    assert fresh is not None
    fresh.wait(msgspec.structs.replace(waits, until=clock.uptime() + 60))  # by which it would come first
    fresh.close()
    assert (pool.count(node.form), filler.lacking(node.form)) == (1, 1)
    book = node.take(SECOND)
    assert book is not None
    assert book.start.token == token
    assert "a guest is taken that has had 1 of this user's jobs" in node.said()
    book.release(9)
    other = node.take(sample_job(id="44.vm", script=None))
    assert other is not None
    assert other.start.token != token


def test_it_makes_room_before_one_that_anybody_may_have(reused: Reused) -> None:
    node = reused.node
    used = again(node, JOB)
    node.fill()
    spare = pool.Spare(node.config, node.log)
    claims = [Claim(directory="x", token=token, job="x", cores=1, memory=1, asked=0.0, owner=clock.this_process())
              for token in sorted(node.running.values(), key=lambda token: token == used)]
    assert claims[-1].token == used
    assert [claim.token for claim in spare.claims(claims)] == [used, claims[0].token]


def test_one_whose_user_does_not_come(reused: Reused, monkeypatch: pytest.MonkeyPatch) -> None:
    node = reused.node
    again(node, JOB)
    now = clock.uptime()
    with monkeypatch.context() as later:
        later.setattr(clock, "uptime", lambda: now + 421)
        assert node.take(SECOND) is None
        line, = node.sweep()
        assert "it waited for a job until its time was over" in line
    assert node.left() == []


def test_idle_is_no_longer_than_its_lifetime(reused: Reused, monkeypatch: pytest.MonkeyPatch) -> None:
    reused.node.fill()
    waits = reused.waits()
    now = clock.uptime()
    monkeypatch.setattr(clock, "uptime", lambda: now + 8 * 3600 - 60)
    assert waits.again("alice", 1500).until == waits.lifetime
    assert waits.is_spent == ""


def test_whoever_gives_it_back_is_killed_anywhere(reused: Reused) -> None:
    """It waits whole, for its user's next job; or it is a dead start, of which the epilogue, or the sweep, leaves nothing."""
    node = reused.node

    def begin() -> str:
        reused.port.said = {"busy": Message("busy", ADDRESS)}
        node.fill()
        job_id = reused.run()
        node.die()
        return job_id

    def finish(job_id: str) -> None:
        with pytest.MonkeyPatch.context() as dead:
            for module in (ending, release):
                dead.setattr(module, "release", lambda *_words, **_named: True)
            reused.end(job_id)

    job_id = begin()
    assert node.run(lambda: finish(job_id))
    whole = list(node.calls)
    node.die()
    (path, *_), = journal.waiting()
    assert pool.end(path, "so", node.config, node.log)
    assert node.left() == []
    assert len(whole) > 6
    assert whole.index("journal") < len(whole) - 1
    outcomes = []
    for at in range(1, len(whole) + 1):
        for cleanup in ("epilogue", "sweep"):
            job_id = begin()
            assert not node.run(lambda job_id=job_id: finish(job_id), at), f"{at}: {node.calls}"  # type: ignore[misc]
            node.die()
            if cleanup == "epilogue":
                ending.epilogue(job_id, node.config, node.log, 0, alarm=lambda: 300.0)
            else:
                node.sweep()
                ending.epilogue(job_id, node.config, node.log)
            waiting = journal.waiting()
            outcomes.append(len(waiting))
            for path, start, waits in waiting:
                assert waits.had == 1
                assert list(node.running.values()) == [start.token]
                assert not list((node.directory / "run/handover").iterdir())
                assert status.look() == []
                assert pool.end(path, "so", node.config, node.log)
            assert node.left() == [], f"killed before {at} {whole[at - 1]}, {cleanup}"
    assert outcomes.count(0) > 0


def test_one_that_waits_under_its_jobs_name_is_dead(reused: Reused) -> None:
    """Its epilogue was killed between the line that says so and the name by which jobs find it."""
    node = reused.node
    for cleanup in ("sweep", "epilogue"):
        node.fill()
        book = node.take(JOB)
        assert book is not None
        assert book.waited is not None
        book.wait(book.waited.again("alice", 1500))
        book.close()
        assert journal.waiting() == []
        assert node.take(SECOND) is None
        if cleanup == "sweep":
            line, = node.sweep()
            assert "its epilogue ended before the guest waited again" in line
        else:
            ending.epilogue(JOB.id, node.config, node.log, 0, alarm=lambda: 300.0)
        assert node.left() == []


def test_a_chain_of_jobs_in_a_journal(reused: Reused) -> None:
    """Who reads it knows whose the guest is now, and what is that one's alone."""
    node = reused.node
    again(node, JOB)
    (path, was, _waits), = journal.waiting()
    book = node.take(SECOND)
    assert book is not None
    made = len(book.resources)
    book.promise(Domain("test:///default", "x", "0" * 8, "f" * 32, "/x"))
    book.hand_over()
    book.close()
    read = Journal.open(book.path, Deadline(0))
    assert read is not None
    assert (read.start.job, read.handed_over, read.waits, len(read.resources)) == ("43.vm", True, None, made + 1)
    assert read.waited is not None
    assert read.waited.had == 1
    read.release_own(1.0)
    assert len(read.resources) == made
    read.wait_again(read.waited.again("alice", 1500))
    assert (read.path, read.start, read.handed_over) == (path, was, False)
    read.close()
    known = journal.peek(path)
    assert known is not None
    assert (known[0], len(known[1]), known[2]) == (was, made, False)


def test_what_is_shown(reused: Reused, monkeypatch: pytest.MonkeyPatch) -> None:
    node = reused.node
    monkeypatch.setattr(hooked, "load_config", lambda: node.config)
    again(node, JOB)
    node.fill()
    shown = CliRunner().invoke(main, ["pool", "list"]).output.splitlines()
    assert shown[0].split()[-2:] == ["FOR", "JOBS"]
    assert {tuple(line.split()[-4:]) for line in shown[1:]} == {("alice", "1", "of", "3"), ("anyone", "0", "of", "3")}
    rows = [msgspec.json.decode(line) for line in CliRunner().invoke(main, ["pool", "list", "--json"]).output.splitlines()]
    assert {(row["user"], row["jobs"]) for row in rows} == {("alice", 1), ("", 0)}
    said = "".join(metrics._now(node.config))
    assert f'vmbatch_waiting_guests{{template="{node.template}"}} 1\n' in said
    assert f'vmbatch_reusable_guests{{template="{node.template}"}} 1\n' in said
    assert CliRunner().invoke(main, ["pool", "drain"]).output.count("ended ") == 2
    assert node.left() == []


def test_keys_of_one_that_waits_again(tmp_path: Path) -> None:
    """The user's is another one; the guest's own stays."""
    for name in ("id_ed25519", "id_ed25519.pub", "host_key"):
        (tmp_path / name).write_text("old")
    keys.renew(str(tmp_path), "7.pool", Deadline(20))
    assert (tmp_path / "host_key").read_text() == "old"
    assert (tmp_path / "id_ed25519.pub").read_text().startswith("ssh-ed25519 ")
    assert "PRIVATE KEY" in (tmp_path / "id_ed25519").read_text()
