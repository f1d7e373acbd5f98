"""Helpers have the rights they should, heed limits and deadlines, and do not outlive us."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import node
from vmbatch.errors import CommandError, DeadlineError, EndedError, NodeError, SiteError
from vmbatch.host import process
from vmbatch.job import Group, User
from vmbatch.units import Deadline

ROOT = Path(__file__).resolve().parents[2]
ALICE = User("alice", 1500, Group("alice", 1500), (Group("physics", 1600),), "/home/alice", "/bin/bash")
LONER = User("bob", 1501, Group("bob", 1501), (), "/home/bob", "/bin/bash")
WHO = ["/bin/sh", "-c", "cat /proc/self/status"]


@pytest.fixture(autouse=True, scope="session")
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    """Beside those of other tests of the session."""
    children = Path("/proc/self/task", str(os.getpid()), "children")
    before = children.read_text()
    yield
    assert children.read_text() == before


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    over = time.monotonic() + seconds
    while not condition() and time.monotonic() < over:
        time.sleep(0.01)
    return condition()


def run(argv: list[str], seconds: float = 20.0, **named: object) -> str:
    return process.run(argv, Deadline(seconds), **named)  # type: ignore[arg-type]


def output(**named: object) -> str:
    """The status of a process that `start` has made so."""
    started = process.start(WHO, **named)  # type: ignore[arg-type]
    said, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    return said.decode()


def line(status: str, name: str) -> list[str]:
    found = re.search(rf"^{name}:[ \t]*(.*)$", status, re.MULTILINE)
    assert found, name
    return found[1].split()


def rights(status: str) -> dict[str, object]:
    caps = {int(line(status, name)[0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    return {"uid": set(line(status, "Uid")), "gid": set(line(status, "Gid")), "groups": line(status, "Groups"), "caps": caps,
            "locked": line(status, "NoNewPrivs")}


def test_account_has_no_rights() -> None:
    assert rights(run(WHO, account="nobody")) == {
        "uid": {"65534"}, "gid": {"65534"}, "groups": [], "caps": {0}, "locked": ["1"]}
    assert run(["/usr/bin/id", "-u"], account="nobody") == "65534\n"
    assert run(["/usr/bin/id", "-G"], account="nobody") == "65534\n"


def test_account_with_limits_has_no_rights() -> None:
    assert rights(run(WHO, account="nobody", limits=("--cpu=5",)))["uid"] == {"65534"}


def test_user_has_the_users_rights() -> None:
    assert rights(output(user=ALICE)) == {
        "uid": {"1500"}, "gid": {"1500"}, "groups": ["1600"], "caps": {0}, "locked": ["1"]}
    assert rights(output(user=LONER))["groups"] == []


def test_root_is_root() -> None:
    assert run(["/usr/bin/id", "-u"]) == "0\n"


@pytest.mark.parametrize(("name", "said"), [
    ("nobody-has-this-name", "this node knows no account nobody-has-this-name"), ("root", "the account root is root's"),
])
def test_accounts_that_cannot_be(name: str, said: str) -> None:
    with pytest.raises(SiteError) as caught:
        run(["/bin/true"], account=name)
    assert caught.value.lines() == [f"{said} (see [images] account in vmbatch.conf)"]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert sorted(run(["/usr/bin/env"], account="nobody").split()) == [
        "HOME=/", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    assert run(["/bin/pwd"]) == "/\n"


def test_arguments_are_not_for_a_shell() -> None:
    assert run(["/bin/echo", "$(id)", "a  b", "--version", "-n"]) == "$(id) a  b --version -n\n"


def test_stdin(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file of root's\n")
    (tmp_path / "file").chmod(0o600)
    with (tmp_path / "file").open("rb") as file:
        assert run(["/bin/cat"], account="nobody", stdin=file.fileno()) == "from a file of root's\n"
    assert run(["/bin/cat"]) == ""


def test_pass_fds(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        look = ["/bin/sh", "-c", f"[ -e /proc/self/fd/{fd} ] && echo there || echo not"]
        assert run(look) == "not\n"
        assert run(look, pass_fds=(fd,)) == "there\n"
        assert run(look, pass_fds=(fd,), account="nobody") == "there\n"
    finally:
        os.close(fd)


def test_failure() -> None:
    with pytest.raises(CommandError) as caught:
        run(["/bin/sh", "-c", "echo first; echo why >&2; exit 3"])
    assert (caught.value.what, caught.value.status, caught.value.output) == (
        "/bin/sh failed with exit status 3: why", 3, "first\nwhy\n")
    assert caught.value.argv[0] == "/bin/sh"


def test_long_output_is_cut() -> None:
    with pytest.raises(CommandError) as caught:
        run(["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; exit 1"])
    assert caught.value.output == "x" * (64 << 10)


def test_output_that_is_no_text() -> None:
    assert run(["/usr/bin/printf", "\\377a"]) == "�a"


def test_program_that_is_not_there() -> None:
    with pytest.raises(CommandError, match=r"^/no/program failed with exit status 127"):
        run(["/no/program"])


def test_no_setpriv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WITH_PARENT", ("/no/setpriv", "--"))
    with pytest.raises(NodeError) as caught:
        run(["/bin/true"])
    assert caught.value.hint == "install util-linux"


PYTHON = "/usr/bin/python3"


def limited(argv: list[str], *limits: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        run([*argv], account="nobody", limits=(*limits, "--core=0"))
    return caught.value


def test_limit_of_processor_time() -> None:
    begin = time.monotonic()
    error = limited(["/bin/sh", "-c", "while :; do :; done"], "--cpu=1")
    assert error.status in (-signal.SIGKILL, -signal.SIGXCPU)
    assert time.monotonic() - begin < 15


def test_limit_of_memory() -> None:
    error = limited([PYTHON, "-I", "-S", "-c", "bytearray(1 << 30)"], f"--as={512 << 20}")
    assert (error.status, error.what) == (1, f"{PYTHON} failed with exit status 1: MemoryError")


def test_limit_of_file_size() -> None:
    """Not below pytest's directories, which any other session of pytest closes to others."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        Path(made).chmod(0o711)
        file = Path(made, "file")
        file.touch()
        os.chown(file, 65534, 65534)
        error = limited(["/bin/dd", "if=/dev/zero", f"of={file}", "bs=4096", "count=9", "status=none"], "--fsize=8192")
        assert error.status == -signal.SIGXFSZ or "File too large" in error.what
        assert file.stat().st_size == 8192


def test_limits_are_not_ours() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_CPU)
    assert run(["/bin/sh", "-c", "ulimit -t; ulimit -c"], limits=("--cpu=7", "--core=0")) == "7\n0\n"
    assert resource.getrlimit(resource.RLIMIT_CPU) == before


@pytest.mark.error("VB910")
def test_deadline() -> None:
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match=r"^/bin/sleep did not end in time$"):
        run(["/bin/sleep", "60"], 0.3)
    assert 0.3 <= time.monotonic() - begin < 15


def test_stopped_programs_are_ended() -> None:
    with pytest.raises(DeadlineError):
        run(["/bin/sh", "-c", "kill -STOP $$"], 0.5, account="nobody")


def test_no_survivors(tmp_path: Path) -> None:
    """Nor of what a helper has started itself."""
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(DeadlineError):
        run(["/bin/sh", "-c", script], 1.0)
    pid = int((tmp_path / "pid").read_text())
    try:
        assert until(lambda: _is_dead(pid), 3)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def lock(tmp_path: Path) -> Iterator[int]:
    """A lock that we hold, and helpers with us."""
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    process.hold(fd)
    try:
        yield fd
    finally:
        process.let_go(fd)
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize(("named", "said"), [
    ({}, "held"), ({"limits": ("--cpu=5",)}, "held"), ({"account": "nobody"}, "free"), ({"user": ALICE}, "free"),
    ({"account": "nobody", "limits": ("--cpu=5",)}, "free"),
], ids=repr)
def test_locks_go_to_roots_helpers_alone(tmp_path: Path, named: dict[str, object], said: str) -> None:
    with lock(tmp_path) as fd:
        started = process.start(
            ["/bin/sh", "-c", f"[ -e /proc/self/fd/{fd} ] && echo held || echo free"], **named)  # type: ignore[arg-type]
        assert started.communicate(timeout=20)[0].decode() == f"{said}\n"
    started = process.start(["/bin/sh", "-c", f"[ -e /proc/self/fd/{fd} ] && echo held || echo free"])
    assert started.communicate(timeout=20)[0] == b"free\n"


@pytest.mark.parametrize("account", [None, "nobody"])
def test_a_lock_lasts_as_long_as_roots_helper(tmp_path: Path, account: str | None) -> None:
    with lock(tmp_path) as fd, open(tmp_path / "lock") as other:
        helper = process.start(["/bin/sleep", "60"], account=account)
        try:
            os.close(fd)
            if account is None:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process.end(helper)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            process.end(helper)


PARENT = """
import sys, time
from vmbatch.host import process
from vmbatch.job import Group, User
alice = User("alice", 1500, Group("alice", 1500), (), "/", "/bin/sh")
made = process.start(["/bin/sleep", "300"], {})
print(made.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("named", ["", "limits=('--cpu=9',)", "account='nobody'", "user=alice",
                                   "account='nobody', limits=('--cpu=9', '--core=0')", "user=alice, limits=('--cpu=9',)"])
def test_dies_with_its_parent(named: str) -> None:
    """setresuid(2) and the like clear PR_SET_PDEATHSIG, so the order in setpriv matters."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT.replace("{}", named)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        uid = "1500" if "alice" in named else "65534" if "nobody" in named else "0"
        assert line(Path(f"/proc/{pid}/status").read_text(), "Uid") == [uid] * 4
        time.sleep(0.1)
        assert not _is_dead(pid)
        parent.kill()
        parent.wait()
        assert until(lambda: _is_dead(pid)), "it outlives its parent"
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()


def test_a_parent_that_died_before_it_could_be_watched(tmp_path: Path) -> None:
    """The helper is born, its parent dies, and only then it asks to die with its parent: the kernel does not tell it any more."""
    started = process.start(["/bin/true"])
    process.end(started)
    assert isinstance(started.args, list)
    argv = [str(word) for word in started.args]
    argv[argv.index("/bin/true"):] = ["/usr/bin/touch", "PARENT", "/usr/bin/touch", f"{tmp_path}/done"]
    for dies in (True, False):
        parent = os.fork()
        if parent == 0:
            own = str(os.getpid())
            if os.fork() == 0:
                while dies and os.getppid() == int(own):
                    time.sleep(0.01)
                os.execv(argv[0], [own if word == "PARENT" else word for word in argv])  # noqa: S606
            if not dies:
                os.wait()
            os._exit(0)
        os.waitpid(parent, 0)
        if dies:
            assert not until((tmp_path / "done").exists, 1)
    assert (tmp_path / "done").exists()


@contextlib.contextmanager
def helper(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    started = process.start(list(argv), account="nobody")
    try:
        yield started
    finally:
        process.end(started)


def nothing() -> None:
    """Alive."""


def test_stream() -> None:
    with helper("/bin/sh", "-c", "head -c 3000000 /dev/zero; sleep 0.4; echo end") as started:
        data = b"".join(process.stream(started, Deadline(20), nothing))
    assert data == bytes(3000000) + b"end\n"


def test_stream_pieces_come_when_they_are_there() -> None:
    with helper("/bin/sh", "-c", "echo one; sleep 60") as started:
        assert next(process.stream(started, Deadline(20), nothing)) == b"one\n"


def test_stream_asks_alive() -> None:
    asked = 0

    def alive() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise EndedError("the job has ended")

    with helper("/bin/sleep", "60") as started:
        begin = time.monotonic()
        with pytest.raises(EndedError, match=r"^the job has ended$"):
            list(process.stream(started, Deadline(20), alive))
        assert time.monotonic() - begin < 15
    assert started.returncode == -signal.SIGKILL


def test_stream_deadline() -> None:
    with helper("/bin/sleep", "60") as started:
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=r"did not end in time$"):
            list(process.stream(started, Deadline(0.4), nothing))
        assert 0.4 <= time.monotonic() - begin < 15


def test_stream_of_an_endless_writer_has_a_deadline() -> None:
    with helper("/bin/cat", "/dev/zero") as started, pytest.raises(DeadlineError):
        for _ in process.stream(started, Deadline(0.4), nothing):
            pass


def test_stream_of_a_failure() -> None:
    with helper("/bin/sh", "-c", "echo data; exit 3") as started:
        pieces = process.stream(started, Deadline(20), nothing)
        assert next(pieces) == b"data\n"
        with pytest.raises(CommandError, match="failed with exit status 3") as caught:
            next(pieces)
    assert caught.value.status == 3


def test_errors_of_streams_name_the_program() -> None:
    """As those of `run` do; people do not read argument lists."""
    with helper("/bin/sleep", "60") as started, pytest.raises(DeadlineError, match=r"^/bin/sleep did not end in time$"):
        list(process.stream(started, Deadline(0), nothing))
    with helper("/bin/false") as started, pytest.raises(CommandError, match=r"^/bin/false failed with exit status 1$"):
        list(process.stream(started, Deadline(20), nothing))


def test_a_stream_that_is_closed_before_the_end_of_the_program() -> None:
    """Who closes its output and goes on must not keep us for ever, nor get another error than a late one."""
    with helper("/bin/sh", "-c", "exec >&- 2>&-; sleep 60") as started:
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match=r"did not end in time$"):
            list(process.stream(started, Deadline(0.5), nothing))
        assert time.monotonic() - begin < 15


def test_end_is_idempotent() -> None:
    started = process.start(["/bin/sleep", "60"])
    process.end(started)
    process.end(started)
    assert started.returncode == -signal.SIGKILL


def test_find() -> None:
    assert process.find("sh") in ("/usr/bin/sh", "/bin/sh")
    assert process.find("no-such-program-here") is None


def test_kill_asks_whether_it_is_still_the_same() -> None:
    from vmbatch.host.clock import started as started_at

    child = process.start(["/bin/sleep", "60"])
    try:
        begin = started_at(child.pid)
        assert begin is not None
        process.kill(child.pid, begin + 1)
        time.sleep(0.1)
        assert child.poll() is None
        process.kill(child.pid, begin)
        assert child.wait(5) == -signal.SIGKILL
        process.kill(child.pid, begin)
    finally:
        process.end(child)
