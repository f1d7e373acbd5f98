"""OpenPBS: what pbs_mom or the server say of a job, and what becomes of one that cannot start."""

import grp
import json
import os
import pwd
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbatch import native
from vmbatch.batch import openpbs, pbsfacts
from vmbatch.batch.openpbs import OpenPBS, hosts, share, wishes
from vmbatch.batch.pbsfacts import Facts
from vmbatch.batch.system import Call, Outcome
from vmbatch.config import parse as parse_config
from vmbatch.errors import EndedError, JobError, NodeError, SiteError, VmBatchError
from vmbatch.host import file, process
from vmbatch.job import Job

from .sample import TOKEN

ROOT = Path(__file__).resolve().parents[2]
CONFIG = parse_config(b"", "x")


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    alice = pwd.struct_passwd(("alice", "x", 1500, 1500, "", "/home/alice", "/bin/bash"))
    monkeypatch.setattr(pwd, "getpwnam", {"alice": alice}.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", {"alice": 1500}[name], [])))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("alice", "x", gid, [])))
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid])
    monkeypatch.setattr(pbsfacts, "NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(file, "check_trusted", lambda _path: None)
    monkeypatch.setattr(pbsfacts, "setting", lambda name, _default: str(tmp_path / name))
    (tmp_path / "notes").mkdir()
    for name in ("PBS_HOME/mom_priv/jobs", "PBS_HOME/aux"):
        (tmp_path / name).mkdir(parents=True)
    pbsfacts.of.cache_clear()
    yield tmp_path
    pbsfacts.of.cache_clear()


def facts(**about: Any) -> Facts:
    return Facts(**{"queue": "vm", "name": "job", **about})


def note(where: Path, job_id: str, **about: Any) -> None:
    slug = job_id.replace("[", "-").replace("]", "")
    (where / "notes" / f"{slug}.facts").write_bytes(b"vm\n" + msgspec.json.encode(facts(**about)))


def parse(job_id: str = "42.srv", *more: str) -> Job:
    return OpenPBS().parse(Call(["prologue", job_id, *(more or ("alice", "alice"))], {}, "/mom_priv"), TOKEN, None)


def test_prologue(node: Path) -> None:
    note(node, "42[1].srv", account="acct", resources={"ncpus": "2", "vbmemory": "2gb"}, variables={"vbimage": "a,b"},
         exec_host="n1.dom:15002/0*2", exec_vnode="(n1:ncpus=2:mem=1gb)", node="n1", alarm=60.0)
    script = node / "PBS_HOME/mom_priv/jobs/42[1].srv.SC"
    script.write_text("#!/bin/sh\n")
    os.chown(script, 1500, 1500)
    (node / "PBS_HOME/aux/42[1].srv").write_text("n1\n")
    found = parse("42[1].srv")
    assert (found.batch, found.id, found.slug, found.name, found.queue, found.account) == (
        "openpbs", "42[1].srv", "42-1.srv", "job", "vm", "acct")
    assert (found.resources, found.wishes) == ("ncpus=2,vbmemory=2gb", {"vbmemory": "2gb", "vbimage": "a,b"})
    assert found.script is not None
    assert (found.script.path, found.node_file) == (str(script), str(node / "PBS_HOME/aux/42[1].srv"))
    assert (found.nodes, found.rank, found.cores, found.memory) == (("n1.dom",), 0, 2, 1 << 30)
    assert OpenPBS().alarm(Call(["prologue", "42[1].srv"], {}, "/mom_priv"), CONFIG) == 58.0


def test_sister_and_interactive_job(node: Path) -> None:
    two = "n1.dom:15002/0+n2.dom:15002/0"
    note(node, "42.srv", exec_host=two, exec_vnode="(n1:ncpus=1)+(n2:ncpus=3)", node="N2", first=False)
    found = parse()
    assert (found.nodes, found.rank, found.cores, found.memory, found.script) == (("n1.dom", "n2.dom"), 1, 3, None, None)
    note(node, "43.srv", interactive=True)
    (node / "PBS_HOME/mom_priv/jobs/43.srv.SC").symlink_to("/etc/passwd")
    assert (parse("43.srv").interactive, parse("43.srv").script) == (True, None)


@pytest.mark.parametrize(("argv", "error", "text"), [
    (["42.srv", "alice"], NodeError, "was given 2 arguments instead of 3"),
    (["../42", "alice", "alice"], JobError, "is not a job id"),
    (["42.srv", "bob", "alice"], NodeError, "knows no user bob"),
    (["42.srv", "alice", "wheel"], NodeError, "knows no group"),
])
def test_refused(node: Path, argv: list[str], error: type[VmBatchError], text: str) -> None:
    note(node, "42.srv")
    with pytest.raises(error, match=text):
        OpenPBS().parse(Call(["prologue", *argv], {}, "/mom_priv"), TOKEN, None)


@pytest.mark.parametrize("text", [b"", b"vm", b"vm\n", b"vm\n{}", b'vm\n{"queue": 1, "name": ""}', b"vm\n\xff", b"\0" * 99])
def test_notes_that_are_none(node: Path, text: bytes) -> None:
    (node / "notes/42.srv.facts").write_bytes(text)
    with pytest.raises(NodeError, match="does not describe a job"):
        parse()


def test_the_script_of_another(node: Path) -> None:
    note(node, "42.srv")
    (node / "PBS_HOME/mom_priv/jobs/42.srv.SC").symlink_to("/etc/shadow")
    with pytest.raises(JobError, match="is not a regular file of alice with one name"):
        parse()


QSTAT = {"timestamp": 1, "Jobs": {"42.srv": {
    "Job_Name": "job", "queue": "vm", "Resource_List": {"ncpus": 2, "mem": "1gb"}, "exec_host": "n1/0",
    "exec_host2": "n1.dom:15002/0", "exec_vnode": "(n1:ncpus=2)", "interactive": "True",
    "Variable_List": {"PBS_O_HOME": "/home/alice", "vbimage": "x"},
}}}


def test_without_the_hook_the_server_is_asked(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], _deadline: object, *, quiet: bool) -> str:
        assert quiet
        asked.append(argv)
        return json.dumps(QSTAT)

    monkeypatch.setattr(process, "run", run)
    call = Call(["prologue", "42.srv", "alice", "alice"], {}, str(node))
    assert OpenPBS().queue(call, "prologue") == "vm"
    found = parse()
    assert (found.name, found.account, found.resources, found.cores) == ("job", "", "ncpus=2,mem=1gb", 2)
    assert (found.nodes, found.interactive, found.wishes) == (("n1.dom",), True, {"vbimage": "x"})
    assert asked == [[str(node / "PBS_EXEC/bin/qstat"), "-f", "-F", "json", "42.srv"]], "once"
    assert OpenPBS().alarm(call, CONFIG) == 30.0
    (node / "config").write_text("$logevent 0\n$prologalarm  200\n")
    assert OpenPBS().alarm(call, CONFIG) == 200.0


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"Jobs": []}', '{"Jobs": {"43.srv": {}}}', '{"Jobs": {"42.srv": {"queue": '])
def test_a_server_that_says_something_else(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(process, "run", lambda *_words, **_how: said)
    with pytest.raises(NodeError, match=r"qstat does not describe job 42.srv"):
        parse()


def test_queue_of_an_epilogue() -> None:
    words = ["epilogue", "42.srv", "alice", "alice", "job", "1", "", "", "vm", "null", "0"]
    assert OpenPBS().queue(Call(words, {}, ""), "epilogue") == "vm"
    assert OpenPBS().queue(Call(words[:8], {}, ""), "epilogue") == ""
    assert OpenPBS().job_id(Call(["epilogue"], {}, "")) == ""


@pytest.mark.parametrize(("exec_host", "node", "first", "expected"), [
    ("", "n1", True, ((), 0)),
    ("n1.dom:15002/0*2", "other", False, (("n1.dom",), 0)),
    ("n1/0+n1/1+n2/0", "n2", False, (("n1", "n2"), 1)),
    ("n1/0+n2/0", "x", True, (("n1", "n2"), 0)),
])
def test_hosts(exec_host: str, node: str, first: bool, expected: object) -> None:
    assert hosts(facts(exec_host=exec_host, node=node, first=first)) == expected


@pytest.mark.parametrize("exec_host", ["n1/0+n2/0", "-n1/0", "n1/0+../x/0", "n1/0+n\n2/0", "n3.a:1/0+n3.b:1/0"])
def test_hosts_that_are_wrong(exec_host: str) -> None:
    with pytest.raises(NodeError):
        hosts(facts(exec_host=exec_host, node="n3", first=False))


@pytest.mark.parametrize(("exec_host", "exec_vnode", "host", "expected"), [
    ("n1/0", "(n1:ncpus=2:mem=1048576kb)", "n1", (2, 1 << 30)),
    ("n1/0", "n1:ncpus=2", "n1", (2, None)),
    ("n1/0+n1/1+n2/0", "(n1:ncpus=2:mem=1gb)+(n1:ncpus=1)+(n2:ncpus=8:mem=9gb)", "n1", (3, 1 << 30)),
    ("n1/0", "(n1[0]:ncpus=2:mem=1mb+n1[1]:ncpus=1:mem=1mb)", "n1", (3, 2 << 20)),
    ("n1/0", "(n1:mem=16w)", "n1", (None, 128)),
    ("n1/0", "(n1:mem=1mw)", "n1", (None, 8 << 20)),
    ("n1/0+n2/0", "(n1:ncpus=2)", "n1", (None, None)),
    ("", "", "", (None, None)),
])
def test_share(exec_host: str, exec_vnode: str, host: str, expected: object) -> None:
    assert share(facts(exec_host=exec_host, exec_vnode=exec_vnode), host) == expected


@pytest.mark.error("VB902")
def test_a_size_that_is_none() -> None:
    with pytest.raises(NodeError, match="'lots' is no size of OpenPBS's"):
        share(facts(exec_host="n1/0", exec_vnode="(n1:mem=lots)"), "n1")


def test_wishes() -> None:
    asked = facts(resources={"vba": "1", "mem": "1gb"}, variables={"vba": "1", "vbb": "x;y=z,", "vx": "2"})
    assert wishes(asked) == {"vba": "1", "vbb": "x;y=z,"}
    with pytest.raises(JobError, match="asked for as a resource and as a variable, differently"):
        wishes(facts(resources={"vba": "1"}, variables={"vba": "2"}))
    with pytest.raises(JobError, match="vba: a value is missing"):
        wishes(facts(variables={"vba": ""}))


CALL = Call(["prologue", "42.srv", "alice", "alice"], {}, "/mom_priv")
BACK = "the job goes back into its queue"
HELD = "the job is held until an administrator releases it"


@pytest.mark.parametrize(("error", "settings", "verdict", "outcome"), [
    (JobError("x"), "", "delete", Outcome(1, "the job is deleted")),
    (NodeError("x"), "", "rerun", Outcome(2, BACK)),
    (NodeError("x"), 'node_fault = "hold"', "hold", Outcome(2, HELD)),
    (NodeError("x"), 'node_fault = "offline"', "offline", Outcome(2, f"{BACK}, and this node takes no more jobs")),
    (SiteError("x"), "", "hold", Outcome(2, HELD)),
    (SiteError("x"), 'site_fault = "requeue"', "rerun", Outcome(2, BACK)),
    (EndedError("x"), 'node_fault = "offline"', "rerun", Outcome(2, BACK)),
])
def test_failed(node: Path, error: VmBatchError, settings: str, verdict: str, outcome: Outcome) -> None:
    config = parse_config(f"[openpbs]\n{settings}\n".encode(), "x")
    note(node, "42.srv", alarm=60.0)
    assert OpenPBS().failed(error, CALL, config, None) == outcome
    said = node / "notes/42.srv.verdict"
    assert json.loads(said.read_text()) == {
        "verdict": verdict, "text": error.coded("job 42.srv could not start: x")}
    assert said.stat().st_mode & 0o7777 == 0o600


def test_one_image_never_takes_vnodes_off_line(node: Path) -> None:
    config = parse_config(b'[openpbs]\nnode_fault = "offline"\n', "x")
    note(node, "42.srv", alarm=60.0)
    error = NodeError("x")
    error.suspect = "a.xml"
    for _ in range(5):
        assert OpenPBS().failed(error, CALL, config, None) == Outcome(2, BACK)
    assert json.loads((node / "notes/42.srv.verdict").read_text())["verdict"] == "rerun"


def test_failed_without_a_hook(node: Path) -> None:
    """A classic prologue can abort or requeue, and does not promise more."""
    note(node, "42.srv")
    assert OpenPBS().failed(SiteError("x"), CALL, CONFIG, None) == Outcome(2, BACK)
    assert OpenPBS().failed(JobError("x"), CALL, CONFIG, None) == Outcome(1, "the job is deleted")
    assert not (node / "notes/42.srv.verdict").exists()
    for argv in (["prologue"], ["prologue", "../x"]):
        assert OpenPBS().failed(JobError("x"), Call(argv, {}, ""), CONFIG, None) == Outcome(1, "the job is deleted")


def test_is_gone(node: Path) -> None:
    note(node, "42.srv")
    jobs = node / "PBS_HOME/mom_priv/jobs"
    script = jobs / "42.srv.SC"
    script.write_text("")
    os.chown(script, 1500, 1500)
    found = parse().script
    assert OpenPBS().is_gone("42.srv", found, None) is False
    script.unlink()
    assert OpenPBS().is_gone("42.srv", found, None) is True
    assert OpenPBS().is_gone("42.srv", None, None) is True
    (jobs / "42.srv.JB").touch()
    assert OpenPBS().is_gone("42.srv", None, None) is False
    (jobs / "42.srv.JB").unlink()
    jobs.rmdir()
    assert OpenPBS().is_gone("42.srv", None, None) is None


def hook() -> dict[str, Any]:
    """The hook's functions; it runs when it is imported, and accepts an event of no kind."""

    class Event:
        type = 0

        def accept(self) -> None:
            raise SystemExit

    import sys

    sys.modules["pbs"] = types.ModuleType("pbs")
    vars(sys.modules["pbs"])["event"] = Event
    made: dict[str, Any] = {"__name__": "__builtin__"}
    try:
        with pytest.raises(SystemExit):
            exec(compile((ROOT / "scripts/openpbs/vmbatch_hook.py").read_text(), "hook", "exec"), made)  # noqa: S102
    finally:
        del sys.modules["pbs"]
    return made


HOOK = hook()


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.text("vmqueue_\\#'\"", max_size=6))
def test_hook_and_product_judge_a_queue_alike(tmp_path_factory: pytest.TempPathFactory, text: bytes, queue: str) -> None:
    path = tmp_path_factory.getbasetemp() / "vmbatch.conf"
    path.write_bytes(text)
    HOOK["CONFIG"] = str(path)
    assert HOOK["may_be_ours"](queue) == native.names_queue(text, queue)


def test_hook_and_product_use_the_same_places() -> None:
    from vmbatch import journal, sshargs

    fresh = hook()
    assert fresh["CONFIG"] == native.CONFIG
    assert fresh["NOTES"] == native.PBS_NOTES == "/run/vmbatch/openpbs"
    assert (fresh["HANDOVER"], fresh["JOBS"]) == (sshargs.HANDOVER, native.JOBS)
    assert journal.directory() == native.JOBS
    source = (ROOT / "vmbatch/batch/pbsfacts.py").read_text()
    assert 'NOTES = "/run/vmbatch/openpbs"' in source


@pytest.mark.parametrize(("value", "expected"), [
    (r"a\,b", "a,b"), (r"a\\b", "a\\b"), (r"a\'\"b", "a'\"b"), (r"a\nb", r"a\nb"), ("", ""),
])
def test_hook_reads_variables(value: str, expected: str) -> None:
    assert HOOK["unescaped"](value) == expected


def test_remedies_are_those_of_the_configuration() -> None:
    from vmbatch.config import PBS_REMEDIES

    verdicts = {openpbs._verdict(NodeError("x"), parse_config(f'[openpbs]\nnode_fault = "{name}"\n'.encode(), "x"))
                for name in PBS_REMEDIES}
    assert verdicts == {"rerun", "hold", "offline"}
