"""What becomes of a job that could not start: by whose fault, how often before, and with programs that do not do their work."""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbatch.batch import failures, remedy, torquefault
from vmbatch.batch.system import Call, Outcome, Refusal
from vmbatch.batch.torque import Torque
from vmbatch.config import Config, parse
from vmbatch.errors import EndedError, Fault, JobError, NodeError, SisterError, SiteError, VmBatchError
from vmbatch.host import clock
from vmbatch.host.log import Log
from vmbatch.units import Deadline

from .clients import Clients

BACK = "the job goes back into its queue"


@pytest.fixture(autouse=True)
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(failures, "PATH", str(tmp_path / "state/failures"))
    monkeypatch.setattr(clock, "age", lambda _: 1.0)
    return tmp_path / "state/failures"


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Where only root can change them, as the product asks."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-clients-", dir="/var/lib") as place:
        Path(place).chmod(0o755)
        yield Clients(Path(place))


@pytest.fixture
def mom(tmp_path: Path) -> Path:
    (tmp_path / "mom_priv").mkdir()
    (tmp_path / "mom_priv/config").write_text("$prologalarm 300\n$job_starter /opt/vmbatch/hooks/remoteshell\n")
    return tmp_path / "mom_priv"


Fail = Callable[..., Outcome]


@pytest.fixture
def fail(mom: Path, clients: Clients, tmp_path: Path) -> Fail:
    """One failed start, by settings of [torque]."""

    def fail(error: VmBatchError, settings: str = "", *, job: str = "42.vm", script: str = "", host: str = "node7",
             number: str = "0", user: str = "root") -> Outcome:
        config = parse(f'[torque]\nprograms = "{clients.directory}"\n{settings}\n'.encode(), "x")
        environ = {"PBS_MSHOST": host, "PBS_NODENUM": number}
        call = Call(["prologue", job, user, "root", "name", "nodes=1", "vm", "", script], environ, str(mom))
        return Torque().failed(error, call, config, Log(str(tmp_path / "log"), "42.vm", "prologue"))

    return fail


def logged(tmp_path: Path) -> str:
    path = tmp_path / "log/42.vm.log"
    return path.read_text() if path.exists() else ""


def test_by_default_a_row_of_failures_is_slowed_down(fail: Fail, clients: Clients) -> None:
    """Two may be a mishap; from the third on the job is kept for half a minute, whatever job it is."""
    for number, job in enumerate(["42.vm", "43.vm", "44.vm", "42.vm"]):
        assert fail(NodeError("x"), job=job) == Outcome(2, BACK, 30.0 if number >= 2 else 0.0)
    assert clients.calls() == []


def test_a_job_that_fails_on_and_on_is_held(fail: Fail, clients: Clients) -> None:
    for _ in range(2):
        assert fail(SiteError("no template", "write one"), 'site_fault = "hold"') == Outcome(2, BACK)
    assert fail(SiteError("other"), 'site_fault = "hold"', job="43.vm") == Outcome(2, BACK, 30.0), "another job's first failure"
    assert clients.calls() == []
    held = fail(SiteError("no template, no domain=\"x\""), 'site_fault = "hold"')
    assert held == Outcome(2, "the job is held until an administrator releases it (qrls -h s 42.vm)")
    assert clients.calls() == [["qhold", "-h", "s", "42.vm"],
                               ["qalter", "-W", "Comment=VmBatch on node7: no template; no domain: x", "42.vm"]]


def test_a_node_that_fails_all_jobs_is_taken_off_line(fail: Fail, clients: Clients, tmp_path: Path) -> None:
    for job in ("42.vm", "43.vm"):
        assert fail(NodeError("the disk is full"), 'node_fault = "offline"', job=job).pause == 0
    assert fail(SiteError("x"), 'node_fault = "offline"') == Outcome(2, BACK, 30.0), "not the node's fault"
    assert clients.calls() == []
    assert fail(NodeError("the disk is full"), 'node_fault = "offline"', job="45.vm") == Outcome(
        2, "the job goes back into its queue, and this node takes no more jobs")
    assert clients.calls() == [["pbsnodes", "-o", "-N", "VmBatch on node7: the disk is full", "node7"]]
    assert "took this node off-line after 3 failed starts; pbsnodes -c node7 brings it back" in logged(tmp_path)


def suspect(image: str) -> NodeError:
    error = NodeError("the guest was not ready within 240 s")
    error.suspect = image
    return error


@pytest.mark.parametrize(("starts", "calls"), [
    ([("root", "a")] * 9, 0), ([("root", "a"), ("nobody", "a")] * 5, 0), ([("root", "a"), ("root", "b")] * 5, 0),
    ([("root", "a"), ("nobody", "b"), ("root", "a")], 1),
    ([("root", "a"), ("root", ""), ("root", "")], 0), ([("root", "a"), *[("root", "")] * 3], 1),
])
def test_one_image_or_one_user_never_costs_a_node(fail: Fail, clients: Clients, starts: list[tuple[str, str]],
                                                  calls: int) -> None:
    """But guests of several images and several users that do not start, and whatever comes before the image, do."""
    for user, image in starts:
        fail(suspect(image), 'node_fault = "offline"', user=user)
    assert len(clients.calls()) == calls


def test_a_sister_takes_itself_off_line_and_not_the_first_node(fail: Fail, clients: Clients) -> None:
    """Of two nodes of a job, the one that is at fault; mom tells it the other one's name."""
    settings = 'node_fault = "offline"\nfailures = 1'
    for _ in range(2):
        assert fail(SisterError("node node8: the disk is full", fault=Fault.NODE), settings).text == BACK
    assert clients.calls() == []
    fail(NodeError("the disk is full"), settings, number="1")
    me = os.uname().nodename
    assert clients.calls() == [["pbsnodes", "-o", "-N", f"VmBatch on {me}: the disk is full", me]]


def test_failures_of_sisters_count_for_the_job_alone(fail: Fail, clients: Clients) -> None:
    for _ in range(2):
        fail(SisterError("node node8: x", fault=Fault.NODE), 'node_fault = "offline"')
    assert fail(NodeError("x"), 'node_fault = "offline"') == Outcome(2, BACK, 30.0)
    assert clients.calls() == []
    held = fail(SisterError("node node8: x", fault=Fault.NODE), 'node_fault = "hold"')
    assert held == Outcome(2, "the job is held until an administrator releases it (qrls -h s 42.vm)")


@pytest.mark.parametrize("settings", ['node_fault = "offline"\nsite_fault = "offline"\nfailures = 0',
                                      'node_fault = "hold"\nsite_fault = "hold"\nfailures = 1'])
def test_a_users_fault_never_costs_a_node_or_holds_others(fail: Fail, clients: Clients, counted: Path, settings: str) -> None:
    for _ in range(5):
        assert fail(JobError("no"), f'{settings}\njob_fault = "abort"') == Outcome(1, "the job is aborted")
    assert clients.calls() == []
    assert not counted.exists()


@pytest.mark.parametrize("settings", ['node_fault = "offline"\nfailures = 1', 'node_fault = "hold"\nfailures = 1', ""])
def test_a_job_that_was_deleted_gets_no_remedy(fail: Fail, clients: Clients, counted: Path, settings: str) -> None:
    for _ in range(4):
        assert fail(EndedError("over"), settings) == Outcome(2, BACK)
    assert clients.calls() == []
    assert not counted.exists()


@pytest.mark.parametrize(("remedy_of", "program", "act", "said"), [
    ("hold", "qhold", "echo 'qhold: Unauthorized Request  42.vm' >&2; exit 159",
     r"could not hold the job: \S+/qhold failed with exit status 159: qhold: Unauthorized Request  42.vm"),
    ("offline", "pbsnodes", "echo 'Error marking node node7 - Unauthorized Request' >&2",
     r"could not take the node off-line: \S+/pbsnodes: Error marking node node7 - Unauthorized Request"),
    ("offline", "pbsnodes", "echo 'pbsnodes: cannot connect to server vm, error=15137 (could not connect to trqauthd)'; exit 1",
     r"could not take the node off-line: \S+/pbsnodes failed with exit status 1: .*could not connect to trqauthd"),
    ("hold", "qhold", "exec sleep 60", r"could not hold the job: \S+/qhold did not end in time"),
    ("hold", "qhold", "kill -9 $$", r"could not hold the job: \S+/qhold was killed by signal 9"),
    ("offline", "pbsnodes", "head -c 200000 /dev/zero | tr '\\0' x", r"could not take the node off-line: \S+/pbsnodes: x{300}\n"),
])
def test_programs_that_do_not_do_it(fail: Fail, clients: Clients, tmp_path: Path, remedy_of: str, program: str, act: str,
                                    said: str) -> None:
    """The job goes back into its queue, and the storm is stopped all the same."""
    clients.set(program, act)
    found = fail(NodeError("x"), f'node_fault = "{remedy_of}"\nfailures = 1\npatience = "300ms"')
    assert found == Outcome(2, BACK, 30.0)
    assert re.search(said, logged(tmp_path)), logged(tmp_path)


def test_programs_that_are_not_there(fail: Fail, clients: Clients, tmp_path: Path) -> None:
    (clients.directory / "qhold").unlink()
    assert fail(NodeError("x"), 'node_fault = "hold"\nfailures = 1') == Outcome(2, BACK, 30.0)
    assert f"could not hold the job: {clients.directory}/qhold: No such file or directory" in logged(tmp_path)


def test_programs_that_others_can_change_are_not_run(fail: Fail, clients: Clients, tmp_path: Path) -> None:
    (clients.directory / "pbsnodes").chmod(0o777)
    assert fail(NodeError("x"), 'node_fault = "offline"\nfailures = 1') == Outcome(2, BACK, 30.0)
    assert "pbsnodes can be changed by others than root (mode 0777)" in logged(tmp_path)
    assert clients.calls() == []


def test_a_comment_that_cannot_be_set(fail: Fail, clients: Clients, tmp_path: Path) -> None:
    clients.set("qalter", "echo 'qalter: Unauthorized Request' >&2; exit 1")
    assert fail(NodeError("x"), 'node_fault = "hold"\nfailures = 1').text.startswith("the job is held until")
    assert "the job is held, but its comment does not say why" in logged(tmp_path)


@pytest.mark.parametrize("host", ["-x", "a b", "", "../x", "x" * 300, "n\nn"])
def test_a_node_name_that_is_none(fail: Fail, clients: Clients, host: str) -> None:
    """Without one the node's own is taken."""
    fail(NodeError("x"), 'node_fault = "offline"\nfailures = 1', host=host)
    assert clients.calls() == ([] if host else
                               [["pbsnodes", "-o", "-N", f"VmBatch on {os.uname().nodename}: x", os.uname().nodename]])


@pytest.mark.parametrize("job", ["-h", "", "../42", "42.vm\n", "a;b"])
def test_a_job_id_that_is_none(fail: Fail, clients: Clients, job: str) -> None:
    assert fail(NodeError("x"), 'node_fault = "hold"\nfailures = 1', job=job) == Outcome(2, BACK, 30.0)
    assert fail(JobError("x"), 'job_fault = "hold"', job=job) == Outcome(1, "the job is aborted")
    assert clients.calls() == []


@pytest.mark.parametrize("argv", [[], ["prologue"], ["prologue", "42.vm"]])
def test_too_few_arguments(argv: list[str], mom: Path) -> None:
    config = parse(b"", "x")
    assert Torque().failed(NodeError("x"), Call(argv, {}, str(mom)), config, None).status == 2
    assert Torque().failed(JobError("x"), Call(argv, {}, str(mom)), config, None) == Outcome(1, "the job is aborted")


@pytest.mark.parametrize(("text", "plain"), [
    ("a, b=c, d=e", "a; b:c; d:e"),
    ("quotes \"x\" 'y' `z` \\", "quotes x y z"),
    ("lines\nand\ttabs \x1b[31mred\x00", "lines and tabs [31mred"),
    ("ümlaut – dash", "mlaut dash"),
    ("x" * 300, "x" * 200),
    ("trailing, ", "trailing;"),
    ("-N starts so", "-N starts so"),
])
def test_a_reason_is_what_torque_keeps(text: str, plain: str) -> None:
    assert remedy.plain(text) == plain


def test_a_users_fault_is_told_where_no_other_shell_can_run(fail: Fail, mom: Path, tmp_path: Path) -> None:
    script = tmp_path / "42.vm.SC"
    script.write_text("#!/bin/sh\n")
    found = fail(JobError("not allowed"), script=str(script))
    assert (found.status, found.text) == (1, "the job is aborted"), "if it cannot be told"
    assert isinstance(found.refusal, Refusal)
    assert found.refusal.script is not None
    assert (found.refusal.user, found.refusal.script.path) == ("root", str(script))
    for config in ("", "$prologalarm 300\n", "#$job_starter /x/remoteshell\n", "$job_starter /x/other\n",
                   "$job_starter /x/remoteshell\n$job_starter /x/other\n"):
        (mom / "config").write_text(config)
        assert fail(JobError("not allowed"), script=str(script)) == Outcome(1, "the job is aborted"), config
    (mom / "config").unlink()
    assert fail(JobError("not allowed"), script=str(script)) == Outcome(1, "the job is aborted")


def test_an_interactive_jobs_fault_is_told_by_its_prologue(fail: Fail, tmp_path: Path) -> None:
    """qsub -I shows what its prologue says, and there is no script."""
    assert fail(JobError("not allowed"), script=str(tmp_path / "none.SC")) == Outcome(1, "the job is aborted")


def test_a_users_fault_can_hold_the_job(fail: Fail, clients: Clients, tmp_path: Path) -> None:
    found = fail(JobError("not allowed, alas"), 'job_fault = "hold"')
    assert found == Outcome(2, "the job is held; qrls 42.vm lets it start again, qdel 42.vm removes it")
    assert clients.calls() == [["qhold", "-h", "u", "42.vm"], ["qalter", "-W", "Comment=not allowed; alas", "42.vm"]]
    clients.set("qhold", "exit 1")
    assert fail(JobError("not allowed"), 'job_fault = "hold"') == Outcome(1, "the job is aborted")


def test_failures_are_forgotten_in_time(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        failures.note("42.vm", NodeError("x"), 600)
    now += 601
    assert [failure.job for failure in failures.note("43.vm", NodeError("x"), 600)] == ["43.vm"]
    now -= 10_000  # a clock that was set back
    assert [failure.job for failure in failures.note("44.vm", SiteError("x"), 600)] == ["44.vm"]
    assert counted.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [b"", b"\n", b"nonsense\n", b"[1,2,3]\n", b"\xff\xfe", b'[1e999,"x","node"]\n', b"[" * 100_000])
def test_a_count_that_cannot_be_read_starts_anew(counted: Path, text: bytes) -> None:
    counted.parent.mkdir(parents=True)
    counted.write_bytes(text)
    assert [failure.job for failure in failures.note("42.vm", NodeError("x"), 600)] == ["42.vm"]
    assert [failure.job for failure in failures.note("43.vm", NodeError("x"), 600)] == ["42.vm", "43.vm"]


def test_the_count_is_bounded(counted: Path) -> None:
    counted.parent.mkdir(parents=True)
    counted.write_bytes(b"".join(b'[%f,"%d.vm","node"]\n' % (time.time(), number) for number in range(2000)))
    assert len(failures.note("42.vm", NodeError("x"), 600)) == 1000


def test_a_node_that_cannot_count_stops_the_storm(fail: Fail, counted: Path) -> None:
    counted.parent.mkdir(parents=True)
    counted.mkdir()
    assert fail(NodeError("x")) == Outcome(2, BACK, 30.0)


def test_a_pause_ends_before_the_alarm(fail: Fail, mom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mom / "config").write_text("$prologalarm 30\n")
    monkeypatch.setattr(clock, "age", lambda _: 10.0)
    found = fail(NodeError("x"), "failures = 1")
    assert 7 < found.pause <= 8
    monkeypatch.setattr(clock, "age", lambda _: 100.0)
    assert fail(NodeError("x"), 'failures = 1\nnode_fault = "hold"') == Outcome(2, BACK, 0.0), "no time for anything"


def test_nothing_is_raised(mom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the hook knows its exit status."""
    config: Config = parse(b"", "x")
    monkeypatch.setattr(failures, "note", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    call = Call(["prologue", "42.vm"], {}, str(mom))
    assert torquefault.failed(NodeError("x"), call, config, None, Deadline(100)) == Outcome(2, BACK, 30.0)
