"""Who gets room, and when: several at once, in their order, and whatever becomes of those before them."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vmbatch import admission, claim
from vmbatch.admission import Room
from vmbatch.claim import Claim
from vmbatch.config import Config, parse
from vmbatch.errors import BusyError, DeadlineError, EndedError, NodeError
from vmbatch.host import clock, lock
from vmbatch.resource import Work
from vmbatch.units import Deadline

from .tokens import new_token

MIB = 1 << 20
CORES = Room(None, 4, None)


def settings(**changed: object) -> Config:
    quick = {"admission_wait": 0.2, "spool_keep_free": 0, **changed}
    return msgspec.structs.replace(parse(b"", "x"), **quick)


def make(place: Path, cores: int = 1, asked: float = 0.0, owner: clock.ProcessIdentity | None = None) -> Claim:
    token = new_token()
    made = Claim(str(place), token, f"{token[:4]}.vm", cores, 100 * MIB, asked or time.monotonic(), owner or clock.this_process())
    made.acquire()
    return made


def work(seconds: float = 10.0, alive: Callable[[], None] = lambda: None, said: list[str] | None = None) -> Work:
    lines: list[str] = [] if said is None else said
    return Work(Deadline(seconds), alive, lines.append)


def states(place: Path) -> dict[str, str]:
    return {each.token: state for each, state in claim.look(str(place))}


def dead() -> clock.ProcessIdentity:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return clock.ProcessIdentity(ended.pid, 1, "boot")


def test_a_whole_life(tmp_path: Path) -> None:
    one = make(tmp_path, 4)
    seen = [states(tmp_path)[one.token]]
    admission.enter(one, CORES, settings(), work())
    seen.append(states(tmp_path)[one.token])
    admission.begin(one, settings(), work())
    seen.append(states(tmp_path)[one.token])
    one.hand_over()
    seen.append(states(tmp_path)[one.token])
    assert seen == ["asking", "held", "starting", "running"]
    one.release(Deadline(1), last=False)
    assert states(tmp_path) == {}


@pytest.mark.error("VB904")
def test_one_too_many(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        admission.enter(make(tmp_path, 2), CORES, settings(), work())
    late = make(tmp_path, 1)
    with pytest.raises(BusyError) as caught:
        admission.enter(late, CORES, settings(), work(said=said))
    assert caught.value.lines() == ["this node has no room for the guest now: it needs 1 core, and 0 of 4 are free "
                                    "(the job can start when others have ended)"]
    assert said == ["waiting: 1 core, and 0 of 4 are free"]
    assert states(tmp_path)[late.token] == "asking", "it is the journal's to release"


def test_room_that_is_given_back(tmp_path: Path) -> None:
    first = make(tmp_path, 4)
    admission.enter(first, CORES, settings(), work())
    second = make(tmp_path, 3)
    threading.Timer(0.1, lambda: first.release(Deadline(1), last=False)).start()
    admission.enter(second, CORES, settings(admission_wait=10.0), work())
    assert states(tmp_path) == {second.token: "held"}


def test_a_small_job_does_not_pass_a_large_one_for_ever(tmp_path: Path) -> None:
    admission.enter(make(tmp_path, 2), CORES, settings(), work())
    large = make(tmp_path, 3, asked=1.0)
    small = make(tmp_path, 1, asked=2.0)
    with pytest.raises(BusyError, match="it needs 1 core, and 0 of 4 are free"):
        admission.enter(small, CORES, settings(), work())
    large.release(Deadline(1), last=False)
    admission.enter(small, CORES, settings(), work())


def test_a_dead_prologue_holds_up_nobody_in_the_row(tmp_path: Path) -> None:
    make(tmp_path, 4, asked=1.0, owner=dead())
    admission.enter(make(tmp_path, 4), CORES, settings(), work())


def test_a_dead_prologues_room_is_its_journals(tmp_path: Path) -> None:
    """Its guest may still run."""
    crashed = make(tmp_path, 4, owner=dead())
    crashed.move("asking", "held")
    with pytest.raises(BusyError):
        admission.enter(make(tmp_path, 1), CORES, settings(), work())


def test_many_at_once_never_get_more_than_there_is(tmp_path: Path) -> None:
    refused: list[str] = []

    def ask() -> None:
        try:
            admission.enter(make(tmp_path), CORES, settings(), work())
        except BusyError as error:
            refused.append(error.what)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 26
    assert sorted(states(tmp_path).values()) == ["asking"] * 26 + ["held"] * 4


def held(place: Path, asked: float) -> Claim:
    made = make(place, asked=asked)
    made.move("asking", "held")
    return made


def test_starts_take_turns_in_their_order(tmp_path: Path) -> None:
    """Whoever begins to wait first: the order is that in which jobs came."""
    config = settings(admission_starts=1, admission_wait=10.0)
    busy = held(tmp_path, 0.5)
    admission.begin(busy, config, work())
    began: list[float] = []

    def start(one: Claim) -> None:
        admission.begin(one, config, work())
        began.append(one.asked)
        one.hand_over()

    threads = [threading.Thread(target=start, args=(held(tmp_path, float(asked)),)) for asked in (5, 3, 4, 1, 2)]
    for thread in threads:
        thread.start()
    while sorted(states(tmp_path).values()) != ["starting", *["waiting"] * 5]:
        time.sleep(0.01)
    assert began == []
    busy.hand_over()
    for thread in threads:
        thread.join()
    assert began == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.error("VB905")
def test_no_turn_in_time(tmp_path: Path) -> None:
    admission.begin(held(tmp_path, 1.0), settings(admission_starts=1), work())
    with pytest.raises(BusyError, match="this node starts no more guests now: others are being started: 1"):
        admission.begin(held(tmp_path, 2.0), settings(admission_starts=1), work())


def test_a_start_that_died_takes_no_turn(tmp_path: Path) -> None:
    for asked in (1.0, 2.0):
        crashed = make(tmp_path, asked=asked, owner=dead())
        crashed.move("asking", "starting" if asked == 1.0 else "waiting")
    admission.begin(held(tmp_path, 3.0), settings(admission_starts=1), work())


def test_a_job_on_several_nodes_takes_its_turn_at_once(tmp_path: Path) -> None:
    admission.begin(held(tmp_path, 1.0), settings(admission_starts=1), work())
    other = held(tmp_path, 2.0)
    admission.begin_at_once(other)
    assert states(tmp_path)[other.token] == "starting"


def test_a_job_that_is_ended_while_it_waits(tmp_path: Path) -> None:
    def over() -> None:
        raise EndedError("over")

    with pytest.raises(EndedError):
        admission.enter(make(tmp_path), CORES, settings(), work(alive=over))


def test_a_lock_that_nobody_gives_back(tmp_path: Path) -> None:
    with lock.held(str(tmp_path), Deadline(1)), pytest.raises(DeadlineError, match="is in use"):
        admission.enter(make(tmp_path), CORES, settings(), work(0.1))


def test_a_claim_that_somebody_has_removed(tmp_path: Path) -> None:
    gone = make(tmp_path)
    gone.release(Deadline(1), last=False)
    with pytest.raises(NodeError, match="cannot be renamed: No such file"):
        admission.enter(gone, CORES, settings(), work())


def test_a_claim_that_moves_while_it_is_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, read = make(tmp_path), os.readlink
    moved: list[bytes] = []

    def late(path: bytes) -> bytes:
        if not moved:
            moved.append(path)
            one.move("asking", "held")
        return read(path)

    monkeypatch.setattr(os, "readlink", late)
    assert claim.look(str(tmp_path)) == [(one, "held")]


def test_rubbish_beside_claims(tmp_path: Path) -> None:
    (tmp_path / "a.held").write_text("x")
    (tmp_path / "b.held").symlink_to("nowhere")
    (tmp_path / "c.held").symlink_to('{"kind":"claim"}')
    one = make(tmp_path)
    (tmp_path / f"{one.token}.else").symlink_to(msgspec.json.encode(one).decode())
    assert claim.look(str(tmp_path)) == [(one, "asking")]
    assert claim.look(str(tmp_path / "none")) == []
