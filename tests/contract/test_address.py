"""The reservation of an address: exclusive between nodes, released by its record alone, and what a sweep may take away."""

import errno
import multiprocessing
import os
import threading
from pathlib import Path

import msgspec
import pytest

from vmbatch.errors import NodeError, TakenError
from vmbatch.exchange import address
from vmbatch.exchange.address import Address, Found
from vmbatch.resource import Resource
from vmbatch.units import Deadline

from .tokens import new_token

BOUND = 5.0


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    directory = tmp_path / "addresses"
    directory.mkdir(0o700)
    return directory


def reservation(pool: Path, token: str = "", name: str = "10.0.0.20", job: str = "42.vm", node: str = "n1") -> Address:
    return Address(str(pool / name), token or new_token(), job, node)


def release(owned: Address) -> None:
    """Twice, from its record."""
    for last in (True, False):
        msgspec.json.decode(msgspec.json.encode(owned), type=Address).release(Deadline(BOUND), last=last)


def content(token: str, job: str = "42.vm", node: str = "n1") -> str:
    return f'{{"job":"{job}","token":"{token}","node":"{node}"}}'


def temporary(owned: Address) -> Path:
    path = Path(owned.path)
    return path.with_name(f".{owned.token}.{path.name}@{owned.node}")


def test_a_reservation(pool: Path) -> None:
    owned = reservation(pool)
    assert isinstance(owned, Resource)
    owned.acquire()
    assert os.listdir(pool) == ["10.0.0.20"]
    assert Path(owned.path).read_text() == content(owned.token)
    assert (os.stat(owned.path).st_mode & 0o777, os.stat(owned.path).st_nlink) == (0o600, 1)
    assert address.taken(str(pool)) == {"10.0.0.20": "job 42.vm"}
    assert str(owned) == f"address 10.0.0.20 in {pool}"
    release(owned)
    assert os.listdir(pool) == []


def test_the_record(pool: Path) -> None:
    owned = reservation(pool)
    record = msgspec.json.encode(owned)
    assert record.startswith(b'{"kind":"address",')
    assert msgspec.json.decode(record, type=Address) == owned


def test_ipv6(pool: Path) -> None:
    owned = reservation(pool, name="fd00::20")
    owned.acquire()
    assert address.taken(str(pool)) == {"fd00::20": "job 42.vm"}
    release(owned)
    assert os.listdir(pool) == []


def test_it_is_exclusive(pool: Path) -> None:
    first, second = reservation(pool), reservation(pool, job="43.vm", node="n2")
    first.acquire()
    for other in (second, first):
        with pytest.raises(TakenError, match=r"^the address 10\.0\.0\.20 was taken by job 42\.vm on n1 meanwhile$"):
            other.acquire()
        assert os.listdir(pool) == ["10.0.0.20"]
    release(second)
    assert Path(first.path).read_text() == content(first.token)
    release(first)
    second.acquire()
    release(second)
    assert os.listdir(pool) == []


def _race(path: str, count: int, start: "threading.Barrier", wins: "multiprocessing.Queue[str]") -> None:
    for number in range(count):
        owned = Address(f"{path}/10.0.0.{number}", new_token(), "1.vm", "n1")
        start.wait()
        try:
            owned.acquire()
            wins.put(f"{number} {owned.token}")
        except TakenError:
            continue


def test_of_many_at_once_one_wins(pool: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, wins, count = context.Barrier(4), context.Queue(), 30
    racers = [context.Process(target=_race, args=(str(pool), count, start, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    found = dict(wins.get(timeout=30).split() for _ in range(count))
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    assert wins.empty()
    assert len(found) == count
    assert len(os.listdir(pool)) == count
    for number, token in found.items():
        assert token in (pool / f"10.0.0.{number}").read_text()


@pytest.mark.parametrize("name", ["", "temporary", "torn temporary", "empty temporary", "both", "linked and released"])
def test_release_of_what_is_half_made(pool: Path, name: str) -> None:
    """Every state in which the death of acquire or release leaves things."""
    owned = reservation(pool)
    whole = content(owned.token)
    if "temporary" in name:
        temporary(owned).write_text({"torn temporary": whole[:20], "empty temporary": ""}.get(name, whole))
    elif name == "both":
        temporary(owned).write_text(whole)
        os.link(temporary(owned), owned.path)
    elif name:
        temporary(owned).write_text(whole)
    release(owned)
    assert os.listdir(pool) == []


@pytest.mark.parametrize(
    "state", ["another's", "another's half", "empty", "binary", "json", "no token", "link", "fifo", "directory"])
def test_what_is_not_ours_survives(pool: Path, state: str) -> None:
    owned, other = reservation(pool), reservation(pool, node="n2")
    path = Path(owned.path)
    match state:
        case "another's":
            other.acquire()
        case "another's half":
            temporary(other).write_text("")
            path.write_text("")
        case "link":
            (pool / "target").write_text(content(owned.token))
            path.symlink_to("target")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path.write_bytes({"binary": b"\xff" * 40, "json": b"[1]", "no token": b'{"job":"42.vm"}'}.get(state, b""))
    before = sorted(os.listdir(pool))
    with pytest.raises(TakenError):
        owned.acquire()
    release(owned)
    assert sorted(os.listdir(pool)) == before
    assert "10.0.0.20" in address.taken(str(pool)), "whatever has the name keeps the address"


def test_a_server_whose_answer_was_lost(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """link(2) on NFS may fail although the server did it (the call is sent again)."""
    owned, link = reservation(pool), os.link

    def twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    owned.acquire()
    assert os.listdir(pool) == ["10.0.0.20"]
    assert Path(owned.path).read_text() == content(owned.token)


@pytest.mark.parametrize("call", ["open", "unlink"])
def test_a_server_that_cannot_say_is_not_success(pool: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    owned = reservation(pool)
    owned.acquire()

    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(NodeError, match=r"10\.0\.0\.20 cannot be (read|removed): Input/output error"):
            owned.release(Deadline(BOUND), last=False)
        if call == "open":
            with pytest.raises(NodeError, match="cannot be reserved"):
                reservation(pool, name="10.0.0.21").acquire()
    assert os.listdir(pool) == ["10.0.0.20"]
    release(owned)
    assert os.listdir(pool) == []


@pytest.mark.parametrize("node", ["", "a/b", "../x", "a b", "n" * 65, "n1\n"])
def test_a_node_whose_name_is_none(pool: Path, node: str) -> None:
    with pytest.raises(NodeError, match="cannot stand in a file's name"):
        reservation(pool, node=node).acquire()
    assert os.listdir(pool) == []


@pytest.mark.error("VB602")
def test_no_directory(tmp_path: Path) -> None:
    owned = reservation(tmp_path / "none")
    with pytest.raises(NodeError, match=r"cannot be reserved: .*No such file or directory"):
        owned.acquire()
    release(owned)
    assert list(address.look(str(tmp_path / "none"))) == []
    assert address.taken(str(tmp_path / "none")) == {}
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match="Not a directory"):
        address.taken(str(tmp_path / "file"))


def test_taken(pool: Path) -> None:
    reservation(pool).acquire()
    reservation(pool, name="fd00::20", job="43.vm", node="n2").acquire()
    (pool / "10.0.0.9").touch()
    (pool / "README").touch()
    (pool / "10.0.0.009").touch()
    temporary(reservation(pool, name="10.0.0.30")).touch()
    assert address.taken(str(pool)) == {
        "10.0.0.20": "job 42.vm", "fd00::20": "job 43.vm", "10.0.0.9": f"the file {pool}/10.0.0.9"}


def test_judge() -> None:
    mine, other = new_token(), new_token()

    def found(token: str, node: str, *, half: bool = False) -> Found:
        return Found("/p/10.0.0.20", "10.0.0.20", token, "42.vm", node, half=half)

    gone = (True, "no journal of this node lists it")
    for half in (False, True):
        assert address.judge(found(mine, "n1", half=half), "n1", {mine}) == (False, "")
        assert address.judge(found(mine, "n1", half=half), "n1", {other}) == gone
        assert address.judge(found(mine, "n1", half=half), "n1", ()) == gone
        assert address.judge(found(mine, "n2", half=half), "n1", ()) == (False, "")
    assert address.judge(found("", ""), "n1", ()) == (
        False, "it is no reservation of VmBatch's; see what it is, and remove it by hand")


def test_a_sweep(pool: Path) -> None:
    """A node that rebooted and has lost its journals takes its own away, and nothing else."""
    lives, lost, elsewhere = (reservation(pool, name=f"10.0.0.{number}", node=node)
                              for number, node in ((20, "n1"), (21, "n1"), (22, "n2")))
    for owned in (lives, lost, elsewhere):
        owned.acquire()
    half = reservation(pool, name="fd00::9", node="n1")
    half_elsewhere = reservation(pool, name="fd00::9", node="n2")
    for owned in (half, half_elsewhere):
        temporary(owned).touch()
    (pool / "README").touch()
    seen = list(address.look(str(pool)))
    late = reservation(pool, name="10.0.0.30")
    late.acquire()
    gone, said = address.stale(seen, "n1", {lives.token})
    assert said == [f"left alone {pool}/README: it is no reservation of VmBatch's; see what it is, and remove it by hand"]
    assert sorted((owned.path, owned.token) for owned in gone) == sorted((owned.path, owned.token) for owned in (lost, half))
    for owned in gone:
        release(owned)
    assert sorted(os.listdir(pool)) == sorted(
        ["10.0.0.20", "10.0.0.22", "10.0.0.30", "README", temporary(half_elsewhere).name])


def test_every_death_leaves_what_release_takes(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """acquire dies before each of its calls that touch the world, release before each of its own; a release mends both."""
    calls = ("open", "fsync", "link", "unlink")

    class DeathError(BaseException):
        pass

    def dying(act: object, steps: int) -> bool:
        """Whether the act ended before its death at that call."""
        left = [steps]

        def counted(name: str) -> object:
            real = getattr(os, name)

            def call(*arguments: object, **named: object) -> object:
                if not left[0]:
                    raise DeathError
                left[0] -= 1
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, counted(name))
            try:
                assert callable(act)
                act()
            except DeathError:
                return False
        return True

    deaths = 0
    for first in range(20):
        owned = reservation(pool)
        acquired = dying(owned._make, first)
        deaths += not acquired
        states = sorted(os.listdir(pool))
        for second in range(20):
            if dying(owned._give_back, second):
                break
            deaths += 1
        assert os.listdir(pool) == [], (first, states)
        if acquired:
            break
    assert deaths > 8
