"""Torque's hooks: arguments as reference/torque.md measured them, the alarm, exit statuses."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from vmbatch.batch import failures
from vmbatch.batch.account import parse_user
from vmbatch.batch.script import identify, is_gone
from vmbatch.batch.system import Call, Outcome
from vmbatch.batch.torque import Torque
from vmbatch.config import parse as parse_config
from vmbatch.errors import EndedError, JobError, NodeError, SiteError, VmBatchError
from vmbatch.job import Group, Job, Script

from .sample import TOKEN, user


def parse(argv: list[str], environ: dict[str, str], job_directory: str | None) -> Job:
    return Torque().parse(Call(argv, environ, "/mom_priv"), TOKEN, job_directory)


def alarm(directory: Path) -> float:
    return Torque().alarm(Call([], {}, str(directory)), parse_config(b"", "x"))

PASSWD = {
    "alice": pwd.struct_passwd(("alice", "x", 1500, 100, "", "/home/alice", "/bin/bash")),
    "bare": pwd.struct_passwd(("bare", "x", 1501, 100, "", "", "")),
}
GROUPS = {"users": 100, "alice": 1500, "physics": 1600, "domain users": 1700, "a:b": 1701}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {gid: name for name, gid in GROUPS.items()}
    monkeypatch.setattr(pwd, "getpwnam", PASSWD.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", GROUPS[name], [])))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((names[gid], "x", gid, [])))
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 1600, 1500, 1700, 1701, 4711])


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "183.vm.SC"
    path.write_text("#!/bin/sh\n")
    os.chown(path, 1500, 1500)
    return path


def argv(script: Path | str, **changed: str) -> list[str]:
    words = {
        "job": "183.vm",
        "user": "alice",
        "group": "alice",
        "name": "first",
        "resources": "nodes=1:ppn=2",
        "queue": "vm",
        "account": "",
    }
    return ["/var/spool/torque/mom_priv/prologue", *(words | changed).values(), str(script)]


def identity(path: Path) -> Script:
    status = path.stat()
    return Script(str(path), status.st_dev, status.st_ino, status.st_mtime_ns)


def test_prologue(script: Path) -> None:
    resources = "nodes=1:ppn=2,mem=512mb,walltime=00:10:00,other=vmbuserimage=http://host/image.qcow2,neednodes=1:ppn=2"
    found = parse(argv(script, resources=resources, account="acct1"), {}, None)
    assert (found.id, found.token, found.name, found.queue, found.account) == ("183.vm", TOKEN, "first", "vm", "acct1")
    assert (found.resources, found.script, found.node_file) == (resources, identity(script), None)
    assert found.user.name == "alice"
    assert found.user.uid == 1500
    assert found.user.group == Group("alice", 1500), "the group is the job's, not the account's primary one"


def test_node_file(script: Path, tmp_path: Path) -> None:
    """Only mom's own: the name comes from the environment."""
    path = tmp_path / "183.vm"
    path.write_text("node\n")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hers").touch()
    os.chown(tmp_path / "hers", 1500, 1500)
    spelled = f"{tmp_path}//183.vm"
    assert parse(argv(script), {"PBS_NODEFILE": spelled}, None).node_file == spelled
    for none in ("", "/", str(tmp_path / "link"), str(tmp_path / "hers"), str(tmp_path / "none"), str(tmp_path)):
        assert parse(argv(script), {"PBS_NODEFILE": none}, None).node_file is None


def test_untrusted_text_is_only_kept(script: Path) -> None:
    name, account = "n;$(id)`x`\x1b[31m", "a'b\"c\n"
    found = parse(argv(script, name=name, account=account), {}, None)
    assert (found.name, found.account, found.node_file) == (name, account, None)


def test_array_member(script: Path) -> None:
    """Its script file has another name than the job: `42[1].vm`, `42-1.vm.SC`."""
    path = script.rename(script.with_name("42-1.vm.SC"))
    for words in (argv(path, job="42[1].vm"), argv("", job="42[1].vm"), argv(path, job="42[1].vm")[:8]):
        found = parse(words, {}, str(path.parent))
        assert found.slug == "42-1.vm"
        assert found.script == identity(path)


def test_interactive_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is given even where there is no such file; the prologue's output is the submitter's terminal."""
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    assert parse(argv(tmp_path / "183.vm.SC"), {}, None).script is None


@pytest.mark.error("VB901")
def test_a_script_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mom has removed it: the job is over, and gets no guest that nobody would ever end."""
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    with pytest.raises(EndedError, match=r"job 183\.vm has no script any more"):
        parse(argv(tmp_path / "183.vm.SC"), {}, None)
    assert parse(argv(tmp_path / "183.vm.SC"), {"PBS_NODENUM": "1"}, None).script is None, "a sister has none"


@pytest.mark.parametrize(("hook", "rank", "expected"), [
    ("prologue", "0", ""), ("prologue.kvm", "0", "kvm"), ("prologue.user", "0", "user"), ("prologue.parallel", "0", "parallel"),
    ("prologue.parallel", "1", ""), ("prologue.parallel.kvm", "1", "kvm"), ("prologue.a b", "0", ""), ("prologue.", "0", ""),
    ("prologue..x", "0", ""), ("prologue." + "x" * 65, "0", ""), ("other", "0", ""),
])
def test_job_type(script: Path, hook: str, rank: str, expected: str) -> None:
    """`qsub -T kvm` makes mom run prologue.kvm, where there is one."""
    words = argv(script)
    words[0] = f"/var/spool/torque/mom_priv/{hook}"
    assert parse(words, {"PBS_NODENUM": rank}, None).type == expected


def test_no_script_path_anywhere() -> None:
    assert parse(argv(""), {}, None).script is None
    assert parse(argv("")[:8], {}, None).script is None


@pytest.mark.parametrize("count", range(8))
def test_too_few_arguments(count: int) -> None:
    with pytest.raises(NodeError, match=f"was given {max(count, 1) - 1} arguments instead of 8"):
        parse(argv("x")[: max(count, 1)], {}, None)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"job": "../183.vm"}, JobError),
        ({"queue": "../vm"}, JobError),
        ({"user": "a b"}, JobError),
        ({"group": "g\n"}, NodeError),
        ({"user": "nobodyhere"}, NodeError),
        ({"group": "nogroup"}, NodeError),
    ],
)
def test_refused(script: Path, changed: dict[str, str], error: type[VmBatchError]) -> None:
    with pytest.raises(error):
        parse(argv(script, **changed), {}, None)


def test_script_of_another(script: Path) -> None:
    os.chown(script, 1600, 1600)
    with pytest.raises(JobError, match="not a regular file of alice"):
        parse(argv(script), {}, None)
    os.chown(script, 0, 0)
    assert parse(argv(script), {}, None).script == identity(script)


@pytest.mark.error("VB917")
def test_script_that_is_none(tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("secret")
    os.chown(secret, 1500, 1500)
    places = [tmp_path / name for name in ("link", "dangling", "directory", "pipe")]
    places[0].symlink_to(secret)
    places[1].symlink_to("nowhere")
    places[2].mkdir()
    os.mkfifo(places[3])
    for place in places:
        with pytest.raises(JobError, match="not a regular file"):
            identify(str(place), user())


def test_script_in_no_directory(script: Path) -> None:
    with pytest.raises(NodeError, match="Not a directory"):
        identify(f"{script}/x", user())


def test_gone(script: Path) -> None:
    known = identity(script)
    assert not is_gone(known)
    os.utime(script, ns=(1, 1))
    assert is_gone(known), "a later start's file"
    script.unlink()
    assert is_gone(known)


def test_not_known_to_be_gone(script: Path) -> None:
    assert not is_gone(Script(f"{script}/x", 1, 1, 1))


def test_user_with_awkward_groups() -> None:
    """Names that parameters.sh's list could not carry are replaced; the numbers are what counts."""
    assert parse_user("alice", "alice").groups == (
        Group("physics", 1600),
        Group("gid1700", 1700),
        Group("gid1701", 1701),
        Group("gid4711", 4711),
    )


def test_user_without_home_and_shell() -> None:
    found = parse_user("bare", "users")
    assert (found.home, found.shell) == ("/", "/bin/sh")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 290),
        ("$clienthost x\n", 290),
        ("$prologalarm 60\n", 50),
        ("$prologalarm\t20 # short\n", 10),
        ("  $prologalarm 11\n", 1),
        ("$prologalarm 10\n", 10),
        ("$prologalarm 5\n", 5),
        ("# $prologalarm 60\n", 290),
        ("$prologalarm x\n", 290),
        ("$prologalarm 60\n$prologalarm 90\n", 80),
        ("$prologalarm 60", 50),
        ("$prologalarmed 60\n", 290),
        ("\udcff\n$prologalarm 60\n", 50),
    ],
)
def test_alarm(tmp_path: Path, text: str, seconds: float) -> None:
    (tmp_path / "config").write_bytes(text.encode(errors="surrogateescape"))
    assert alarm(tmp_path) == seconds


@pytest.mark.error("VB107")
def test_alarm_without_a_file(tmp_path: Path) -> None:
    assert alarm(tmp_path) == 290
    (tmp_path / "config").mkdir()
    with pytest.raises(SiteError, match="config"):
        alarm(tmp_path)


@pytest.mark.parametrize("error", [JobError("x"), NodeError("x"), SiteError("x"), EndedError("x")])
def test_exit_status(error: VmBatchError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 aborts the job: only for its own fault. 0 would start it on the bare node."""
    monkeypatch.setattr(failures, "PATH", str(tmp_path / "failures"))
    found = Torque().failed(error, Call(argv("x"), {}, ""), parse_config(b"", "x"), None)
    assert found == (Outcome(1, "the job is aborted") if isinstance(error, JobError) else
                     Outcome(2, "the job goes back into its queue"))


def test_queues() -> None:
    words = argv("x")
    assert Torque().queue(Call(words, {}, ""), "prologue") == "vm"
    words = ["epilogue", "1", "u", "g", "n", "0", "r", "used", "vm", "", "0", "x"]
    assert Torque().queue(Call(words, {}, ""), "epilogue") == "vm"
    for short in ([], words[:6]):
        assert Torque().queue(Call(short, {}, ""), "prologue") == Torque().queue(Call(short, {}, ""), "epilogue") == ""


def test_the_jobs_nodes(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "183.vm"
    path.write_text("node2\nnode2\nnode1.cluster\n\nnode2\nnode3")
    found = parse(argv(script), {"PBS_NODEFILE": str(path), "PBS_NODENUM": "0", "PBS_MSHOST": "node2"}, None)
    assert (found.rank, found.nodes) == (0, ("node2", "node1.cluster", "node3"))
    assert parse(argv(script), {}, None).nodes == ()


def test_a_sister_knows_the_first_node_alone(tmp_path: Path) -> None:
    found = parse(argv(tmp_path / "none.SC"), {"PBS_NODENUM": "12", "PBS_MSHOST": "node2"}, None)
    assert (found.rank, found.nodes, found.script, found.node_file) == (12, ("node2",), None, None)


@pytest.mark.parametrize("number", ["", "-1", "1 ", "0x1", "one", "1" * 7])
def test_a_node_number_that_mom_does_not_give(script: Path, number: str) -> None:
    with pytest.raises(NodeError, match="mom says that this is the job's node number"):
        parse(argv(script), {"PBS_NODENUM": number}, None)
