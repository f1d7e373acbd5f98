"""How guests are watched and ended: what a template says, when a guest has hung, and what the job's shell makes of its end."""

import errno
import os
from pathlib import Path

import libvirt
import msgspec
import pytest

from vmbatch import template
from vmbatch.config import Config
from vmbatch.context.parameters import parameters
from vmbatch.errors import InputError, NodeError, UnreachableError
from vmbatch.guest import Message, parse_message
from vmbatch.handover import Handover, Mark, decode
from vmbatch.host import clock, virt, virtend
from vmbatch.hypervisor.domain import Domain
from vmbatch.hypervisor.watcher import Watcher
from vmbatch.plan import plan
from vmbatch.shell.guest import ENDED, ENDED_HERE, Guest
from vmbatch.template.lifetime import Lifetime
from vmbatch.watcher import Patience, ShareEar

from .sample import OTHER_TOKEN, TEMPLATE, TOKEN, facts, form, job, settings


def of(tags: str, devices: str = "") -> template.Template:
    return form(TEMPLATE.replace("</vbconfig>", f"{tags}</vbconfig>").replace("</devices>", f"{devices}</devices>"))


def test_what_a_template_says() -> None:
    assert form().lifetime == Lifetime(0, 0, False)
    assert of("<vbheartbeat seconds='60'/><vbshutdown seconds='20'/>").lifetime == Lifetime(60, 20, False)
    assert of("", "<watchdog model='i6300esb' action='poweroff'/>").lifetime == Lifetime(0, 0, True)


@pytest.mark.parametrize(("tags", "said"), [
    ("<vbheartbeat/>", "<vbheartbeat> needs the attribute seconds: seconds: 10 to 86400"),
    ("<vbheartbeat seconds='9'/>", "<vbheartbeat> seconds='9': expected seconds: 10 to 86400"),
    ("<vbheartbeat seconds='60s'/>", "<vbheartbeat> seconds='60s': expected seconds: 10 to 86400"),
    ("<vbshutdown seconds='0'/>", "<vbshutdown> seconds='0': expected seconds: 1 to 240"),
    ("<vbshutdown seconds='241'/>", "<vbshutdown> seconds='241': expected seconds: 1 to 240"),
    ("<vbshutdown seconds='9'/><vbshutdown seconds='9'/>", "a second <vbshutdown> in the same <vbconfig>; there may be one"),
    ("<vbshell>CONSOLE</vbshell><vbmessages>CONSOLE</vbmessages><vbheartbeat seconds='60'/>",
     "<vbheartbeat>: the console is the job's alone; use <vbmessages>SHARE</vbmessages> or CHANNEL"),
])
def test_mistakes(tags: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        of(tags)
    assert [text for _, text in caught.value.problems] == [said]


def test_what_the_guest_is_told() -> None:
    config: Config = settings()
    told = parameters(job(), of("<vbheartbeat seconds='62'/>", "<watchdog model='i6300esb'/>"), config, "server:/share")
    assert (told["VMBATCH_HEARTBEAT"], told["VMBATCH_WATCHDOG"]) == ("15", "yes")
    told = parameters(job(), form(), config, "server:/share")
    assert (told["VMBATCH_HEARTBEAT"], told["VMBATCH_WATCHDOG"]) == ("", "")


def test_what_a_plan_makes_of_it() -> None:
    chosen = plan(job(), of("<vbheartbeat seconds='60'/><vbshutdown seconds='20'/>"), settings(), facts())
    assert chosen.domain.grace == 20.0
    spool = f"/var/lib/vmbatch/spool/42.vm.{TOKEN}"
    assert chosen.phases[-1].steps[:2] == (Watcher(
        path=f"{spool}/watch", token=TOKEN, job="42.vm", domain=chosen.domain, seconds=60.0, place=chosen.inbox, local=True,
        handover="/run/vmbatch/handover/42.vm", log="/var/log/vmbatch"), chosen.domain)
    assert plan(job(), form(), settings(), facts()).phases[-1].steps[0] == msgspec.structs.replace(chosen.domain, grace=0.0)
    by_port = plan(job(), of("<vbmessages>CHANNEL</vbmessages><vbheartbeat seconds='60'/>"), settings(), facts())
    watcher = by_port.phases[-1].steps[0]
    assert isinstance(watcher, Watcher)
    assert watcher.place == ""


def test_a_journal_without_grace() -> None:
    """As an earlier version wrote it."""
    record = b'{"kind":"domain","uri":"test:///default","name":"n","uuid":"u","token":"t","xml":"x"}'
    assert msgspec.json.decode(record, type=Domain).grace == 0.0


SILENT = [(False, at) for at in (5.0, 10.0, 15.0, 20.0)]


@pytest.mark.parametrize(("looks", "over"), [
    (SILENT, [False, False, False, False]),
    ([*SILENT, (False, 21.0)], [False, False, False, False, True]),
    ([(False, 5.0), (True, 10.0), *((False, at) for at in (15.0, 20.0, 25.0, 30.0, 30.1))], [False] * 6 + [True]),
    ([(False, 5.0), (None, 10.0), (False, 15.0), (False, 20.0), (False, 25.0), (False, 30.0)], [False] * 6),
    ([(False, 5.0), (False, 25.1), (False, 30.0), (False, 35.0), (False, 40.0), (False, 45.2)], [False] * 5 + [True]),
])
def test_when_a_guest_has_hung(looks: list[tuple[bool | None, float]], over: list[bool]) -> None:
    """Nothing heard for more than 20 s; but what could not be seen, and a look that came late, is not held against it."""
    patience = Patience(20.0, 0.0)
    assert patience.step == 5.0
    assert [patience.over(heard, now) for heard, now in looks] == over


def test_signs_of_life_on_the_share(tmp_path: Path) -> None:
    ear = ShareEar(str(tmp_path), TOKEN, local=True)
    beat = tmp_path / "heartbeat"
    assert not ear.heard()
    for text, heard in ((f"vmbatch 1 heartbeat {TOKEN} 1\n", True), (f"vmbatch 1 heartbeat {TOKEN} 1\n", False),
                        (f"vmbatch 1 heartbeat {TOKEN} 2", False), (f"vmbatch 1 heartbeat {TOKEN} 2\n", True), ("", False),
                        (f"vmbatch 1 heartbeat {OTHER_TOKEN} 3\n", False), (f"vmbatch 1 ready {TOKEN} 10.0.0.5\n", False),
                        ("x" * 100_000, False)):
        beat.write_text(text)
        assert ear.heard() == heard, text[:80]
    beat.unlink()
    os.mkfifo(beat)
    assert not ear.heard()
    beat.unlink()
    beat.symlink_to("/dev/zero")
    assert not ear.heard()


@pytest.mark.parametrize("wrong", [UnreachableError("the share does not answer"), OSError(errno.EIO, "x")])
def test_a_share_that_does_not_answer_is_no_silence_of_the_guest(monkeypatch: pytest.MonkeyPatch, wrong: Exception) -> None:
    def silent(*_: object) -> None:
        raise wrong

    monkeypatch.setattr("vmbatch.host.distant.call", silent)
    with pytest.raises(type(wrong)):
        ShareEar("/share", TOKEN, local=False).heard()


def test_the_message() -> None:
    assert parse_message(f"vmbatch 1 heartbeat {TOKEN} 7\n".encode(), TOKEN) == Message("heartbeat", text="7")


def record(guest: Mark | None) -> Handover:
    return Handover(job="42.vm", token=TOKEN, user="alice", uid=1500, address="10.0.0.5", alias="a", console="", template="t",
                    script=None, node_file=False, environment={}, guest=guest)


def test_the_guests_process_in_the_record() -> None:
    again = decode(record(Mark(42, 4711)).encode()).guest
    assert again is not None
    assert (again.pid, again.started) == (42, 4711)
    assert decode(record(None).encode()).guest is None


def test_a_guest_that_is_there(tmp_path: Path) -> None:
    me = Mark(os.getpid(), clock.started(os.getpid()) or 0)
    guest = Guest(str(tmp_path), record(me))
    assert (guest.descriptor >= 0, guest.ended(), guest.ended(0.01)) == (True, False, False)
    os.close(guest.descriptor)
    assert not Guest(str(tmp_path), record(None)).ended()


@pytest.mark.parametrize("mark", [Mark(os.getpid(), 1), Mark(2**22 + 1, 1)], ids=["another process has its number", "gone"])
def test_a_guest_that_is_gone(tmp_path: Path, mark: Mark) -> None:
    guest = Guest(str(tmp_path), record(mark))
    assert (guest.descriptor, guest.ended()) == (-1, True)


def test_what_the_user_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guest = Guest(str(tmp_path), record(Mark(2**22 + 1, 1)))
    assert guest.judge() == ENDED == 253
    assert capfd.readouterr().err == ("vmbatch: the job's guest has ended before its job: it has crashed, was shut down from "
                                      "inside, or was ended on the node [VB802]\n")
    verdict = tmp_path / "verdict"
    verdict.write_text("the node has ended the job's guest\n")
    assert guest.judge() == ENDED_HERE == 252
    assert capfd.readouterr().err == "vmbatch: the node has ended the job's guest [VB802]\n"
    verdict.chmod(0o666)
    assert guest.judge() == ENDED, "only root's word counts"


@pytest.mark.parametrize(("log", "said"), [
    (b"2026: starting up\n2026: shutting down, reason=shutdown\n", "it was shut down from inside"),
    (b"shutting down, reason=shutdown\nshutting down, reason=crashed\n",
     "it or its QEMU has crashed, or its watchdog has fired"),
    (b"shutting down, reason=destroyed\n", ""), (b"shutting down, reason=magic\n", ""), (b"", ""), (None, ""),
])
def test_how_qemu_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: bytes | None, said: str) -> None:
    """As libvirtd's log of a guest says it; what we do ourselves is no news."""
    if log is not None:
        (tmp_path / "guest.log").write_bytes(b"x" * 5000 + b"\n" + log)
    monkeypatch.setitem(virtend._LOGS, "qemu:///system", str(tmp_path))
    monkeypatch.setattr(virt, "find", lambda uri, uuid: None)
    assert virtend.trouble("qemu:///system", "guest", "uuid") == said
    assert virtend.trouble("xen:///system", "guest", "uuid") == ""


class Paused:
    """A domain of libvirt's, as far as it is asked."""

    def __init__(self, reason: int, errors: dict[str, int]) -> None:
        self.reason = reason
        self.errors = errors

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_PAUSED, self.reason]

    def diskErrors(self, flags: int) -> dict[str, int]:
        return self.errors


@pytest.mark.parametrize(("reason", "errors", "said"), [
    (libvirt.VIR_DOMAIN_PAUSED_IOERROR, {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE, "vdb": 1},
     "it is paused by an I/O error of the node: the node has no space left for its disk vda"),
    (libvirt.VIR_DOMAIN_PAUSED_IOERROR, {"vda": 1}, "it is paused by an I/O error of the node"),
    (libvirt.VIR_DOMAIN_PAUSED_WATCHDOG, {}, "it is paused by its watchdog, as it had hung"),
    (libvirt.VIR_DOMAIN_PAUSED_CRASHED, {}, "it is paused, as its kernel has died"),
    (libvirt.VIR_DOMAIN_PAUSED_UNKNOWN, {}, "it is paused"),
])
def test_a_guest_paused_by_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, reason: int, errors: dict[str, int], said: str,
) -> None:
    """And for other reasons."""
    monkeypatch.setattr(virt, "find", lambda uri, uuid: Paused(reason, errors))
    assert virtend.trouble("qemu:///system", "guest", "uuid") == said


def test_trouble_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(uri: str, uuid: str) -> None:
        raise NodeError("libvirt does not answer")

    monkeypatch.setattr(virt, "find", silent)
    assert virtend.trouble("qemu:///system", "guest", "uuid") == ""
