"""Nodes that meet in a directory: each a thread, with entries on a real file system."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from vmbatch.errors import BusyError, DeadlineError, EndedError, Fault, JobError, NodeError, SisterError, VmBatchError
from vmbatch.exchange import meeting, member
from vmbatch.exchange.meeting import Introduction, Meeting
from vmbatch.exchange.member import Entry, Guest, Member, forget_note, leave_note, look, read, stale
from vmbatch.resource import Work
from vmbatch.units import Deadline

NODES = ("node1", "node2", "node3")
TOKENS = {node: f"{number:032x}" for number, node in enumerate(NODES, 1)}
NAMES = ("vm-42-1", "vm-42-1-n1", "vm-42-1-n2")
JOB = "42[1].vm"


def nothing(*_: object) -> None:
    """Neither ends nor logs."""


def work(seconds: float = 20) -> Work:
    return Work(Deadline(seconds), nothing, nothing)


def entry(directory: Path, node: str, *, token: str = "", patience: float = 20) -> Member:
    rank = NODES.index(node)
    others = NODES[1:] if rank == 0 else NODES[:1]
    made = Member(str(directory), token or TOKENS[node], JOB, f"{node}.cluster", rank, NAMES[rank],
                  tuple(f"{other}.cluster" for other in others), patience)
    made.acquire()
    return made


def release(*members: Member) -> None:
    for each in members:
        each.release(Deadline(30), last=False)


@pytest.fixture
def members(tmp_path: Path) -> list[Member]:
    """The sisters are there before the first node begins, as mom has it."""
    return [entry(tmp_path, node) for node in reversed(NODES)][::-1]


def together(jobs: list[Callable[[], object]]) -> list[object]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        found: list[Future[object]] = [pool.submit(job) for job in jobs]
        return [each.result(30) for each in found]


def whole(each: Member) -> tuple[tuple[Guest, ...], bool]:
    """A node's part, from introduction to the end of its prologue."""
    met = Meeting(each)
    named = met.introduce(f"key of {each.node}", work())
    assert [guest.key for guest in named] == [f"key of {node}.cluster" for node in NODES]
    met.arrive(f"10.0.0.{each.rank + 1}", f"host key of {each.node}")
    over = Deadline(20)
    while (party := met.arrived()) is None and not over.passed():
        time.sleep(0.01)
    assert party is not None
    if each.rank:
        met.ready()
    met.wait_ready(work())
    if not each.rank:
        met.ready()
    return party, all(known is not None and known.ready for node in NODES[1:] for known in [read(each.path_of(node))])


def test_three_nodes(members: list[Member], tmp_path: Path) -> None:
    parties = together([lambda each=each: whole(each) for each in members])  # type: ignore[misc]
    expected = tuple(
        Guest(TOKENS[node], f"{node}.cluster", NAMES[rank], f"key of {node}.cluster",
              f"10.0.0.{rank + 1}", f"host key of {node}.cluster") for rank, node in enumerate(NODES))
    assert parties == [(expected, True)] * 3
    assert [each.is_gone() for each in members] == [None, False, False]
    release(members[0])
    assert [each.is_gone() for each in members] == [None, True, True]
    release(*members)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_start_is_not_met(tmp_path: Path) -> None:
    """Entries of an earlier start of the first node, and of a sister that joined it, lie about until the new ones are there."""
    old = entry(tmp_path, "node1", token="a" * 32)
    sisters = [entry(tmp_path, node) for node in NODES[1:]]
    met = [Meeting(each) for each in sisters]
    for each in met:
        with pytest.raises(DeadlineError):
            each.introduce("key", work(0))
    assert [read(each.path).first for each in sisters] == ["a" * 32] * 2  # type: ignore[union-attr]
    new = entry(tmp_path, "node1")
    release(old)
    assert read(new.path) is not None
    found = together([lambda each=each: each.introduce("key", work()) for each in (Meeting(new), *met)])  # type: ignore[misc]
    assert found[0] == found[1] == found[2]
    release(new, *sisters)


def test_a_sister_fails(members: list[Member]) -> None:
    leave_note(members[2].directory, JOB, members[2].node, members[2].token, JobError("no such image", "see", detail=("line",)))
    release(members[2])
    with pytest.raises(SisterError, match=r"^node node3: no such image \(see\)$") as caught:
        Meeting(members[0]).introduce("key", work())
    assert (caught.value.fault, caught.value.detail) == (Fault.JOB, ("line",))
    release(members[0])
    assert read(members[2].path) is None, "the note has been read"
    release(members[1])
    assert os.listdir(members[0].directory) == []


@pytest.mark.parametrize("fault", list(Fault))
def test_a_sister_fails_before_it_has_an_entry(tmp_path: Path, fault: Fault) -> None:
    first = entry(tmp_path, "node1")
    leave_note(str(tmp_path), JOB, "node2.cluster", "b" * 32, VmBatchError("broken", fault=fault))
    with pytest.raises(SisterError, match=r"^node node2: broken$") as caught:
        Meeting(first).check()
    assert caught.value.fault is fault


def test_a_sister_has_no_room(tmp_path: Path) -> None:
    """That is no failure of the first node's either."""
    first = entry(tmp_path, "node1")
    leave_note(str(tmp_path), JOB, "node2.cluster", "b" * 32, BusyError("no room", "later"))
    with pytest.raises(BusyError, match=r"^node node2: no room \(later\)$"):
        Meeting(first).check()


def test_the_first_node_ends(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_CHECK_SECONDS", 0.0)
    together([lambda each=each: Meeting(each).introduce("key", work()) for each in members])  # type: ignore[misc]
    met = Meeting(members[1])
    met.check()
    release(members[0])
    with pytest.raises(EndedError, match=r"^job 42\[1\].vm has ended, or was never started, at its first node node1$"):
        met.check()


def test_the_first_node_starts_again(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest belongs to the start that it was made for."""
    monkeypatch.setattr(meeting, "_CHECK_SECONDS", 0.0)
    together([lambda each=each: Meeting(each).introduce("key", work()) for each in members])  # type: ignore[misc]
    met = Meeting(members[1])
    met.check()
    again = entry(Path(members[0].directory), "node1", token="c" * 32)
    with pytest.raises(EndedError):
        met.check()
    assert members[1].is_gone() is True
    release(again, *members)


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_the_first_node_never_begins(tmp_path: Path, seconds: float) -> None:
    each = entry(tmp_path, "node2", patience=seconds)
    with pytest.raises(EndedError, match="was never started"):
        Meeting(each).introduce("key", work())


def test_a_sister_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_ABSENT_SECONDS", 0.2)
    first = entry(tmp_path, "node1")
    entry(tmp_path, "node2")
    with pytest.raises(SisterError, match=r"^node node3 has not begun to prepare a guest for the job$"):
        Meeting(first).introduce("key", work())


@pytest.mark.error("VB609")
def test_a_sister_gives_up(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_ABSENT_SECONDS", 0.2)
    met = Meeting(members[0])
    met.check()
    release(members[1])
    with pytest.raises(SisterError, match=r"^node node2 has given the job up$"):
        met.wait_ready(work())


def test_a_sister_that_hangs(members: list[Member]) -> None:
    with pytest.raises(DeadlineError, match=r"^the job's nodes have not met in time$"):
        Meeting(members[0]).introduce("key", work(0.2))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100000, b'{"job": 1}', b"x" * (2 << 20)])
def test_what_is_no_entry(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "42.vm@node2"
    path.write_bytes(content)
    assert read(str(path)) is None


def test_odd_things_are_no_entries(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    assert [read(str(tmp_path / name)) for name in ("pipe", "link", "directory", "nothing")] == [None] * 4


@pytest.mark.parametrize("node", ["", "no de", "../x", "a/b", "-x", ".", "n" * 64])
def test_nodes_without_a_usable_name(tmp_path: Path, node: str) -> None:
    with pytest.raises(NodeError, match="cannot stand in a file's name"):
        Member(str(tmp_path), TOKENS["node1"], JOB, node, 0, "vm", ("node2",), 1).acquire()
    with pytest.raises(NodeError, match="cannot stand in a file's name"):
        Member(str(tmp_path), TOKENS["node1"], JOB, "node2", 1, "vm", (node,), 1).acquire()
    leave_note(str(tmp_path), JOB, node, TOKENS["node1"], NodeError("x"))
    assert list(tmp_path.iterdir()) == []


def test_a_note_is_not_written_over_another_nodes_entry(members: list[Member]) -> None:
    leave_note(members[0].directory, JOB, "node2.elsewhere", "d" * 32, NodeError("x"))
    known = read(members[1].path)
    assert known is not None
    assert (known.guest.token, known.failed) == (TOKENS["node2"], ())


def test_the_sweep(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """This node's entries that no journal lists, and notes that nobody reads; never another node's."""
    directory = members[0].directory
    (Path(directory) / f".{'e' * 32}.43.vm@node1").write_text("{")
    (Path(directory) / "strange").touch()
    leave_note(directory, "44.vm", "node1.cluster", "f" * 32, NodeError("x"))
    seen = list(look(directory, "node1.cluster"))
    assert [os.path.basename(note.path) for note in stale(seen, {TOKENS["node1"]})] == [f".{'e' * 32}.43.vm@node1"]
    monkeypatch.setattr(member, "_NOTE_SECONDS", -1.0)
    gone = stale(list(look(directory, "node1.cluster")), ())
    for note in gone:
        note.release(Deadline(1), last=False)
        note.release(Deadline(1), last=False)
    assert sorted(os.listdir(directory)) == ["42-1.vm@node2", "42-1.vm@node3", "strange"]
    assert list(look(f"{directory}/none", "node1")) == []


def test_an_epilogue_forgets_its_note_alone(members: list[Member]) -> None:
    forget_note(members[0].directory, JOB, members[1].node)
    assert read(members[1].path) is not None
    leave_note(members[1].directory, JOB, members[1].node, members[1].token, NodeError("x"))
    forget_note(members[0].directory, JOB, members[1].node)
    assert read(members[1].path) is None


def test_without_the_directory(tmp_path: Path) -> None:
    each = Member(str(tmp_path / "none"), TOKENS["node1"], JOB, "node1", 0, "vm", ("node2",), 1)
    with pytest.raises(NodeError, match=r"^the job's nodes cannot meet: .*: No such file or directory$"):
        each.acquire()
    release(each)
    leave_note(each.directory, JOB, "node1", each.token, NodeError("x"))


def test_an_introduction_writes_what_the_guest_gets(members: list[Member], tmp_path: Path) -> None:
    node_file = tmp_path / "nodefile"
    node_file.write_text("node1\nnode1\nnode3\nnode2\n\nnode3\n")
    steps = []
    for each in members:
        keys = tmp_path / f"keys-{each.rank}"
        keys.mkdir()
        steps.append(Introduction(each, str(keys), ("node1", "node2", "node3"), "" if each.rank else str(node_file)))
    together([lambda step=step: step.make(work()) for step in steps])  # type: ignore[misc]
    for each in members:
        keys = tmp_path / f"keys-{each.rank}"
        assert (keys / "party").read_text() == "vm-42-1\nvm-42-1-n1\nvm-42-1-n2\n"
        public = (keys / "party_keys").read_text().splitlines()
        assert [line.split()[::2] for line in public] == [["ssh-ed25519", f"vm-42-1{end}"] for end in ("", "-n1", "-n2")]
        assert public[each.rank] == (keys / "party_key.pub").read_text().strip()
        assert (keys / "party_key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys-0/nodefile").read_text() == "vm-42-1\nvm-42-1\nvm-42-1-n2\nvm-42-1-n1\nvm-42-1-n2\n"
    assert not (tmp_path / "keys-1/nodefile").exists()


def test_no_private_key_is_in_the_directory(members: list[Member]) -> None:
    assert not {field for field in (*Entry.__struct_fields__, *Guest.__struct_fields__) if "private" in field}
    assert all(b"PRIVATE" not in msgspec.json.encode(read(each.path)) for each in members)
