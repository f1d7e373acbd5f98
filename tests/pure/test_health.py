"""What a node needs for guests: what is missing, and what hangs, is said in words that Torque and Slurm keep."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vmbatch import health, hooked, journal
from vmbatch.batch import failures
from vmbatch.config import Config
from vmbatch.errors import InputError, NodeError, SiteError, VmBatchError
from vmbatch.host import libvirtd

from .sample import settings


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The settings of a node on which all is well."""
    (tmp_path / "share").mkdir()
    monkeypatch.setattr(journal, "STATE", str(tmp_path))
    monkeypatch.setattr(libvirtd, "node_size", lambda uri: (4, 1 << 33))
    return settings(share_directory=str(tmp_path / "share"), spool_directory=str(tmp_path / "spool"), spool_keep_free=0,
                    images_directory=str(tmp_path / "store"))


def test_a_sound_node(sound: Config, tmp_path: Path) -> None:
    assert health.problems(sound) == []
    assert list((tmp_path / "share").iterdir()) == []


def test_a_check_that_was_killed_before(sound: Config, tmp_path: Path) -> None:
    (tmp_path / f"share/.health@{os.uname().nodename}").mkdir()
    assert health.problems(sound) == []
    assert list((tmp_path / "share").iterdir()) == []


def test_everything_at_once(sound: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(uri: str) -> tuple[int, int]:
        raise NodeError(f"libvirt at {uri} does not answer: no socket", "is libvirtd running on this node?")

    monkeypatch.setattr(libvirtd, "node_size", fail)
    (tmp_path / "share").rmdir()
    found = health.problems(msgspec.structs.replace(sound, spool_keep_free=1 << 60))
    assert found[0] == "libvirt at qemu:///system does not answer: no socket"
    assert found[1] == f"the share: {tmp_path}/share/.health@{os.uname().nodename}: No such file or directory"
    assert found[2].startswith(f"{tmp_path} has ") and found[2].endswith(f" inodes free, and {1 << 40} MiB are to be left")
    assert len(found) == 3


def test_a_share_that_is_not_mounted(sound: Config) -> None:
    assert health.problems(msgspec.structs.replace(sound, share_local=False, share_directory="/usr")) == [
        "the share /usr is not mounted"]


def test_no_share_no_check(sound: Config) -> None:
    assert health.problems(msgspec.structs.replace(sound, share_source="", share_directory="/nowhere")) == []


class State:
    def __init__(self, flags: int, free: int, inodes: int) -> None:
        self.f_flag, self.f_bavail, self.f_frsize, self.f_files, self.f_favail = flags, free, 1 << 20, 100, inodes


@pytest.mark.parametrize(("state", "said"), [
    (State(os.ST_RDONLY, 9, 9), "/ is read-only"), (State(0, 0, 9), "/ has 0 MiB and 9 inodes free"),
    (State(0, 9, 0), "/ has 9 MiB and 0 inodes free"), (State(0, 1, 1), ""),
])
def test_file_systems(monkeypatch: pytest.MonkeyPatch, state: State, said: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: state)
    assert health._space("/", 0) == said


def test_what_hangs(sound: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(libvirtd, "node_size", lambda uri: over.wait() and (1, 1))
    begin = time.monotonic()
    assert health.problems(sound, 0.2) == ["libvirt has not answered for 0 s"]
    assert time.monotonic() - begin < 10
    over.set()


def failed(what: str, suspect: str = "") -> VmBatchError:
    error = NodeError(what)
    error.suspect = suspect
    return error


@pytest.mark.parametrize(("row", "said"), [
    ([("alice", "")] * 2, []),
    ([("alice", "")] * 3, ["3 starts failed here within 10 min: no space"]),
    ([("alice", "a.xml")] * 9, []),
    ([("alice", "a.xml"), ("bob", "a.xml")] * 9, []),
    ([("alice", "a.xml"), ("alice", "b.xml")] * 9, []),
    ([("alice", "a.xml"), ("bob", "b.xml"), ("alice", "a.xml")], ["3 starts failed here within 10 min: no space"]),
])
def test_a_row_of_failures(sound: Config, row: list[tuple[str, str]], said: list[str]) -> None:
    """Those of one image or one user say nothing of the node."""
    for user, suspect in row:
        failures.note("42.vm", failed("no space", suspect), 600, user)
    assert health.problems(sound) == said


def test_a_row_that_is_long_over(sound: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        failures.note("42.vm", failed("no space"), 600)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601)
    assert health.problems(sound) == []


def test_failures_that_the_site_made_do_not_count(sound: Config) -> None:
    for _ in range(9):
        failures.note("42.vm", SiteError("no template"), 600)
    assert health.problems(sound) == []


Say = Callable[[list[str]], None]


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Say:
    def find(found: list[str]) -> None:
        monkeypatch.setattr(hooked, "load_config", settings)
        monkeypatch.setattr(health, "problems", lambda config: found)

    return find


def test_what_torque_is_told(find: Say, capsys: pytest.CaptureFixture[str]) -> None:
    find([])
    assert (hooked.health({"env": dict(os.environ)}), capsys.readouterr().out) == (0, "")
    find(["the spool is full, x=1\nERROR", "libvirt does not answer"])
    assert (hooked.health({"env": dict(os.environ)}), capsys.readouterr().out) == (
        0, "ERROR VmBatch: the spool is full; x:1 ERROR; libvirt does not answer\n"), "no comma, no equals sign, one line"


def test_a_configuration_with_mistakes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Config:
        raise InputError("vmbatch.conf", [(3, "x.y: unknown section")])

    monkeypatch.setattr(hooked, "load_config", fail)
    assert hooked.health({"env": dict(os.environ)}) == 0
    assert capsys.readouterr().out == "ERROR VmBatch: vmbatch.conf:3: x.y: unknown section\n"


@pytest.mark.parametrize(("state", "drained"), [("idle\n", True), ("drained*\n", False), ("draining\n", False)])
def test_what_slurm_is_told(find: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str,
                            drained: bool) -> None:
    """A node that is drained keeps the reason that it has."""
    from vmbatch.batch import slurm

    asked: list[tuple[str, ...]] = []

    def ask(_environ: object, *argv: str) -> str:
        asked.append(argv)
        return state

    monkeypatch.setattr(slurm, "_ask", ask)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    find(["libvirt does not answer"])
    assert hooked.health({"env": dict(os.environ)}) == 0
    assert capsys.readouterr().out == ""
    assert asked[0] == ("sinfo", "--noheader", "--nodes=n1", "--format=%T")
    assert asked[1:] == [("scontrol", "update", "NodeName=n1", "State=DRAIN",
                          "Reason=VmBatch: libvirt does not answer")] * drained
    find([])
    asked.clear()
    assert hooked.health({"env": dict(os.environ)}) == 0
    assert asked == []
