"""The contract of every kind: acquire is exclusive, release takes anything and takes it twice, others' things survive."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lab.libvirtd import rules_lost
from vmbatch import registry
from vmbatch.errors import NodeError
from vmbatch.guard import BASE, TABLE, rules
from vmbatch.host import nft, virt, virtend
from vmbatch.hypervisor import netfilter
from vmbatch.hypervisor.lease import DhcpLease
from vmbatch.units import Deadline

from .cases import FACTORIES, Case, DomainCase, NetworkFilterCase

BOUND = 5.0


def release(case: Case, *, last: bool = False) -> None:
    """Releases what a record brings back, in bounded time."""
    begin = time.monotonic()
    registry.resource(msgspec.json.encode(case.resource)).release(Deadline(BOUND), last=last)
    assert time.monotonic() - begin < BOUND


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _ in FACTORIES.values()} | {DhcpLease} == set(registry.KINDS)


def test_records_of_every_kind(case: Case) -> None:
    record = msgspec.json.encode(case.resource)
    assert b"\n" not in record
    assert registry.resource(record) == case.resource
    assert type(registry.resource(record)) is type(case.resource)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kind":"volume","path":"/"}',
        b'{"kind":null}',
        b'{"kind":"directory"}',
        b'{"kind":"directory","path":1}',
        b'{"kind":"Directory"}',
    ],
)
def test_unknown_records(record: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        registry.resource(record)


def test_acquire_and_release(case: Case) -> None:
    assert not case.exists()
    case.resource.acquire()
    assert case.exists()
    release(case)
    assert not case.exists()


def test_release_twice(case: Case) -> None:
    case.resource.acquire()
    release(case)
    release(case)
    assert not case.exists()


@pytest.mark.parametrize("last", [False, True])
def test_release_of_what_never_was(case: Case, last: bool) -> None:
    release(case, last=last)
    assert not case.exists()


def test_acquire_is_exclusive(case: Case) -> None:
    case.resource.acquire()
    with pytest.raises((NodeError, OSError)):
        case.resource.acquire()
    assert case.exists()
    release(case)
    assert not case.exists()


def test_acquire_again_after_release(case: Case) -> None:
    for _ in range(2):
        case.resource.acquire()
        release(case)
    assert not case.exists()


def states(what: str) -> Iterator[object]:
    """(name, state) of all states that the cases have."""
    for name, (_, factory) in sorted(FACTORIES.items()):
        for state, _ in getattr(factory(Path("/nowhere")), what)():
            yield pytest.param(name, state, id=f"{name}: {state}")


def prepared(tmp_path: Path, name: str, what: str, state: str) -> Case:
    case = FACTORIES[name][1](tmp_path)
    case.prepare()
    dict(getattr(case, what)())[state]()
    return case


@pytest.mark.parametrize(("name", "state"), list(states("half_made")))
@pytest.mark.parametrize("last", [False, True])
def test_half_made(tmp_path: Path, name: str, state: str, last: bool) -> None:
    case = prepared(tmp_path, name, "half_made", state)
    try:
        release(case, last=last)
        assert not case.exists()
    finally:
        case.clear()


@pytest.mark.parametrize(("name", "state"), list(states("foreign")))
@pytest.mark.parametrize("last", [False, True])
def test_foreign_namesakes_survive(tmp_path: Path, name: str, state: str, last: bool) -> None:
    case = prepared(tmp_path, name, "foreign", state)
    try:
        before = snapshot(tmp_path)
        with pytest.raises((NodeError, OSError)):
            case.resource.acquire()
        release(case, last=last)
        assert case.exists()
        assert snapshot(tmp_path) == before
    finally:
        case.clear()


def snapshot(place: Path) -> dict[str, str]:
    """All files and links below a directory."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        for path in place.rglob("*")
    }


def test_release_has_no_time(case: Case) -> None:
    """A deadline that has passed is no excuse for hanging, nor for a lie."""
    case.resource.acquire()
    begin = time.monotonic()
    try:
        case.resource.release(Deadline(0), last=False)
        assert not case.exists()
    except NodeError:
        pass
    assert time.monotonic() - begin < 15


def test_a_domain_that_will_not_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = DomainCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(virtend, "destroy", lambda _domain, _uri, _over: False)
            begin = time.monotonic()
            with pytest.raises(NodeError, match="is still there after its end"):
                case.resource.release(Deadline(0.3), last=True)
            assert 0.25 < time.monotonic() - begin < 15
    finally:
        case.clear()


def test_a_domain_that_comes_late(tmp_path: Path) -> None:
    """Its promiser died with the request in libvirtd's hands."""
    case = DomainCase(tmp_path)
    case.prepare()
    timer = threading.Timer(0.3, case.resource.acquire)
    timer.start()
    try:
        case.resource.release(Deadline(BOUND), last=True)
        timer.join()
        assert not case.exists()
    finally:
        case.clear()


@pytest.mark.parametrize("seconds", [0.6, 30])
def test_patience_is_for_the_last_promise_alone(tmp_path: Path, seconds: float) -> None:
    case = DomainCase(tmp_path)
    case.prepare()
    begin = time.monotonic()
    case.resource.release(Deadline(seconds), last=False)
    assert time.monotonic() - begin < 15
    begin = time.monotonic()
    case.resource.release(Deadline(seconds), last=True)
    assert time.monotonic() - begin >= min(seconds, 2) - 0.1


def test_libvirt_that_cannot_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is not "gone"."""
    case = DomainCase(tmp_path)
    case.prepare()
    case.resource.acquire()

    def fail(_uri: str, _uuid: str, _over: Deadline) -> None:
        raise NodeError("libvirt does not answer")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(virt, "find", fail)
            patch.setattr("vmbatch.hypervisor.domain._RESTART_SECONDS", 0.1)
            with pytest.raises(NodeError, match="does not answer"):
                case.resource.release(Deadline(BOUND), last=False)
        assert case.exists()
    finally:
        case.clear()


def test_a_filter_gets_other_rules(tmp_path: Path) -> None:
    case = NetworkFilterCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    try:
        changed = rules(case.port, msgspec.structs.replace(case.guard, ipv4=("10.77.0.21",)))
        case.resource.change(changed)
        assert case.file.read_text() == changed
        assert "10.77.0.21" in str(nft.listed("chain", "bridge", TABLE, f"from-{case.port.name}"))
        assert case.port in netfilter.standing()
    finally:
        release(case)
    assert not case.exists()


@pytest.mark.parametrize("what", ["flush ruleset", "flush table bridge vmbatch", "flush map bridge vmbatch to",
                                  "flush chain bridge vmbatch from-{}"])
def test_a_filter_is_mended(tmp_path: Path, what: str) -> None:
    """Nothing of others' is lost by it."""
    case, other = NetworkFilterCase(tmp_path), NetworkFilterCase(tmp_path)
    for each in (other, case):
        each.file.unlink(missing_ok=True)
        each.prepare()
        each.resource.acquire()
    try:
        assert {case.port, other.port} <= netfilter.standing()
        with rules_lost(what.format(case.port.name)):
            assert case.port not in netfilter.standing()
            case.resource.mend()
            assert case.port in netfilter.standing()
    finally:
        for each in (other, case):
            release(each)
            assert not each.exists()


@pytest.mark.parametrize("gone", ["delete table bridge vmbatch", "flush table bridge vmbatch; delete map bridge vmbatch to"])
def test_a_filter_where_what_all_share_is_missing(tmp_path: Path, gone: str) -> None:
    case = NetworkFilterCase(tmp_path)
    case.prepare()
    nft.apply(f"{BASE}{gone}\n")
    case.resource.acquire()
    try:
        assert case.port in netfilter.standing()
    finally:
        release(case)


def test_a_filter_that_cannot_be_made_is_not_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all interfaces share has no part in it."""
    case = NetworkFilterCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(nft, "apply", lambda _text: pytest.fail("it is tried again"))
            with pytest.raises(NodeError, match=r"Error: .*File exists: create element bridge vmbatch from"):
                case.resource.acquire()
    finally:
        release(case)


def test_what_was_learned_is_read(tmp_path: Path) -> None:
    case = NetworkFilterCase(tmp_path)
    case.prepare()
    case.file.write_text(rules(case.port, msgspec.structs.replace(case.guard, learns=True)))
    case.resource.acquire()
    try:
        assert case.resource.learned() == ()
        for address in (0x0A4D0015, 0x0A4D0016):
            nft.apply(f"add element bridge vmbatch {case.port.learned} {{ {address:#x} }}\n")
        assert sorted(case.resource.learned()) == ["10.77.0.21", "10.77.0.22"]
    finally:
        release(case)


def test_directories_are_found_by_their_mark(tmp_path: Path) -> None:
    from vmbatch.spool import directory

    case = FACTORIES["spool directory"][1](tmp_path)
    case.resource.acquire()
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    assert [(found.path, found.token) for found in directory.ours(str(tmp_path))] == [
        (getattr(case.resource, "path", None), getattr(case.resource, "token", None))
    ]
    assert directory.ours(str(tmp_path / "none")) == []


def test_domains_are_found_by_their_mark(tmp_path: Path) -> None:
    case = DomainCase(tmp_path)
    case.prepare()
    case.resource.acquire()
    try:
        assert (case.name, case.uuid, case.token) in virt.ours("test:///default")
        assert "test" not in {name for name, _, _ in virt.ours("test:///default")}
    finally:
        case.clear()
