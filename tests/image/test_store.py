"""The store finds only what was checked, evicts only what nobody uses, and its locks hold between processes."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.descriptors import descriptors
from vmbatch.errors import DeadlineError, EndedError, NodeError
from vmbatch.image import store as module
from vmbatch.image.record import Record
from vmbatch.image.room import make_room
from vmbatch.image.store import Store, check_user_limit
from vmbatch.units import Deadline

from .conftest import GIB, KEY, MIB, OTHER, Other, incoming, nothing, put, record

DATA = os.urandom(MIB)
DAY = 86400.0
LOCK = """
from vmbatch.image.store import Store
from vmbatch.units import Deadline
with Store(a[0]).locked(a[1], Deadline(60), lambda: None):
    say("locked")
    hear()
say("free")
"""
HOLD = """
from vmbatch.image.store import Store
held = Store(a[0]).find(a[1])
say(held.path)
hear()
"""
COUNT = """
from vmbatch.image.store import Store
from vmbatch.units import Deadline
store = Store(a[0])
say("ready"); hear()
for _ in range(a[2]):
    with store.locked(a[1], Deadline(120), lambda: None):
        with open(a[3]) as file: count = int(file.read())
        with open(a[3] + ".mine", "x"): pass
        os.unlink(a[3] + ".mine")
        with open(a[3], "w") as file: file.write(str(count + 1))
"""
LIST = """
from vmbatch.image.store import Store
say("ready")
while True: Store(a[0]).entries()
"""


def source_of(store: Store, key: str) -> Path:
    return Path(store.root, "source", key)


def found(store: Store, key: str) -> bool:
    held = store.find(key)
    if held is not None:
        held.close()
    return held is not None


def key_of(number: int) -> str:
    return f"{number:032x}"


def room_for(images: Path, store: Store, coming: int, spare: int = 0) -> None:
    """Makes room in a store whose limit is what it has now, and `spare` bytes."""
    make_room(str(images), sum(part.size() for part in module.parts(str(images))) + spare, 0, coming)


def test_published_is_found(store: Store) -> None:
    path = Path(put(store, KEY, DATA, "c" * 64))
    assert path == Path(store.root, "content", "c" * 64)
    assert path.read_bytes() == DATA
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o444)
    held = store.find(KEY)
    assert held is not None
    assert (held.key, held.path, held.record.content, held.record.size) == (KEY, str(path), "c" * 64, MIB)
    assert held.record.stamp == module.stamp(status)
    held.close()
    assert incoming(store) == []
    assert store.find(OTHER) is None


def test_modes(store: Store, images: Path) -> None:
    modes = {name: (images / name).stat().st_mode & 0o7777
             for name in (".", "site", "users", "uses", "once", "site/content", "site/source", "site/incoming")}
    assert modes == {".": 0o711, "site": 0o711, "users": 0o711, "uses": 0o711, "once": 0o711, "site/content": 0o700,
                     "site/source": 0o700, "site/incoming": 0o711}


def test_content_is_durable_before_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append("sync " + os.readlink(f"/proc/self/fd/{fd}"))
        real_sync(fd)

    def rename(old: str, new: str) -> None:
        done.append(f"name {new}")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    path = put(store, KEY, DATA)
    assert done == [f"sync {store.incoming(KEY, 'new')}", f"name {path}", f"sync {store.root}/content",
                    f"name {source_of(store, KEY)}"]


def test_two_sources_with_one_content(store: Store) -> None:
    one, other = put(store, KEY, DATA, "c" * 64), None
    before = os.stat(one).st_ino
    other = put(store, OTHER, DATA, "c" * 64)
    assert one == other
    assert os.stat(one).st_ino == before
    assert os.listdir(os.path.join(store.root, "content")) == ["c" * 64]
    assert incoming(store) == []
    assert (found(store, KEY), found(store, OTHER)) == (True, True)


def test_sources_with_one_content_do_not_refetch_in_turns(store: Store) -> None:
    """One source's image is damaged and fetched again: the other one needs at most one fetch more, and then both stay."""
    path = Path(put(store, KEY, DATA, "c" * 64))
    put(store, OTHER, DATA, "c" * 64)
    os.utime(path, (1, 1))
    assert (found(store, KEY), found(store, OTHER)) == (False, False)
    put(store, KEY, DATA, "c" * 64)
    put(store, OTHER, DATA, "c" * 64)
    assert [(found(store, KEY), found(store, OTHER)) for _ in range(3)] == [(True, True)] * 3


@pytest.mark.parametrize("data", [
    b"", b"{", b"\0" * 500, b"\xff\xfe", b"null", b"[]", b"{}", b'{"origin": 7}', b'"' + b"\xe2\x28\xa1" + b'"',
], ids=repr)
def test_damaged_record(store: Store, data: bytes) -> None:
    path = put(store, KEY, DATA)
    source_of(store, KEY).write_bytes(data)
    assert store.find(KEY) is None
    assert store.entries() == []
    assert put(store, KEY, DATA) == path
    assert found(store, KEY)


def test_torn_record(store: Store) -> None:
    put(store, KEY, DATA)
    whole = source_of(store, KEY).read_bytes()
    for length in range(0, len(whole), 7):
        source_of(store, KEY).write_bytes(whole[:length])
        assert store.find(KEY) is None
    source_of(store, KEY).write_bytes(whole)
    assert found(store, KEY)


def test_record_without_a_field_of_today(store: Store) -> None:
    put(store, KEY, DATA)
    old = json.loads(source_of(store, KEY).read_bytes())
    del old["published"]
    source_of(store, KEY).write_text(json.dumps(old))
    assert store.find(KEY) is None


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def replaced(path: Path) -> None:
    status = path.stat()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(DATA)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [
    longer, lambda path: os.truncate(path, MIB - 1), lambda path: os.truncate(path, 0), Path.unlink, replaced,
    lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
], ids=["longer", "shorter", "empty", "missing", "another file", "mtime"])
def test_changed_content_is_not_found(store: Store, change: Callable[[Path], None]) -> None:
    path = Path(put(store, KEY, DATA))
    change(path)
    assert store.find(KEY) is None
    put(store, KEY, DATA)
    assert found(store, KEY)
    assert path.read_bytes() == DATA


def test_second_name_and_touching_do_not_matter(store: Store, images: Path) -> None:
    path = put(store, KEY, DATA)
    os.link(path, images / "uses/link")
    os.chmod(path, 0o400)
    Path(path).read_bytes()
    assert found(store, KEY)


def test_find_leaves_no_descriptor(store: Store) -> None:
    path = put(store, KEY, DATA)
    os.truncate(path, 5)
    before = descriptors()
    for _ in range(5):
        assert store.find(KEY) is None
        assert store.find(OTHER) is None
        assert len(store.entries()) == 1
    assert not descriptors() - before


def test_confirm(store: Store) -> None:
    put(store, KEY, DATA)
    held = store.find(KEY)
    assert held is not None
    old = held.record.checked
    time.sleep(0.01)
    store.confirm(held)
    held.close()
    again = store.find(KEY)
    assert again is not None
    assert old < again.record.checked <= time.time()
    assert again.record.stamp == held.record.stamp
    again.close()


def test_evicts_the_least_recently_used_first(store: Store, images: Path) -> None:
    now = time.time()
    for number, age in ((1, 30), (2, 50), (3, 10), (4, 40)):
        put(store, key_of(number), DATA, used=now - age)
    assert [entry.key for entry in store.entries()] == [key_of(number) for number in (2, 4, 1, 3)]
    room_for(images, store, 1)
    assert [found(store, key_of(number)) for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert not source_of(store, key_of(2)).exists()


def test_find_is_use(store: Store, images: Path) -> None:
    now = time.time()
    put(store, key_of(1), DATA, used=now - 50)
    put(store, key_of(2), DATA, used=now - 40)
    assert found(store, key_of(1))
    room_for(images, store, MIB)
    assert [found(store, key_of(number)) for number in (1, 2)] == [True, False]


def test_evicts_no_more_than_needed(store: Store, images: Path) -> None:
    for number in range(1, 6):
        put(store, key_of(number), DATA, used=time.time() - 100 + number)
    room_for(images, store, 2 * MIB)
    assert [found(store, key_of(number)) for number in range(1, 6)] == [False, False, True, True, True]
    room_for(images, store, MIB, spare=MIB)
    assert [found(store, key_of(number)) for number in range(3, 6)] == [True, True, True]


def test_an_image_used_through_another_source_is_not_the_oldest(store: Store, images: Path) -> None:
    """The content is used as recently as the most recent of its sources."""
    now = time.time()
    put(store, key_of(1), DATA, "c" * 64, used=now - 90)
    put(store, key_of(2), DATA, "c" * 64, used=now - 10)
    put(store, key_of(3), DATA, "d" * 64, used=now - 50)
    room_for(images, store, MIB)
    assert [found(store, key_of(number)) for number in (2, 3)] == [True, False]


def test_never_what_has_a_second_name(store: Store, images: Path) -> None:
    path = put(store, KEY, DATA, used=5)
    put(store, OTHER, DATA)
    os.link(path, images / "uses/vda")
    room_for(images, store, MIB)
    assert (found(store, KEY), found(store, OTHER)) == (True, False)
    os.unlink(images / "uses/vda")
    room_for(images, store, MIB)
    assert not found(store, KEY)


def test_never_what_another_process_holds(store: Store, images: Path) -> None:
    path = put(store, KEY, DATA, used=5)
    with Other(HOLD, str(images), KEY) as other:
        assert other.line() == path
        assert [entry.in_use for entry in store.entries()] == [True]
        taken = os.stat(path).st_blocks * 512
        with pytest.raises(NodeError) as caught:
            make_room(str(images), taken, 0, 7 * MIB)
        assert caught.value.lines() == [
            f"the store of images {images} has no room for 7 MiB: 7 MiB are missing, and all else is in use "
            "(see vmbatch image list; [images] limit and keep_free)"]
        assert not store.remove(Path(path).name, (KEY,))
        assert found(store, KEY)
        other.kill()
    assert [entry.in_use for entry in store.entries()] == [False]
    make_room(str(images), 7 * MIB, 0, 7 * MIB)
    assert not os.path.exists(path)


def test_what_is_held_here_stays_until_closed(store: Store) -> None:
    path = put(store, KEY, DATA)
    one, two = store.find(KEY), store.find(KEY)
    assert one is not None
    assert two is not None
    one.close()
    assert not store.remove(Path(path).name, (KEY,))
    two.close()
    assert store.remove(Path(path).name, (KEY,))
    assert store.remove(Path(path).name, (KEY,)), "absent is success"


def test_who_only_looks_does_not_use(store: Store, images: Path) -> None:
    """`vmbatch image list` on the same node must not make a job's eviction fail."""
    with contextlib.ExitStack() as last:
        for other in [last.enter_context(Other(LIST, str(images))) for _ in range(4)]:
            assert other.line() == "ready"
        for _ in range(200):
            put(store, KEY, b"x" * 4096)
            room_for(images, store, 4096)
            assert not found(store, KEY)


def test_who_looks_is_waited_for(store: Store) -> None:
    """A lock held alone is that of somebody who looks or evicts, and soon done."""
    path = put(store, KEY, DATA)
    look = "import fcntl\nfile = open(a[0])\nfcntl.flock(file, fcntl.LOCK_EX)\nsay('looks')\ntime.sleep(0.1)"
    with Other(look, path) as other:
        assert other.line() == "looks"
        assert store.remove(Path(path).name, (KEY,))


@pytest.mark.error("VB310")
def test_keep_free(store: Store, images: Path) -> None:
    path = put(store, KEY, DATA)
    space = os.statvfs(images)
    free = space.f_bavail * space.f_frsize
    make_room(str(images), 1 << 60, free - 512 * MIB, 5)
    assert os.path.exists(path)
    with pytest.raises(NodeError, match=rf"^the store of images {images} has no room for 1 MiB: .* and all else is in use$"):
        make_room(str(images), 1 << 60, free + 512 * MIB, MIB)
    assert not os.path.exists(path), "it went first"


def test_what_is_coming_in_and_disks_made_once_count(store: Store, images: Path) -> None:
    Path(store.incoming(KEY, "part")).write_bytes(DATA)
    (images / "once/disk").write_bytes(DATA)
    make_room(str(images), 3 * MIB, 0, MIB)
    with pytest.raises(NodeError, match="has no room for 1 MiB: 0 MiB are missing"):
        make_room(str(images), 3 * MIB - 1, 0, MIB)


def user(images: Path, uid: int) -> Store:
    made = Store(str(images), f"users/{uid}")
    made.make()
    return made


def test_parts_are_apart(store: Store, images: Path) -> None:
    alice, bob = user(images, 1500), user(images, 1501)
    put(alice, KEY, DATA)
    assert [found(part, KEY) for part in (store, alice, bob)] == [False, True, False]
    put(store, KEY, DATA)
    assert alice.find(KEY) is not None
    assert [part.part for part in module.parts(str(images))] == ["site", "users/1500", "users/1501"]
    (images / "users/lost+found").mkdir()
    assert [part.part for part in module.parts(str(images))] == ["site", "users/1500", "users/1501"]


def test_room_is_made_in_all_parts(store: Store, images: Path) -> None:
    alice = user(images, 1500)
    put(store, key_of(1), DATA, used=50)
    put(alice, key_of(2), DATA, used=40)
    room_for(images, store, MIB)
    assert (found(store, key_of(1)), found(alice, key_of(2))) == (True, False)


def test_user_limit(store: Store, images: Path) -> None:
    alice, bob = user(images, 1500), user(images, 1501)
    for number in (1, 2, 3):
        put(alice, key_of(number), DATA, used=number)
        put(bob, key_of(number), DATA, used=number)
        put(store, key_of(number), DATA, used=number)
    check_user_limit(alice, 4 * MIB, MIB)
    assert [found(alice, key_of(number)) for number in (1, 2, 3)] == [True, True, True]
    for number in (1, 2, 3):
        os.utime(source_of(alice, key_of(number)), (number, number))
    check_user_limit(alice, 3 * MIB, MIB + 1)
    assert [found(alice, key_of(number)) for number in (1, 2, 3)] == [False, False, True]
    assert all(found(part, key_of(number)) for number in (1, 2, 3) for part in (store, bob))
    with pytest.raises(NodeError, match=r"^the images of this user would take more than \[userimages\] limit = 3M$"):
        check_user_limit(alice, 3 * MIB, 3 * MIB + 1)


def test_user_limit_spares_what_is_in_use(store: Store, images: Path) -> None:
    alice = user(images, 1500)
    os.link(put(alice, KEY, DATA), images / "uses/vda")
    with pytest.raises(NodeError, match=r"^the images of this user would take more than \[userimages\] limit = 1M$"):
        check_user_limit(alice, MIB, 1)
    assert found(alice, KEY)


def test_tidy_dead_holders(store: Store, images: Path) -> None:
    for suffix in ("new", "new.qcow2", "part", "part.json", "lock", "seal"):
        Path(store.incoming(KEY, suffix)).write_bytes(b"x")
    Path(store.incoming(OTHER, "part")).write_bytes(b"x")
    os.utime(store.incoming(OTHER, "part"), (time.time() - DAY - 60,) * 2)
    assert store.tidy() == [
        f"removed {store.incoming(KEY, 'new')}: half-made", f"removed {store.incoming(KEY, 'new.qcow2')}: half-made",
        f"removed {store.incoming(OTHER, 'part')}: half-made"]
    assert incoming(store) == [f"{KEY}.part", f"{KEY}.part.json", f"{KEY}.seal"]
    os.utime(store.incoming(KEY, "part"), (time.time() - DAY + 600,) * 2)
    assert store.tidy() == []
    assert incoming(store) == [f"{KEY}.part", f"{KEY}.part.json", f"{KEY}.seal"]


def test_tidy_living_holders(store: Store, images: Path) -> None:
    """Among what they make are the files that become whole by a rename."""
    names = [f".{KEY}.part.json.new", f".{KEY}.seal.new", f"{KEY}.lock", f"{KEY}.new", f"{KEY}.part", f"{KEY}.part.json"]
    with Other(LOCK, str(images), KEY) as other:
        assert other.line() == "locked"
        for name in names:
            path = Path(store.root, "incoming", name)
            path.touch()
            os.utime(path, (5, 5))
        assert (store.tidy(), incoming(store)) == ([], names)
        other.kill()
    said = store.tidy()
    assert f"removed {store.incoming(KEY, 'part')}: half-made" in said
    assert incoming(store) == []


def test_tidy_records(store: Store) -> None:
    path = Path(put(store, KEY, DATA))
    put(store, OTHER, DATA)
    path.unlink()
    source_of(store, "2" * 32).write_bytes(b"torn{")
    assert store.tidy() == []
    assert os.listdir(os.path.join(store.root, "source")) == [OTHER]
    assert found(store, OTHER)


def test_tidy_contents_without_a_record(store: Store, images: Path) -> None:
    paths = [Path(put(store, key_of(number), DATA)) for number in (1, 2, 3, 4)]
    for number, path in enumerate(paths[:3], 1):
        source_of(store, key_of(number)).unlink()
        if number > 1:
            os.utime(path, (5, 5))
    os.link(paths[1], images / "uses/vda")
    assert store.tidy() == [f"removed {paths[2]}: no source has it any more"]
    assert [path.exists() for path in paths] == [True, True, False, True]


def test_tidy_takes_no_record_that_is_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process publishes while we tidy."""
    real = Store._records

    def records(self: Store) -> Iterator[tuple[str, Record, float]]:
        before = list(real(self))
        monkeypatch.setattr(Store, "_records", real)
        put(store, KEY, DATA)
        return iter(before)

    monkeypatch.setattr(Store, "_records", records)
    store.tidy()
    assert found(store, KEY)


def test_tidy_takes_no_record_that_is_being_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fchown = os.fchown

    def late(fd: int, owner: int, group: int) -> None:
        if "/source/" in os.readlink(f"/proc/self/fd/{fd}"):
            monkeypatch.setattr(os, "fchown", fchown)
            Store(store.directory).tidy()
        fchown(fd, owner, group)

    monkeypatch.setattr(os, "fchown", late)
    put(store, KEY, DATA)
    assert found(store, KEY)


def test_a_record_being_written_is_no_entry(store: Store) -> None:
    put(store, KEY, DATA)
    source_of(store, f".{KEY}.new").write_bytes(source_of(store, KEY).read_bytes())
    assert [entry.key for entry in store.entries()] == [KEY]


@pytest.mark.parametrize("number", [1])
def test_evicted_while_another_source_publishes_it(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """At the `number`-th time that the content is opened, it has just gone."""
    path = put(store, KEY, DATA, "c" * 64)
    real = os.open
    times = 0

    def late(name: Any, *args: Any, **more: Any) -> int:
        nonlocal times
        times += name == path
        if name == path and times == number:
            os.unlink(path)
        return real(name, *args, **more)

    monkeypatch.setattr(os, "open", late)
    put(store, OTHER, DATA, "c" * 64)
    monkeypatch.setattr(os, "open", real)
    assert times >= number
    assert found(store, OTHER)
    assert Path(path).read_bytes() == DATA


def test_lock_leaves_nothing(store: Store) -> None:
    with store.locked(KEY, Deadline(5), nothing):
        assert incoming(store) == [f"{KEY}.lock"]
    assert incoming(store) == []
    with pytest.raises(EndedError), store.locked(KEY, Deadline(5), nothing):
        raise EndedError("the job has ended")
    assert incoming(store) == []


@contextlib.contextmanager
def locked_elsewhere(images: Path) -> Iterator[Other]:
    with Other(LOCK, str(images), KEY) as other:
        assert other.line() == "locked"
        yield other


def test_lock_is_exclusive(store: Store, images: Path) -> None:
    with locked_elsewhere(images) as other:
        with pytest.raises(DeadlineError) as caught, store.locked(KEY, Deadline(0.2), nothing):
            pytest.fail("two have it")
        assert caught.value.lines() == [
            "another job is still downloading the same image (the job will find it there later)"]
        with store.locked(OTHER, Deadline(0), nothing):
            pass
        other.tell()
        assert other.line() == "free"
        with store.locked(KEY, Deadline(0), nothing):
            pass


def test_lock_waits(store: Store, images: Path) -> None:
    asked = 0

    def alive() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            other.tell()

    with locked_elsewhere(images) as other, store.locked(KEY, Deadline(20), alive):
        assert asked >= 3
        assert other.line() == "free"


def test_lock_dies_with_its_holder(store: Store, images: Path) -> None:
    with locked_elsewhere(images) as other:
        other.kill()
        assert incoming(store) == [f"{KEY}.lock"]
        with store.locked(KEY, Deadline(0), nothing):
            pass
    assert incoming(store) == []


def test_alive_ends_the_waiting(store: Store, images: Path) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    before = descriptors()
    with locked_elsewhere(images) as other:
        begin = time.monotonic()
        with pytest.raises(EndedError, match=r"^the job has ended$"), store.locked(KEY, Deadline(60), over):
            pytest.fail("two have it")
        assert time.monotonic() - begin < 15
        other.tell()
        assert other.line() == "free"
    assert not descriptors() - before


def test_no_effect_is_lost(store: Store, images: Path, place: Path) -> None:
    """The lock's file comes and goes all the time; each must find what the others did."""
    counter = place / "counter"
    counter.write_text("0")
    with contextlib.ExitStack() as last:
        others = [last.enter_context(Other(COUNT, str(images), KEY, 40, str(counter))) for _ in range(12)]
        assert [other.line() for other in others] == ["ready"] * 12
        for other in others:
            other.tell()
        assert [other.end() for other in others] == [0] * 12
    assert counter.read_text() == "480"
    assert incoming(store) == []


def test_tidy_does_not_take_a_lock_away(store: Store, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes the lock between tidy's look and its unlink: nobody else must get it as well."""
    Path(store.incoming(KEY, "lock")).touch()
    real = os.unlink
    last = contextlib.ExitStack()
    holders = 0

    def take() -> None:
        nonlocal holders
        with contextlib.suppress(DeadlineError):
            last.enter_context(store.locked(KEY, Deadline(0), nothing))
            holders += 1

    def late(path: str) -> None:
        monkeypatch.setattr(os, "unlink", real)
        take()
        real(path)

    monkeypatch.setattr(os, "unlink", late)
    store.tidy()
    monkeypatch.setattr(os, "unlink", real)
    take()
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            last.close()
    assert holders == 1


def test_not_roots(store: Store, images: Path) -> None:
    os.chown(images / "site", 1500, 1500)
    with pytest.raises(NodeError, match=rf"^{images}/site is not a directory that only root can write$"):
        store.make()


def test_size(store: Store) -> None:
    assert store.size() == 0
    put(store, KEY, DATA)
    with open(store.incoming(OTHER, "part"), "wb") as file:
        file.truncate(GIB)
    assert store.size() == MIB, "holes take nothing"


def test_record_helper_is_what_publish_keeps(store: Store) -> None:
    """So that these tests test the store, not themselves."""
    made = Path(store.incoming(KEY, "new"))
    made.write_bytes(DATA)
    asked = record(str(made), "c" * 64)
    held = store.publish(KEY, str(made), asked)
    assert held.record == asked
    held.close()
