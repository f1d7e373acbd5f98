"""A libvirtd that does not answer, that is gone, and that is there again."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import msgspec
import pytest

from vmbatch.errors import DeadlineError, EndedError, NodeError
from vmbatch.exchange.volume import Volume
from vmbatch.format import savefile
from vmbatch.host import libvirtd, process, virt, virtend, virtevent
from vmbatch.hypervisor.domain import Domain, Restore
from vmbatch.hypervisor.netfilter import NetworkFilter
from vmbatch.resource import Resource
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline

from .sample import TOKEN

URI = "qemu:///system"
DOMAIN = Domain(URI, "vmbatch-42.vm-0123abcd", "0123abcd-1111-4222-8333-444455556666", "0123abcd" * 4, "/spool/domain.xml")


class Daemon:
    """A libvirtd: `answers` is set while it answers; `domains` are those that it runs, by uuid."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.opened: list[Connection] = []
        self.domains: set[str] = set()
        self.failures: list[str] = []
        self.given: list[bytes | str] = []
        self.asked = 0
        self.destroyed: Callable[[], None] = lambda: None

    def open(self, _uri: str) -> "Connection":
        self.answers.wait()
        self.opened.append(Connection(self))
        return self.opened[-1]

    def say(self) -> None:
        """Before each answer."""
        self.asked += 1
        self.answers.wait()
        if self.failures:
            raise libvirt.libvirtError(self.failures.pop())


class Connection:
    """One connection to it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.alive = 1

    def setKeepAlive(self, _seconds: int, _count: int) -> None:
        """Accepted."""

    def isAlive(self) -> int:
        return self.alive

    def lookupByUUIDString(self, uuid: str) -> "Guest":
        self.daemon.say()
        if uuid not in self.daemon.domains:
            error = libvirt.libvirtError("no domain")
            error.err = (libvirt.VIR_ERR_NO_DOMAIN, 0, "no domain", 0, "", "", "", 0, 0)
            raise error
        return Guest(self.daemon, uuid)

    def createXML(self, xml: str, _flags: int) -> None:
        self.daemon.say()
        self.daemon.domains.add(xml)

    def restoreFlags(self, path: str, _xml: object, flags: int) -> None:
        self.daemon.say()
        assert flags == libvirt.VIR_DOMAIN_SAVE_PAUSED
        with open(path, "rb") as pipe:
            self.daemon.given.append(pipe.read())
        self.daemon.domains.add(DOMAIN.uuid)


class Guest:
    """A guest of DOMAIN's start."""

    def __init__(self, daemon: Daemon, uuid: str) -> None:
        self.daemon = daemon
        self.uuid = uuid

    def name(self) -> str:
        return DOMAIN.name

    def UUIDString(self) -> str:
        return self.uuid

    def metadata(self, *_arguments: object) -> str:
        self.daemon.say()
        return f"<job token='{DOMAIN.token}'/>"

    def attachDeviceFlags(self, xml: str, _flags: int) -> None:
        self.daemon.say()
        self.daemon.given.append(xml)

    def resume(self) -> None:
        self.daemon.say()
        self.daemon.given.append("goes on")

    def destroy(self) -> None:
        self.daemon.destroyed()
        self.daemon.say()
        self.daemon.domains.discard(self.uuid)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon()
    monkeypatch.setattr(libvirtd, "_connections", {})
    monkeypatch.setattr(libvirtd, "_events", lambda: None)
    monkeypatch.setattr(libvirtd, "_ALIVE_SECONDS", 0.001)
    monkeypatch.setattr("vmbatch.hypervisor.domain._IN_FLIGHT_SECONDS", 0.05)
    monkeypatch.setattr(libvirt, "open", made.open)
    yield made
    made.answers.set()
    process.watch(None)


ASKED: dict[str, Callable[[], object]] = {
    "connect": lambda: libvirtd.connect(URI),
    "create": lambda: virt.create(URI, "<domain/>"),
    "find": lambda: virt.find(URI, DOMAIN.uuid),
    "ours": lambda: virt.ours(URI),
}


@pytest.mark.parametrize("name", ASKED)
def test_who_does_not_even_accept_is_not_waited_for(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(libvirtd, "ANSWER_SECONDS", 0.01)
    daemon.answers.clear()
    with pytest.raises(DeadlineError) as caught:
        ASKED[name]()
    assert caught.value.lines() == ["libvirtd did not answer in time (does virsh list answer on this node?)"]


def test_a_start_is_not_waited_for_longer_than_the_job_has(daemon: Daemon) -> None:
    libvirtd.connect(URI)
    daemon.answers.clear()
    process.watch(lambda: None, Deadline(0.01))
    with pytest.raises(DeadlineError, match=r"^libvirtd did not answer in time$"):
        virt.create(URI, "<domain/>")


def test_a_job_that_is_over_does_not_wait_for_libvirtd(daemon: Daemon) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    libvirtd.connect(URI)
    daemon.answers.clear()
    process.watch(over)
    with pytest.raises(EndedError):
        virt.create(URI, "<domain/>")


def test_who_was_hung_is_asked_by_a_new_connection(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    libvirtd.connect(URI)
    monkeypatch.setattr(libvirtd, "ANSWER_SECONDS", 0.01)
    daemon.answers.clear()
    assert virt.state(URI, DOMAIN.uuid) is None
    daemon.answers.set()
    monkeypatch.setattr(libvirtd, "ANSWER_SECONDS", 30.0)
    assert virt.state(URI, DOMAIN.uuid) == "gone"
    assert len(daemon.opened) == 2


def test_who_was_restarted_is_asked_by_a_new_connection(daemon: Daemon) -> None:
    libvirtd.connect(URI)
    assert virt.find(URI, DOMAIN.uuid) is None
    daemon.opened[0].alive = 0
    assert virt.find(URI, DOMAIN.uuid) is None
    assert len(daemon.opened) == 2


def test_release_asks_again_while_libvirtd_is_restarted(daemon: Daemon) -> None:
    daemon.domains.add(DOMAIN.uuid)
    daemon.failures += ["Cannot recv data", "End of file while reading data"]
    DOMAIN.release(Deadline(30), last=False)
    assert not daemon.domains


@pytest.mark.error("VB701")
def test_release_does_not_ask_for_ever(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbatch.hypervisor.domain._RESTART_SECONDS", 0.05)
    monkeypatch.setattr(daemon, "failures", ["Connection refused"] * 10000)
    with pytest.raises(NodeError, match=r"^libvirt at qemu:///system does not answer: Connection refused$"):
        DOMAIN.release(Deadline(30), last=False)


def test_release_from_a_hung_libvirtd_has_a_deadline(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbatch.hypervisor.domain._LEAST_SECONDS", 0.01)
    daemon.domains.add(DOMAIN.uuid)
    daemon.answers.clear()
    with pytest.raises(DeadlineError, match=r"^libvirtd did not answer in time$"):
        DOMAIN.release(Deadline(0.05), last=False)
    assert daemon.domains


def test_a_request_under_way_is_waited_for_from_the_first_answer_on(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the first answer took, a guest that is made thereafter is found."""
    say = daemon.say

    def slow() -> None:
        say()
        if daemon.asked == 1:
            threading.Event().wait(0.2)  # longer than the time in which a request is waited for
        elif daemon.asked == 2:
            daemon.domains.add(DOMAIN.uuid)

    monkeypatch.setattr(daemon, "say", slow)
    DOMAIN.release(Deadline(30), last=True)
    assert (daemon.domains, daemon.asked > 3) == (set(), True)


@pytest.fixture
def ended(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has DOMAIN's QEMU end as soon as libvirtd is asked for it, which does not answer; the function has it answer."""
    read, write = os.pipe()

    def end() -> None:
        os.close(write)
        daemon.destroyed = lambda: None
        daemon.answers.clear()

    daemon.domains.add(DOMAIN.uuid)
    daemon.destroyed = end
    monkeypatch.setattr(virtend, "_qemu", lambda _uri, _name, _uuid: read)
    return daemon.answers.set


def test_what_libvirt_has_no_part_in_does_not_wait_for_it(daemon: Daemon, ended: Callable[[], None]) -> None:
    DOMAIN.begin_release(Deadline(60), last=False)
    for apart in (Directory("/run/vmbatch/handover/42.vm", TOKEN, 0o711), NetworkFilter(TOKEN, 0, "/spool/filter-0.nft")):
        DOMAIN.settle(Deadline(0), apart)
    assert daemon.domains == {DOMAIN.uuid}
    ended()
    DOMAIN.settle(Deadline(60), Directory("/spool", TOKEN, 0o711))
    assert daemon.domains == set()


@pytest.mark.parametrize("before", [
    Directory("/spool", TOKEN, 0o711), Volume("/srv/share/guest", TOKEN, 1, 0, 0), None], ids=["spool", "volume", "end"])
def test_all_else_waits(daemon: Daemon, ended: Callable[[], None], before: Resource | None) -> None:
    DOMAIN.begin_release(Deadline(60), last=False)
    with pytest.raises(DeadlineError):
        DOMAIN.settle(Deadline(0.01), before)


def test_libvirt_cannot_end_a_guest_whose_qemu_has_ended(daemon: Daemon, ended: Callable[[], None]) -> None:
    DOMAIN.begin_release(Deadline(60), last=False)
    daemon.failures = ["it has an engine of its own"]
    ended()
    with pytest.raises(NodeError, match=r"^libvirt did not end the guest: it has an engine of its own$"):
        DOMAIN.settle(Deadline(60), None)
    assert daemon.domains == {DOMAIN.uuid}


def test_release_alone_waits_for_libvirt(daemon: Daemon, ended: Callable[[], None]) -> None:
    with pytest.raises(DeadlineError):
        DOMAIN.release(Deadline(0.05), last=False)


@pytest.fixture
def restored(tmp_path: Path) -> Domain:
    """The guest of DOMAIN's start, that is to go on from a saved one."""
    known = savefile.SaveFile(1, 0, b"<domain>saved</domain>", b"<cookie/>", 0)
    (tmp_path / "memory.saved").write_bytes(savefile.header(known, known.xml) + b"state")
    for name in ("resumed.xml", "device-0.xml", "device-1.xml"):
        (tmp_path / name).write_text(f"<{name}/>")
    restore = Restore(str(tmp_path / "memory.saved"), str(tmp_path / "resumed.xml"),
                      tuple(str(tmp_path / f"device-{number}.xml") for number in range(2)))
    return msgspec.structs.replace(DOMAIN, xml=str(tmp_path / "domain.xml"), restore=restore)


def test_a_guest_goes_on_with_its_own_domain_and_all_its_devices(daemon: Daemon, restored: Domain, tmp_path: Path) -> None:
    restored.acquire()
    file, *rest = daemon.given
    assert isinstance(file, bytes)
    known = savefile.parse(lambda offset, size: file[offset: offset + size])
    assert (known.xml, known.cookie, file[known.state:]) == (b"<resumed.xml/>", b"<cookie/>", b"state")
    assert rest == ["<device-0.xml/>", "<device-1.xml/>", "goes on"]
    assert not (tmp_path / "memory").exists(), "the pipe"


@pytest.mark.parametrize(("at", "code"), [pytest.param(at, code, marks=pytest.mark.error(code)) for at, code in enumerate(
    ("VB714", "VB701", "VB714", "VB714", "VB714"), 1)])
def test_libvirt_refuses_a_saved_guest(daemon: Daemon, restored: Domain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                       at: int, code: str) -> None:
    """Whichever part of it: the state, whether the guest is there, its devices, that it goes on."""
    say = daemon.say
    told: list[int] = []

    def refuse() -> None:
        told.append(at)
        if len(told) == at:
            daemon.failures.append("unsupported configuration")
        say()

    monkeypatch.setattr(daemon, "say", refuse)
    with pytest.raises(NodeError, match="unsupported configuration") as caught:
        restored.acquire()
    assert caught.value.code == code
    assert not (tmp_path / "memory").exists()


def test_a_start_that_is_over_does_not_hang_with_libvirtd(daemon: Daemon, restored: Domain, tmp_path: Path) -> None:
    """Nor does libvirtd, which may be about to read the pipe."""
    def over() -> None:
        raise EndedError("the job has ended")

    libvirtd.connect(URI)
    daemon.answers.clear()
    process.watch(over)
    with pytest.raises(EndedError):
        restored.acquire()
    assert not (tmp_path / "memory").exists()


def test_the_release_lets_a_libvirtd_go_that_reads_what_nobody_writes(daemon: Daemon, restored: Domain, tmp_path: Path) -> None:
    """Whose prologue was killed."""
    os.mkfifo(tmp_path / "memory")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "memory").read_bytes()))
    reader.start()
    threading.Event().wait(0.05)
    restored.release(Deadline(30), last=True)
    reader.join(5)
    assert read == [b""]


@pytest.mark.error("VB714")
def test_a_file_that_is_no_saved_guest(daemon: Daemon, restored: Domain, tmp_path: Path) -> None:
    (tmp_path / "memory.saved").write_bytes(b"LibvirtQemudPart" + bytes(200))
    with pytest.raises(NodeError, match="is not a whole file of a saved guest"):
        restored.acquire()
    assert daemon.given == []


def test_events_are_heard_by_several_until_they_leave() -> None:
    """Also one after the other: libvirt takes no second callback of a connection."""
    uri, first, second = "test:///default", threading.Event(), threading.Event()
    leave = virtevent.on_event(uri, lambda: pytest.fail("it has left"))
    leave()
    leave_first, leave_second = virtevent.on_event(uri, first.set), virtevent.on_event(uri, second.set)
    try:
        domain = libvirtd.connect(uri).createXML(
            "<domain type='test'><name>heard</name><memory>8192</memory><os><type>hvm</type></os></domain>", 0)
        assert first.wait(5)
        assert second.wait(5)
        leave_second()
        time.sleep(0.1)
        first.clear()
        second.clear()
        domain.destroy()
        assert first.wait(5)
        assert not second.wait(0.1)
    finally:
        leave_first()
