"""What a start shows of itself: to whom, how it is found, and that trouble with it stops nothing."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from vmbatch import phase, status
from vmbatch.errors import EndedError, JobError, NodeError
from vmbatch.host import clock
from vmbatch.status import Board, Failure, Step

from .past import STATUS
from .past import status as like
from .sample import OTHER_TOKEN, TOKEN


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(status, "DIRECTORY", str(tmp_path / "status"))
    monkeypatch.setattr("vmbatch.host.file._check", lambda *_args, **_named: None)
    return tmp_path / "status"


def test_what_is_written_is_read() -> None:
    Board.new(STATUS)
    assert status.read("alice", "42.vm", TOKEN) == STATUS
    assert status.look() == [STATUS]
    status.remove("alice", "42.vm", TOKEN)
    status.remove("alice", "42.vm", TOKEN)
    assert status.look() == []
    assert status.read("alice", "42.vm", TOKEN) is None


def test_who_can_read_it(place: Path) -> None:
    """Root, and the user, who is in the list alone; names of others are not to be seen."""
    Board.new(STATUS)
    assert stat.S_IMODE(place.stat().st_mode) == 0o711
    entries = os.getxattr(place / "alice", "system.posix_acl_access")[4:]
    found = {(entries[at], entries[at + 2], int.from_bytes(entries[at + 4:at + 8], "little")) for at in range(0, len(entries), 8)}
    assert found == {(1, 7, 0xFFFFFFFF), (2, 5, 1500), (4, 0, 0xFFFFFFFF), (0x10, 5, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)}
    [file] = (place / "alice").iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (f"42.vm.{TOKEN}", 0o444)


def test_an_account_that_has_come_anew(place: Path) -> None:
    """The same name with another number: the list says so from the next start on."""
    Board.new(STATUS)
    Board.new(like(uid=1600, token=OTHER_TOKEN))
    entries = os.getxattr(place / "alice", "system.posix_acl_access")
    assert (1600).to_bytes(4, "little") in entries
    assert (1500).to_bytes(4, "little") not in entries


def test_a_user_sees_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Board.new(STATUS)
    Board.new(like(user="bob", uid=1501, job="43.vm", token=OTHER_TOKEN))
    assert [each.job for each in status.look()] == ["42.vm", "43.vm"]
    monkeypatch.setattr(os, "geteuid", lambda: 1501)
    bob = pwd.struct_passwd(("bob", "x", 1501, 1501, "", "/home/bob", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {1501: bob}.__getitem__)
    assert [each.job for each in status.look()] == ["43.vm"]


def test_a_damaged_file_is_passed_over(place: Path) -> None:
    Board.new(STATUS)
    (place / "alice/half").write_bytes(b'{"job":')
    (place / "alice/link").symlink_to("/etc/passwd")
    (place / "alice/.42.vm.new").write_bytes(b"")
    (place / "stray").write_bytes(b"")
    assert status.look() == [STATUS]
    assert sorted(os.path.basename(path) for path in status.files()) == [f"42.vm.{TOKEN}", "half", "link"]


@pytest.mark.parametrize(("user", "job", "token"), [
    ("../x", "42.vm", TOKEN), ("alice", "../42", TOKEN), ("alice", "42.vm", "../x"),
])
def test_no_path_out_of_names(user: str, job: str, token: str) -> None:
    with pytest.raises(JobError):
        status.path_of(user, job, token)
    assert status.read(user, job, token) is None
    status.remove(user, job, token)


def shown() -> status.Status:
    found = status.read("alice", "42.vm", TOKEN)
    assert found is not None
    return found


def test_a_board_tells_as_it_goes() -> None:
    board = Board.new(like(steps=status.begin(), guest="", address=""))
    assert (shown().phase, shown().running) == ("admission", False)
    board.step("boot")
    board.learn(guest="vmbatch-42.vm-0")
    assert (shown().phase, shown().guest, [step.name for step in shown().steps]) == ("boot", "vmbatch-42.vm-0", ["begin", "boot"])
    Board(shown()).learn(why="an admin")
    board.step("run")
    assert (shown().running, shown().why) == (True, "an admin"), "nobody undoes what another one says"


def test_why_a_start_is_over() -> None:
    board = Board.new(STATUS)
    board.failed(NodeError("no room" * 100), cancelled=False)
    assert shown().failure == Failure("", "node", ("no room" * 100)[:300])
    board.failed(EndedError("ended"), cancelled=True)
    assert shown() == like(cancelled=True)
    board.failed(ZeroDivisionError("secret"), cancelled=False)
    assert shown().failure == Failure("VB912", "node", "a defect in VmBatch: ZeroDivisionError")


def test_trouble_is_said_once_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vmbatch.host.file.write_new", full)
    said: list[str] = []
    board = Board.new(STATUS, said.append)
    board.step("run")
    assert said == ["vmbatch ps does not see what this job does: [Errno 28] No space left on device"]


@pytest.mark.parametrize("torn", [b'["boot", 1', b'{"guest": "x', b"\xff", b'{"steps": 3}\n["boot", 2.0]'])
def test_a_torn_line_is_passed_over(place: Path, torn: bytes) -> None:
    """As a full /run leaves it."""
    board = Board.new(STATUS)
    [path] = (place / "alice").iterdir()
    with path.open("ab") as opened:
        opened.write(torn)
    if torn.startswith(b'{"steps"'):
        assert status.look() == []
        return
    assert shown() == STATUS
    board.step("run")
    assert [step.name for step in shown().steps[len(STATUS.steps):]] == ["run"]


def test_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "uptime", lambda: 200.0)
    assert (STATUS.phase, STATUS.age(), STATUS.since()) == ("epilogue", 100.0, 25.5)
    assert like(steps=(Step("begin", 100.0), Step("start", 120.0), Step("boot", 150.0))).since() == 80.0


def test_a_start_whose_prologue_is_gone() -> None:
    here = clock.this_process()
    starting = like(steps=(Step("begin", 100.0), Step("boot", 101.0)), owner=here)
    assert not starting.abandoned
    assert like(steps=starting.steps, owner=clock.ProcessIdentity(here.pid, here.started + 1, here.boot)).abandoned
    assert not STATUS.abandoned, "it has handed over, and may end"


def test_where_proc_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """To others than root: kill(2) still says whether there is such a process."""
    monkeypatch.setattr(clock, "started", lambda _: None)
    for answer, there in ((ProcessLookupError, False), (PermissionError, True)):
        def kill(_pid: int, _signal: int, answer: type[OSError] = answer) -> None:
            raise answer

        monkeypatch.setattr(os, "kill", kill)
        assert clock.runs(clock.ProcessIdentity(7, 1, "boot")) == there


JOBS = ["42.vm", "420.vm", "421[1].vm", "421[2].vm", "7.other", "7.vm"]


@pytest.mark.parametrize(("text", "job"), [
    ("42.vm", "42.vm"), ("42", "42.vm"), ("420", "420.vm"), ("421[1]", "421[1].vm"), ("421[1", "421[1].vm"), ("7.o", "7.other"),
])
def test_which_job_is_meant(text: str, job: str) -> None:
    assert status.chosen(text, JOBS) == job


@pytest.mark.parametrize(("text", "what"), [
    ("7", "'7' may be several jobs: 7.other, 7.vm (write more of the id)"),
    ("421", "'421' may be several jobs: 421[1].vm, 421[2].vm (write more of the id)"),
    ("9", "this node knows no job '9' (vmbatch ps shows those that you may see)"),
    ("", "this node knows no job '' (vmbatch ps shows those that you may see)"),
    ("\x1b[2J", "this node knows no job '\\x1b[2J' (vmbatch ps shows those that you may see)"),
])
@pytest.mark.error("VB920")
def test_which_job_is_not_known(text: str, what: str) -> None:
    with pytest.raises(NodeError) as caught:
        status.chosen(text, JOBS)
    assert caught.value.lines() == [what]


def test_every_step_of_the_hooks_belongs_to_a_phase() -> None:
    """What the sources call a step, and no more."""
    import re

    package = Path(__file__).resolve().parents[2] / "vmbatch"
    text = "".join((package / name).read_text() for name in ("lifecycle.py", "ending.py", "boot.py", "release.py", "reuse.py"))
    named = set(re.findall(r'log\.phase\("([a-z ]+)"', text)) | {"boot", "mount"}
    named |= set(re.findall(r'Phase\("([a-z ]+)"', (package / "plan.py").read_text()))
    assert len(named) > 15
    assert named | {phase.BEGIN, phase.RUN, phase.EPILOGUE} == phase.STEPS
    assert {phase.phase_of(step) for step in phase.STEPS} == set(phase.PHASES) - {phase.QUEUE}
    assert phase.phase_of("of tomorrow") == "boot"
