"""Errors that the outside causes, made without it: each with the code under which the catalogue has it."""

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import requests

from tests.pure.sample import TOKEN, job, settings
from vmbatch import boot, command, endmarker, facts, grant, hooked, journal, lifecycle, pool, release
from vmbatch.boot import Wait
from vmbatch.bootloader import load
from vmbatch.bootloader.command import arguments
from vmbatch.errors import CommandError, NodeError, VmBatchError
from vmbatch.exchange.channel import open_port
from vmbatch.exchange.export import Export
from vmbatch.guest import Message
from vmbatch.guestdisk import fat
from vmbatch.guestdisk.files import File, check
from vmbatch.handover import Handover
from vmbatch.host import console, http, nft, process, virt
from vmbatch.host.log import Log
from vmbatch.image import own, transfer
from vmbatch.image.terms import terms
from vmbatch.shell.guest import Guest
from vmbatch.template import ImageSource
from vmbatch.units import Deadline

TEST = "test:///default"
"""libvirt's driver for tests, which runs in this process."""
URL = "http://images.example/a.qcow2"


def raiser(error: BaseException) -> Callable[..., NoReturn]:
    def act(*_words: object, **_named: object) -> NoReturn:
        raise error

    return act


@pytest.mark.error("VB302")
def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VmBatchError, match=rf"the image {tmp_path}/a\.raw: No such file or directory"):
        facts.judged(ImageSource((f"{tmp_path}/a.raw",), "cow", "raw", "", None, "qcow2"))


@pytest.mark.error("VB207")
def test_a_site_that_keeps_nothing() -> None:
    form: Any = SimpleNamespace(requests={"vbkeep": 3600.0}, lifetime=None)
    with pytest.raises(VmBatchError, match="this site keeps nothing of failed jobs"):
        grant._keep(job(wishes={"vbkeep": "1h"}), form, settings())


def explained(error: Exception, *, answered: bool = False) -> VmBatchError:
    return http._explain(error, URL, answered, http.Access())


@pytest.mark.error("VB304")
def test_a_server_without_the_image() -> None:
    assert http.StatusError(URL, 404).lines() == [f"{URL}: the server answers 404 (correct the URL)"]
    assert explained(requests.exceptions.ConnectTimeout()).code == "VB304"


@pytest.mark.error("VB305")
def test_a_server_that_falls_silent() -> None:
    assert explained(TimeoutError(), answered=True).what == f"{URL}: the server has sent nothing for 30 s"


@pytest.mark.error("VB306")
def test_a_server_that_nobody_vouches_for() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed"
    assert explained(error).what == f"{URL}: the server's certificate is not trusted: self-signed"


@pytest.mark.error("VB307")
def test_a_place_that_is_not_allowed() -> None:
    with pytest.raises(VmBatchError, match="images may not come from there"):
        http.open_url(URL, {}, http.Access(), allowed=("https://elsewhere.example/",), deadline=Deadline(1), alive=lambda: None)


@pytest.mark.error("VB309")
def test_a_users_image_that_its_server_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fetch", raiser(http.StatusError(URL, 404)))
    agreed = terms(settings())
    store: Any = SimpleNamespace(incoming=lambda *words: "/x")
    work: Any = SimpleNamespace(deadline=Deadline(1), alive=None, say=lambda text: None, progress=None)
    with pytest.raises(VmBatchError, match="the server answers 404") as caught:
        own._fetch(ImageSource((URL,), "cow", "qcow2", "", None, "qcow2"), "/x", store, "key", None, agreed, work)
    assert caught.value.fault.value == "job", "another node would not help"


@pytest.mark.error("VB403")
def test_a_file_that_no_guest_can_have() -> None:
    with pytest.raises(VmBatchError, match="the guest's disk cannot get a file 'relative'"):
        check([File("relative", 0o644)])


@pytest.mark.error("VB405")
def test_a_spool_that_is_full() -> None:
    disk: Any = object.__new__(fat.Fat)
    disk._run = raiser(CommandError(["mcopy"], 1, "plain_io: No space left on device"))
    with pytest.raises(VmBatchError, match="a job's disk cannot be written to: mcopy failed with exit status 1"):
        disk._do("mcopy")


@pytest.mark.error("VB603")
def test_filters_that_nft_does_not_make(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VmBatchError, match=r"nft did not change the guest's network filter: Error: .*: no rules$"):
        nft.check("no rules\n")
    with pytest.raises(VmBatchError, match=r"nft did not list nothing: Error: .*"):
        nft.listed("nothing")
    monkeypatch.setattr(process, "find", lambda name: None)
    with pytest.raises(VmBatchError, match="nft is not on this node"):
        nft.check("")
    assert nft.listed("tables") == []


def test_nft_has_its_time_however_long_the_work_beside_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    def patience(seconds: float) -> Deadline:
        begun.append(seconds)
        return Deadline(seconds)

    monkeypatch.setattr(process, "patience", patience)
    with nft.applying("") as finish:
        assert begun == []
        finish()
    assert begun == [nft._SECONDS]


@pytest.mark.error("VB607")
def test_an_export_for_another_protocol() -> None:
    with pytest.raises(VmBatchError, match="exports are for IPv4, and the guest has fd00::1"):
        Export("/srv/x", TOKEN, "fd00::1", TOKEN, 1500, 1500).acquire()


@pytest.mark.error("VB702")
def test_a_domain_that_libvirt_refuses() -> None:
    with pytest.raises(VmBatchError, match="libvirt did not start the guest: "):
        virt.create(TEST, "<domain type='test'/>")


@pytest.mark.error("VB703")
def test_a_console_that_libvirt_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virt, "running_xml", lambda uri, uuid: "<domain/>")
    with pytest.raises(VmBatchError, match="libvirt has given the guest no socket for its messages"):
        open_port(TEST, TOKEN, TOKEN)


def waiting(monkeypatch: pytest.MonkeyPatch, *, failed: str = "", state: str = "running", panic: str | None = None,
            seconds: float = 9.0) -> Wait:
    """A wait for a guest of which this is known."""
    wait: Any = object.__new__(Wait)
    wait.chosen = SimpleNamespace(domain=SimpleNamespace(uri=TEST, uuid=TOKEN), console="/x")
    wait.start = wait.meeting = wait.follower = None
    wait.pins = SimpleNamespace(look=lambda: None)
    wait.inbox = SimpleNamespace(read=lambda kind: Message(kind, text=failed) if failed else None)
    wait.seconds, wait.deadline = 240.0, Deadline(seconds)
    monkeypatch.setattr(endmarker, "check_not_ended", lambda start: None)
    monkeypatch.setattr(virt, "state", lambda uri, uuid: state)
    monkeypatch.setattr(console, "panic", lambda path: panic)
    return wait  # type: ignore[no-any-return]


@pytest.mark.error("VB704")
def test_a_guest_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VmBatchError, match=r"^the guest was not ready within 240 s \(phase boot\)$"):
        waiting(monkeypatch, seconds=0.0).check("phase boot")


@pytest.mark.error("VB705")
def test_a_guest_whose_kernel_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VmBatchError, match=r"^the guest's kernel died before the guest was ready \(phase boot\): no root$"):
        waiting(monkeypatch, panic="no root").check("phase boot")


@pytest.mark.error("VB706")
def test_a_guest_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VmBatchError, match=r"^the guest ended before it was ready \(phase boot\): its domain is gone$"):
        waiting(monkeypatch, state="gone").check("phase boot")


@pytest.mark.error("VB707")
def test_a_guest_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VmBatchError, match=r"^the guest could not prepare itself for the job: no mount$"):
        waiting(monkeypatch, failed="no mount").check("phase boot")


@pytest.mark.error("VB708")
def test_a_user_whom_the_console_does_not_let_in() -> None:
    wait: Any = SimpleNamespace(chosen=SimpleNamespace(job=job(), console_shell="hvc0"), until=lambda look, what: look())
    terminal: Any = SimpleNamespace(login=SimpleNamespace(poll=lambda: 5))
    with pytest.raises(VmBatchError, match=r"^alice cannot log in through the guest's console: status 5$"):
        boot._log_in_there(wait, terminal)


@pytest.mark.error("VB711")
def test_a_disk_that_leads_its_reader_astray() -> None:
    with pytest.raises(VmBatchError, match="the guest's disk has led its reader astray"):
        load._judged(b"no answer", None)  # type: ignore[arg-type]


@pytest.mark.error("VB712")
def test_a_boot_loader_with_unknown_options() -> None:
    with pytest.raises(VmBatchError, match="--none is no option of pygrub-vmbatch"):
        arguments(["--none", "disk"])


@pytest.mark.error("VB802")
def test_a_guest_that_is_lost_under_its_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = Handover(job="42.vm", token=TOKEN, user="alice", uid=1500, address="192.0.2.1", alias="a", console="", template="",
                      script=None, node_file=False, environment={})
    assert Guest(str(tmp_path), record).judge() == 253
    assert capfd.readouterr().err == ("vmbatch: the job's guest has ended before its job: it has crashed, was shut down from "
                                      "inside, or was ended on the node [VB802]\n")


@pytest.mark.error("VB903")
def test_an_alarm_that_leaves_no_time() -> None:
    with pytest.raises(VmBatchError, match=r"^mom kills a prologue after 10 s, and \[timeouts\] margin keeps 15 s of that$"):
        lifecycle._deadline(10.0, settings())


@pytest.mark.error("VB907")
def test_a_journal_that_nobody_understands(tmp_path: Path) -> None:
    path = tmp_path / "42.vm.journal"
    path.write_text("not json\n")
    with pytest.raises(NodeError, match="cannot be understood"):
        journal.peek(str(path))


@pytest.mark.error("VB912")
def test_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(lifecycle, "leave_note", lambda *words: told.append(words[-1]))
    lifecycle.excuse("42.vm", TOKEN, ZeroDivisionError(), settings())
    assert [str(each) for each in told] == ["a defect in VmBatch; the node's log has the details"]


@pytest.mark.error("VB913")
def test_a_site_hook_that_dies(tmp_path: Path) -> None:
    hook = tmp_path / "prologue.site"
    hook.write_text("#!/bin/sh\nkill -9 $$\n")
    hook.chmod(0o700)
    with pytest.raises(VmBatchError, match=rf"^the site's hook {hook} died of signal 9$"):
        hooked._run_site_hook(str(hook), {"stdout": subprocess.DEVNULL})


@pytest.mark.error("VB914")
def test_a_job_that_is_not_there_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(endmarker, "DIRECTORY", str(tmp_path / "run" / "ended"))
    monkeypatch.setattr(pool, "DIRECTORY", str(tmp_path / "run" / "pool"))
    with pytest.raises(VmBatchError, match=r"^job 42\.vm has no guest on this node$"):
        release.end_and_keep("42.vm", 60.0, "why", settings(), Log(None, "42.vm", "keep"))


def test_the_two_lines_of_a_failure() -> None:
    """What failed and why; what becomes of it, with the code; what else is known behind that."""
    error = NodeError("libvirt does not answer", "start it", code="VB701", detail=("more",))
    assert lifecycle.end_lines(error, "42[1].vm", "the job goes back into its queue") == [
        "job 42-1.vm could not start: libvirt does not answer (start it)", "the job goes back into its queue [VB701]", "more"]
    assert lifecycle.end_lines(error, "42.vm", "")[0].endswith("(start it) [VB701]")
    assert command.lines(error) == ["the command could not run: libvirt does not answer (start it)",
                                    "nothing is left of its guest [VB701]", "more"]


def test_a_code_goes_with_its_error_through_another_process() -> None:
    from vmbatch.host import distant

    def act() -> int:
        raise NodeError("no", code="VB906")

    with pytest.raises(NodeError) as caught:
        distant.call(os.path.dirname(__file__), act, int)
    assert caught.value.code == "VB906"
