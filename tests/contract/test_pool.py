"""Guests that wait for jobs, as whoever makes, takes or ends one is killed before each thing that it does.

What is left is a guest that waits and that nobody has touched, or nothing that the sweep does not remove.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.pure.sample import job as sample_job
from vmbatch import (
    admission,
    boot,
    claim,
    drain,
    ending,
    filler,
    history,
    hooked,
    journal,
    lifecycle,
    pool,
    sshargs,
    status,
    sweep,
    template,
    trace,
)
from vmbatch.batch.local import Local, Order, call
from vmbatch.cli import main
from vmbatch.config import Config, parse
from vmbatch.errors import BusyError, DeadlineError, EndedError, SiteError
from vmbatch.grant import Grant
from vmbatch.guest import Message, Way
from vmbatch.handover import decode
from vmbatch.host import clock, process
from vmbatch.host.log import Log
from vmbatch.job import Job
from vmbatch.journal import Journal
from vmbatch.plan import Plan
from vmbatch.pool import Taken
from vmbatch.record import Start
from vmbatch.resource import Work
from vmbatch.template import Template
from vmbatch.units import Deadline

from .killed import Killed, KilledError

pytestmark = pytest.mark.usefixtures("places")

TEMPLATE = """<domain type='qemu'>
  <name>guest</name>
  <vbconfig><vbstart size='2' lifetime='8h'>POOL</vbstart><vbmessages>CHANNEL</vbmessages></vbconfig>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <vbdisksource source='{image}' copy_method='cow'/>
      <vbuserimage name='vbown' format='qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <vbpreparecdrom source='context.iso'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
    </disk>
  </devices>
</domain>
"""
ADDRESS = "10.77.0.42"


class Channel:
    """The port of a guest that waits."""

    def __init__(self, answer: str = ADDRESS) -> None:
        self._answer = answer
        self.descriptor, self._other = os.pipe()
        os.write(self._other, b"x")

    def read(self, kind: str) -> Message | None:
        assert kind == "waiting"
        return Message(kind, self._answer) if self._answer else None

    def close(self) -> None:
        for fd in (self.descriptor, self._other):
            os.close(fd)


class Node(Killed):
    """A node with a libvirt that is played, and a process that is killed before its call number `at`."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.directory = place
        self.answers: dict[str, str] = {}
        self.shown = "ssh-ed25519 AAAA"
        self.image = place / "base.raw"
        self.image.write_bytes(bytes(1 << 20))
        self.image.chmod(0o644)
        self.template = place / "guest.xml"
        self.write(TEMPLATE.format(image=self.image))
        places = {f"{name}_directory": str(place / name) for name in ("spool", "images", "share")}
        for made in places.values():
            Path(made).mkdir(mode=0o711)
        self.config: Config = msgspec.structs.replace(
            parse(b"", "x"), libvirt_uri="test:///default", log_directory=str(place / "log"), log_trace="", log_history="",
            admission_cores="none", admission_memory="none", admission_wait=0.0, images_keep_free=0, spool_keep_free=0,
            network_filter=False, share_source="10.77.0.1:/share", queues={"vm": ("guest.xml",)},
            templates_directory=str(place), **places)
        self.log = Log(self.config.log_directory, "42.vm", "prologue")
        self.log.line("begins")
        self._play(monkeypatch)
        self.watch(monkeypatch)

    def write(self, text: str) -> Template:
        self.template.write_text(text)
        self.template.chmod(0o644)
        return self.form

    @property
    def form(self) -> Template:
        return template.parse(self.template.read_bytes(), str(self.template))

    def _play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.play(monkeypatch, "pool", state=lambda _uri, uuid: "running" if uuid in self.running else "gone")
        monkeypatch.setattr(boot, "lay_by", lambda *_, **__: ADDRESS)
        monkeypatch.setattr(pool, "open_port", lambda _uri, _uuid, token: Channel(self.answers.get(token, ADDRESS)))
        monkeypatch.setattr(pool, "_GREETING_SECONDS", 0.1)
        monkeypatch.setattr(claim, "DIRECTORY", str(self.directory / "claims"))
        monkeypatch.setattr("vmbatch.context.keys.ssh.make_keys", self.make_keys)
        monkeypatch.setattr("vmbatch.filler.ssh.shown_key", lambda *_: self.shown)

    @staticmethod
    def make_keys(paths: list[str], comment: str, deadline: Deadline) -> None:
        for path in paths:
            Path(path).write_text("PRIVATE")
            Path(f"{path}.pub").write_text("ssh-ed25519 AAAA")

    def run(self, what: Callable[[], object], at: int = 0) -> bool:
        """Whether it came to its end, and was not killed before its call `at`: a dead one releases and closes nothing."""
        self.at, self.calls = at, []
        with pytest.MonkeyPatch.context() as dead:
            for module in (filler, pool, lifecycle):
                dead.setattr(module, "release", lambda *_words, **_named: None)
            dead.setattr(Journal, "close", lambda _book: None)
            try:
                what()
            except KilledError:
                return False
            finally:
                self.at = 0
        return True

    def fill(self) -> str:
        return filler.fill(self.form, self.config)

    def take(self, job: Job) -> Journal | None:
        """What a prologue does until all is the job's."""
        form, log = self.form, self.log
        start = Start(job.id, job.token, job.user.name, job.queue, None, clock.this_process(), time.time(), "local")
        waited = pool.take(job, form, Grant(), self.config, log)
        if waited is None:
            return None
        book = lifecycle._take(waited.start(start), Deadline(9), self.config, log, waited)
        waited.channel.close()
        return book

    def said(self) -> str:
        return (self.directory / "log/42.vm.log").read_text()

    def die(self) -> None:
        """The kernel lets go of the dead one's locks."""
        for fd in list(process._held):
            process.let_go(fd)
            os.close(fd)
        process.watch(None)

    def sweep(self) -> list[str]:
        self.die()
        return sweep.sweep(self.config, Log(None, "0", "sweep"), dry_run=False)

    def left(self) -> list[str]:
        """What there is of any start."""
        found = [path for name in ("spool", "images/uses", "claims", "state/jobs", "share", "run/handover")
                 for path in (self.directory / name).glob("*")]
        return [str(path) for path in found] + list(self.running)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    yield Node(tmp_path, monkeypatch)
    process.watch(None)


JOB = sample_job(script=None, node_file=None, batch="local")


def test_a_guest_waits(node: Node) -> None:
    node.fill()
    (path, start, waits), = journal.waiting()
    assert (waits.template, waits.address) == (str(node.template), ADDRESS)
    assert waits.until == pytest.approx(clock.uptime() + 8 * 3600, abs=9)
    assert node.sweep() == []
    assert list(node.running.values()) == [start.token]
    assert [state for _, state in claim.look(claim.DIRECTORY)] == ["running"]
    assert not (node.directory / "run/handover").exists() or not list((node.directory / "run/handover").iterdir())
    assert filler.lacking(node.form) == 1
    assert pool.end(path, "so", node.config, node.log)
    assert node.left() == []


def test_a_job_takes_it(node: Node) -> None:
    node.fill()
    (path, was, _waits), = journal.waiting()
    book = node.take(JOB)
    assert book is not None
    assert (book.start.job, book.start.user, book.start.token, book.start.pooled) == ("42.vm", "alice", was.token, was.job)
    assert book.path == journal.path_of("42.vm")
    assert not os.path.exists(path)
    assert journal.waiting() == []
    assert node.take(sample_job(id="43.vm", script=None)) is None
    known = journal.peek(book.path)
    assert known is not None
    assert (known[0], known[2]) == (book.start, False)
    book.release(9)
    assert node.left() == []


def test_two_jobs_never_get_the_same(node: Node) -> None:
    """The second finds it locked while the first is at it; and then that there is none."""
    node.fill()
    (path, *_), = journal.waiting()
    holder = Journal.open(path, Deadline(0))
    assert holder is not None
    begin = time.monotonic()
    assert node.take(JOB) is None
    assert time.monotonic() - begin < 10
    assert "those that wait are in use" in node.said()
    holder.close()
    assert node.take(JOB) is not None


@pytest.mark.parametrize("change", ["memory", "image", "template", "setting", "old"])
def test_one_that_is_not_as_the_job_s(node: Node, change: str) -> None:
    node.fill()
    granted = Grant()
    if change == "memory":
        granted = Grant(memory=128 << 20)
    elif change == "image":
        node.image.write_bytes(bytes(2 << 20))
    elif change == "template":
        node.write(node.template.read_text().replace("q35", "pc"))
    elif change == "setting":
        node.config = msgspec.structs.replace(node.config, network_closed=("10.0.0.0/8",))
    else:
        with pytest.MonkeyPatch.context() as later:
            now = clock.uptime()
            later.setattr(clock, "uptime", lambda: now + 9 * 3600)
            assert pool.take(JOB, node.form, granted, node.config, node.log) is None
            assert node.sweep() != []
        assert node.left() == []
        return
    assert pool.take(JOB, node.form, granted, node.config, node.log) is None
    assert "no guest that waits is taken: those that wait have other" in node.said()
    assert len(filler.prune([node.form], node.config)) == (change != "memory")


def test_own_images_are_booted(node: Node) -> None:
    node.fill()
    wish = sample_job(wishes={"vbown": "/home/alice/own.qcow2"}, script=None)
    assert pool.take(wish, node.form, Grant(), node.config, node.log) is None
    assert "the job has an image of its own" in node.said()


@pytest.mark.parametrize("answer", ["", "10.77.0.43"])
def test_one_that_does_not_answer_is_ended(node: Node, answer: str) -> None:
    """Or that says that it is elsewhere than it was; the next one is taken."""
    node.fill()
    token, = node.running.values()
    node.answers[token] = answer
    node.fill()
    book = node.take(JOB)
    assert book is not None
    assert book.start.token != token
    assert list(node.running.values()) == [book.start.token]


def test_a_job_does_not_try_for_ever(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_GREETINGS_SECONDS", 0.15)
    for _ in range(4):
        node.fill()
    node.answers |= dict.fromkeys(node.running.values(), "")
    assert node.take(JOB) is None
    assert "no guest that waits is taken: those that wait do not answer" in node.said()
    assert len(journal.waiting()) in {2, 3}, "one was tried at least, and not all"


def test_a_job_that_is_over_leaves_it_to_others(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(*_: object) -> None:
        raise EndedError("the job is over")

    node.fill()
    with monkeypatch.context() as ended:
        ended.setattr(pool, "open_port", over)
        with pytest.raises(EndedError):
            node.take(JOB)
    assert node.take(sample_job(id="43.vm", script=None)) is not None


def test_a_job_on_several_nodes_is_booted(node: Node) -> None:
    node.fill()
    assert lifecycle._from_pool(JOB, node.form, Grant(), node.config, node.log, alone=False) is None
    assert "no guest that waits is taken: the job has guests on other nodes" in node.said()
    assert len(journal.waiting()) == 1


def test_room_for_a_job(node: Node) -> None:
    """A guest that waits makes room, unless that would not be enough."""
    node.config = msgspec.structs.replace(node.config, admission_cores=4)
    node.fill()
    node.fill()
    with pytest.raises(BusyError):
        node.fill()
    here, others = admission.room(node.config), Log(None, "0", "prologue")
    work = Work(Deadline(9), lambda: None, lambda _: None)

    def ask(token: str, cores: int) -> None:
        wanted = admission.claim(msgspec.structs.replace(JOB, token=token), node.form, Grant(cores=cores), node.config,
                                 clock.this_process())
        wanted.acquire()
        try:
            admission.enter(wanted, here, node.config, work, pool.Spare(node.config, others))
        except BusyError:
            wanted.release(Deadline(1), last=False)
            raise

    with pytest.raises(BusyError):
        ask("1" * 32, 5)
    assert len(journal.waiting()) == 2
    ask("2" * 32, 1)
    assert len(journal.waiting()) == 1
    ask("3" * 32, 3)
    assert journal.waiting() == []
    assert node.running == {}


def test_what_is_of_no_use_is_ended(node: Node) -> None:
    node.fill()
    assert filler.prune([node.form], node.config) == []
    node.running.clear()
    line, = filler.prune([node.form], node.config)
    assert line.endswith("its domain is gone")
    node.fill()
    line, = filler.prune([], node.config)
    assert line.endswith("is to wait any more")
    assert node.left() == []


@pytest.mark.error("VB717")
def test_templates_whose_guests_cannot_wait(node: Node) -> None:
    node.config = msgspec.structs.replace(node.config, share_export="exportfs")
    node.write(node.template.read_text().replace("CHANNEL", "SHARE"))
    with pytest.raises(SiteError, match=r"guests cannot wait for jobs: .*as the job's user"):
        node.fill()
    assert node.left() == []


def test_an_sshd_with_another_key(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filler, "_SSHD_SECONDS", 0.1)
    node.shown = "ssh-ed25519 BBBB"
    with pytest.raises(DeadlineError, match="does not show the key that was made for it: ssh-ed25519 BBBB"):
        node.fill()
    assert node.left() == []


def test_one_refill_at_a_time(node: Node) -> None:
    with filler.alone() as first, filler.alone() as second:
        assert (first, second) == (True, False)
    with filler.alone() as third:
        assert third


def test_whoever_fills_is_killed_anywhere(node: Node) -> None:
    assert node.run(node.fill)
    whole = len(node.calls)
    assert whole > 15
    node.die()
    (path, *_), = journal.waiting()
    assert pool.end(path, "so", node.config, node.log)
    for at in range(1, whole + 1):
        assert not node.run(node.fill, at), f"{at}: {node.calls}"
        node.sweep()
        assert journal.waiting() == [], f"killed before {at}: {node.calls[-3:]}"
        assert node.left() == [], f"killed before {at}: {node.calls[-3:]}"


def test_whoever_takes_is_killed_anywhere(node: Node) -> None:
    """Before the mark all is as it was, and another job takes it; from the mark on nobody gets it, and nothing is left."""
    node.fill()
    assert node.run(lambda: node.take(JOB))
    calls = list(node.calls)
    assert calls == ["journal", "link", "unlink"]
    node.sweep()
    assert node.left() == []
    for at in range(1, len(calls) + 1):
        node.fill()
        assert not node.run(lambda: node.take(JOB), at)
        assert len(journal.waiting()) == (at == 1)
        node.die()
        other = node.take(sample_job(id="43.vm", script=None))
        assert (other is None) == (at > 1)
        said = node.sweep()
        assert node.left() == [], f"killed before {calls[at - 1]}: {said}"


def test_a_mark_that_is_torn(node: Node) -> None:
    """As by a disk that was full for whoever was killed then: the guest still waits, and the next job's mark is whole."""
    node.fill()
    (path, *_), = journal.waiting()
    with open(path, "ab") as torn:
        torn.write(msgspec.json.encode(start_of(JOB))[:-7])
    book = node.take(sample_job(id="43.vm", script=None))
    assert book is not None
    known = journal.peek(book.path)
    assert known is not None
    assert known[0].job == "43.vm"
    book.release(9)
    assert node.left() == []


def test_an_epilogue_of_a_half_taken_one(node: Node) -> None:
    """It runs before any sweep, and finds the job's journal or none."""
    for at in (1, 2, 3):
        node.fill()
        assert not node.run(lambda: node.take(JOB), at)
        node.die()
        ending.epilogue(JOB.id, node.config, node.log)
        node.sweep()
        assert len(journal.waiting()) == (at == 1)
        for path, *_ in journal.waiting():
            assert pool.end(path, "so", node.config, node.log)
        assert node.left() == []


def test_an_earlier_start_of_the_job_is_ended_first(node: Node) -> None:
    node.fill()
    early = Journal.create(Start(JOB.id, "e" * 32, "alice", "vm", None, clock.this_process(), time.time(), "local"))
    assert early is not None
    early.close()
    book = node.take(JOB)
    assert book is not None
    assert book.start.token in node.running.values()


def test_a_start_that_gives_up_leaves_one_that_is_not_marked(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise DeadlineError("it is in use", code="VB907")

    node.fill()
    early = Journal.create(Start(JOB.id, "e" * 32, "alice", "vm", None, clock.this_process(), time.time(), "local"))
    assert early is not None
    with pytest.MonkeyPatch.context() as busy:
        busy.setattr(journal, "peek", late)
        with pytest.raises(DeadlineError):
            node.take(JOB)
    early.release(9)
    early.close()
    assert len(journal.waiting()) == 1
    waited = pool.take(JOB, node.form, Grant(), node.config, node.log)
    assert isinstance(waited, Taken)
    assert waited.book.become(waited.start(start_of(JOB))) is not None
    waited.give_up(node.config, node.log)
    assert node.left() == []


def start_of(job: Job) -> Start:
    return Start(job.id, job.token, job.user.name, job.queue, None, clock.this_process(), time.time(), "local")


class Starts:
    """Whole starts, but for what guests do of themselves; `ways` is how the node came to each guest."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        self.ways: list[tuple[Plan, object]] = []
        self.fail: Exception | None = None
        monkeypatch.setattr(boot, "bring_up", self.bring_up)
        for module, name in ((status, "DIRECTORY"), (sshargs, "HANDOVER"), (drain, "PATH")):
            monkeypatch.setattr(module, name, str(node.directory / f"run/{name.lower()}"))
        node.config = msgspec.structs.replace(
            node.config, queues={"local": ("guest.xml",)}, users_minimum_uid=1, log_trace=str(node.directory / "trace"),
            log_history=str(node.directory / "history"))

    def bring_up(self, chosen: Plan, _start: Start, _config: Config, _log: Log, _deadline: Deadline, _meeting: object,
                 channel: object = None, *, act: Callable[..., None]) -> Way:
        self.ways.append((chosen, channel))
        if self.fail is not None:
            raise self.fail
        return Way(ADDRESS)

    def run(self, **wishes: object) -> tuple[str, str]:
        """A job's id, and its log."""
        order = Order(kind="run", user="nobody", group="nogroup", name="test", **wishes)  # type: ignore[arg-type]
        made = call(order)
        log = Log(self.node.config.log_directory, made.argv[1], "prologue")
        lifecycle.prologue(Local(), made, self.node.config, log, None)
        return made.argv[1], Path(log.path).read_text()


@pytest.fixture
def starts(node: Node, monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(node, monkeypatch)


def test_a_prologue_takes_a_guest_and_its_epilogue_leaves_nothing(starts: Starts) -> None:
    node = starts.node
    node.fill()
    token, = node.running.values()
    job_id, said = starts.run()
    (chosen, channel), = starts.ways
    assert isinstance(channel, Channel)
    assert chosen.given is not None
    assert "phase take" in said
    assert "phase admission" not in said
    assert list(node.running.values()) == [token]
    shown, = status.look()
    assert (shown.job, shown.token, shown.user, bool(shown.pooled)) == (job_id, token, "nobody", True)
    handed = decode((node.directory / f"run/handover/{job_id}/record").read_bytes())
    assert (handed.token, handed.user, handed.address) == (token, "nobody", ADDRESS)
    assert [state for _, state in claim.look(claim.DIRECTORY)] == ["running"]
    assert (node.directory / "run/pool/wanted").exists()
    assert node.sweep() == []
    ending.epilogue(job_id, node.config, node.log)
    assert node.left() == []
    before, after = trace.guests(node.config.log_trace)
    assert (before.begin.user, after.begin.user, after.begin.job) == ("root", "nobody", job_id)
    record, = history.records([node.config.log_history])
    assert (record.pooled, record.outcome) == (True, "ran")


def test_a_prologue_boots_where_none_waits(starts: Starts) -> None:
    job_id, said = starts.run()
    (chosen, channel), = starts.ways
    assert (chosen.given, channel) == (None, None)
    assert "no guest that waits is taken: none waits" in said
    assert "phase admission" in said
    ending.epilogue(job_id, starts.node.config, starts.node.log)
    assert starts.node.left() == []
    record, = history.records([starts.node.config.log_history])
    assert not record.pooled


def test_a_guest_that_was_taken_and_does_not_get_ready_is_gone(starts: Starts) -> None:
    node = starts.node
    node.fill()
    starts.fail = SiteError("it is not ready", code="VB707")
    with pytest.raises(SiteError, match="it is not ready"):
        starts.run()
    assert node.left() == []
    assert (node.directory / "run/pool/wanted").exists()


def test_a_job_that_needs_the_room_of_one_that_is_not_for_it(starts: Starts) -> None:
    """It has other memory, and there is room for one guest."""
    node = starts.node
    node.config = msgspec.structs.replace(node.config, admission_slots=1)
    node.write(node.template.read_text().replace(
        "<vbmessages>", "<vbresources memory='job' maxmemory='1G'/><vbmessages>"))
    node.fill()
    token, = node.running.values()
    job_id, said = starts.run(memory=256 << 20)
    assert "other cores, memory" in said
    assert token not in node.running.values()
    ending.epilogue(job_id, node.config, node.log)
    assert node.left() == []


def test_the_commands(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooked, "load_config", lambda: node.config)
    monkeypatch.setattr(drain, "PATH", str(node.directory / "drained"))

    def run(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, ["pool", *words])
        assert done.exit_code == status, done.output
        return done.output

    assert run("list") == "no guest waits on this node\n"
    assert run("list", "--json") == ""
    assert run("refill").count("waits, after") == 2
    assert run("refill") == ""
    first, _second = (msgspec.json.decode(line) for line in run("list", "--json").splitlines())
    assert (first["template"], first["address"]) == (str(node.template), ADDRESS)
    assert first["seconds_left"] == pytest.approx(8 * 3600, abs=60)
    assert len(run("list").splitlines()) == 3
    assert "a template of a queue" in run("refill", str(node.image), status=2)
    assert run("drain", str(node.image)) == ""
    assert run("drain", str(node.template)).count("ended ") == 2
    assert run("refill", str(node.template)).count("waits, after") == 2
    drain.drain("root", "so", 0.0)
    assert run("refill").count("this node is drained") == 2
    assert node.left() == []
    drain.undrain()
    node.config = msgspec.structs.replace(node.config, admission_slots=1)
    said = run("refill")
    assert said.count("waits, after") == 1
    assert "this node has no room for the guest now" in said
    with filler.alone():
        assert "another vmbatch pool refill is under way" in run("refill")
    node.shown = "ssh-ed25519 BBBB"
    monkeypatch.setattr(filler, "_SSHD_SECONDS", 0.1)
    run("drain")
    assert "[VB704]" in run("refill", status=1)
    assert node.left() == []
    node.shown = "ssh-ed25519 AAAA"
    node.config = msgspec.structs.replace(node.config, queues={"broken": ("base.raw",), **node.config.queues})
    said = run("refill", status=1)
    assert "base.raw" in said
    assert said.count("waits, after") == 1
    run("drain")
