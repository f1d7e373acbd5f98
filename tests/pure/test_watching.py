"""What `vmbatch ps`, `show`, `log` and `console` say: to root, to users, to programs."""

import json
import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from vmbatch import config, drain, history, hooked, journal, status
from vmbatch.cli import main
from vmbatch.host import clock
from vmbatch.record import Start
from vmbatch.status import Board, Failure, Step

from .past import MOMENT, STATUS, record
from .past import status as like
from .sample import OTHER_TOKEN

HERE = clock.this_process()
STARTING = like(job="43.vm", token=OTHER_TOKEN, user="bob", uid=1501, steps=(Step("begin", 100.0), Step("images", 100.5)),
                owner=HERE, guest="", address="", started=MOMENT + 100, cores=1, memory=3 << 29)
DEAD = like(job="440.vm", token="e" * 32, user="bob", uid=1501, started=MOMENT + 200,
            owner=clock.ProcessIdentity(HERE.pid, 0, "x"),
            steps=(Step("begin", 100.0), Step("boot", 103.0)), guest="vmbatch-440.vm-eeeeeeee", address="")
RUNNING = like(steps=STATUS.steps[:-2], owner=HERE)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three jobs, in a node of the test's own, where it is always the same time."""
    monkeypatch.setattr("vmbatch.host.file._check", lambda *_args, **_named: None)
    monkeypatch.setattr(status, "DIRECTORY", str(tmp_path / "status"))
    monkeypatch.setattr(drain, "PATH", str(tmp_path / "drained"))
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(clock, "uptime", lambda: 3800.0)
    monkeypatch.setattr(clock, "for_people", lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)))
    text = f"[log]\nhistory = '{tmp_path}/history'\ndirectory = '{tmp_path}/log'\n[spool]\ndirectory = '{tmp_path}/spool'\n"
    monkeypatch.setattr(hooked, "load_config", lambda: config.parse(text.encode(), "test"))
    for each in (RUNNING, STARTING, DEAD):
        Board.new(each)
    return tmp_path


@pytest.fixture
def bob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1501)
    known = pwd.struct_passwd(("bob", "x", 1501, 1501, "", "/home/bob", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {1501: known}.__getitem__)
    monkeypatch.setattr(hooked, "load_config", lambda: pytest.fail("a user need not be able to read the configuration"))


@pytest.fixture
def a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob, who can read the configuration, as a site has it, and cannot list the logs."""
    monkeypatch.setattr(os, "geteuid", lambda: 1501)
    known = pwd.struct_passwd(("bob", "x", 1501, 1501, "", "/home/bob", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {1501: known}.__getitem__)
    names = os.listdir

    def listed(path: str) -> list[str]:
        if path.endswith("/log"):
            raise PermissionError
        return names(path)

    monkeypatch.setattr(os, "listdir", listed)


def ask(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.output


def test_ps(golden: Callable[[str, str], None]) -> None:
    code, text = ask("ps")
    assert code == 0
    golden("ps.txt", text)


@pytest.mark.usefixtures("bob")
def test_ps_of_a_user() -> None:
    code, text = ask("ps")
    rows = [line.split()[:3] for line in text.splitlines()[1:]]
    assert (code, rows) == (0, [["43.vm", "bob", "image"], ["440.vm", "bob", "dead"]])


def test_ps_for_programs() -> None:
    code, text = ask("ps", "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    assert (code, [row["job"] for row in rows]) == (0, ["42.vm", "43.vm", "440.vm"])
    assert (rows[0]["phase"], rows[0]["age"], rows[0]["since"], rows[0]["memory"]) == ("run", 3700.0, 3685.5, 512 << 20)
    assert rows[0]["steps"][0] == ["begin", 100.0]
    assert rows[2]["phase"] == "dead"


def test_ps_of_a_drained_node(place: Path) -> None:
    drain.drain("carol", "new disks", MOMENT)
    for each in (RUNNING, STARTING, DEAD):
        status.remove(each.user, each.job, each.token)
    assert ask("ps") == (0, "This node is drained by carol at 2023-11-14 22:13:20: new disks\nno job has a guest on this node\n")
    assert ask("ps", "--json") == (0, "")


@pytest.mark.usefixtures("bob")
def test_show_to_a_user(golden: Callable[[str, str], None]) -> None:
    code, text = ask("show", "43")
    assert code == 0
    golden("show-user.txt", text)
    assert ask("show", "42.vm") == (1,
        "vmbatch: this node knows no job '42.vm' (vmbatch ps shows those that you may see) [VB920]\n")
    assert ask("show", "4")[1] == "vmbatch: '4' may be several jobs: 43.vm, 440.vm (write more of the id) [VB920]\n"


def test_show_to_root(place: Path, golden: Callable[[str, str], None]) -> None:
    code, text = ask("show", "42")
    assert code == 0
    golden("show-root.txt", text.replace(str(place), "/place"))


def test_show_what_is_over(place: Path, golden: Callable[[str, str], None]) -> None:
    history.write(f"{place}/history", record(job="7.vm", token="7" * 32))
    history.write(f"{place}/history", record(
        job="8.vm", token="8" * 32, outcome="failed", failure=Failure("VB301", "node", "no server answers"), running=None,
        seconds={"admission": 0.1, "image": 30.0}, provisioning=30.1, queue="vm", guest="", address="", status=None,
        why="it could not start: \x1b[2Jno server answers", steps=()))
    golden("show-over.txt", "\n".join(ask("show", job)[1] for job in ("7", "8.vm")))
    assert msgspec.json.decode(ask("show", "7", "--json")[1], type=history.Record) == record(job="7.vm", token="7" * 32)
    assert ask("show", "9")[0] == 1


def test_log(place: Path) -> None:
    (place / "log").mkdir()
    (place / "log/43.vm.log").write_text("one\ntwo\n")
    (place / "log/7-1.vm.log").write_text("of long ago\n")
    assert ask("log", "43") == (0, "one\ntwo\n")
    assert ask("log", "43.vm", "-n", "1") == (0, "two\n")
    assert ask("log", "7[1].vm") == (0, "of long ago\n")
    assert ask("log", "7[1].vm", "-f") == (0, "of long ago\n"), "it is over: there is nothing to wait for"
    assert ask("log", "42.vm") == (1, f"vmbatch: there is no {place}/log/42.vm.log yet [VB920]\n")
    assert ask("log", "../43") == (1,
        "vmbatch: this node knows no job '../43' (vmbatch ps shows those that you may see) [VB920]\n")


@pytest.mark.usefixtures("a_user")
@pytest.mark.error("VB921")
def test_log_of_a_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own jobs by what is enough of their id, those that are over by all of it; whose a log is its file system says."""
    (place / "log").mkdir()
    for name in ("43.vm", "7-1.vm", "42.vm"):
        (place / f"log/{name}.log").write_text(f"of {name}\n")
    assert ask("log", "43") == (0, "of 43.vm\n")
    assert ask("log", "7[1].vm") == (0, "of 7-1.vm\n")
    assert ask("log", "7")[0] == 1
    assert ask("log", "../log/43.vm")[1].startswith("vmbatch: this node knows no job '../log/43.vm'")
    monkeypatch.setattr(os, "access", lambda path, _: "42.vm" not in path)
    assert ask("log", "42.vm") == (
        1, "vmbatch: you cannot read the log of job 42.vm (a log is for the job's user and root; where its file system has no "
           "access control lists, for root alone) [VB921]\n")


@pytest.mark.usefixtures("a_user")
def test_console_of_a_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = place / f"spool/43.vm.{OTHER_TOKEN}"
    spool.mkdir(parents=True)
    assert ask("console", "43")[1].startswith("vmbatch: the guest of job 43.vm has said nothing")
    (spool / "console.log").write_bytes(b"login: ")
    assert ask("console", "43") == (0, "login: \n")
    assert ask("console", "42")[1].startswith("vmbatch: this node knows no job '42'")
    assert ask("console", "43", "--write") == (1, "vmbatch: to type into a guest's console is for root alone "
                                                  "(vmbatch ssh leads into the guests of your own jobs) [VB921]\n")
    (spool / "console.log.0").write_bytes(b"from before\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("vmbatch.host.console.read_tail", lambda _: b"from before\n")
    code, text = ask("console", "43")
    assert (code, text.startswith("from before\nvmbatch: you cannot read more of the console of job 43.vm (")) == (1, True)


def test_console(place: Path) -> None:
    start = Start("42.vm", RUNNING.token, "alice", "vm", None, HERE, MOMENT)
    (place / "state/jobs").mkdir(parents=True)
    (place / "state/jobs/42.vm.journal").write_bytes(msgspec.json.encode(start) + b"\n")
    assert ask("console", "42") == (1, f"vmbatch: the guest of job 42.vm has said nothing: there is no "
                                       f"{place}/spool/42.vm.{RUNNING.token}/console.log [VB920]\n")
    spool = place / f"spool/42.vm.{RUNNING.token}"
    spool.mkdir(parents=True)
    (spool / "console.log").write_bytes(b"login: \x1b[2Jowned\r\n$ ")
    assert ask("console", "42") == (0, "login: owned\n$ \n")
    assert ask("console", "42", "--raw") == (0, "login: \x1b[2Jowned\n$ \n")
    assert ask("console", "42", "--write") == (
        1, "vmbatch: job 42.vm has no guest now (leave out --write for what it has said) [VB920]\n")
    assert ask("console", "43")[0] == 1


def test_ssh_to_what_is_not_ready() -> None:
    assert ask("ssh", "43") == (
        1, "vmbatch: the guest of job 43.vm is not ready: phase image (try again when vmbatch ps shows run) [VB920]\n")
    code, text = ask("ssh", "42", "--", "ls", "--color")
    assert (code, text[:30]) == (1, "vmbatch: job 42.vm is over: [E")


def offered(*words: str) -> list[tuple[str, str]]:
    """(word, type) of what shells offer behind these, of which the last is only begun."""
    from click.shell_completion import BashComplete

    found = BashComplete(main, {}, "vmbatch", "_VMBATCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [(item.value, item.type) for item in found]


def test_what_shells_offer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("show", "log", "console", "ssh", "kill", "keep"):
        assert offered(command, "43") == [("43.vm", "plain")], command
    assert offered("explain", "vb92")[-2:] == [("VB920", "plain"), ("VB921", "plain")]
    assert offered("doctor", "--only", "dra") == [("drained", "plain")]
    assert offered("unin") == [("uninstall", "plain")]
    text = f"[templates]\ndirectory = '{place}/domains'\n"
    monkeypatch.setattr(hooked, "load_config", lambda: config.parse(text.encode(), "test"))
    assert offered("run", "--template", "de") == [], "there is no such directory"
    (place / "domains").mkdir()
    for name in ("debian.xml", "devuan.xml", "el.xml", "degree.txt"):
        (place / "domains" / name).touch()
    for words in (("doctor", "--boot"), ("run", "--template")):
        assert offered(*words, "de") == [("debian", "plain"), ("devuan", "plain")]
        assert offered(*words, "/etc/d") == [("/etc/d", "file")]
