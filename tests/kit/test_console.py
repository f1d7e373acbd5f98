"""console.sh and what it starts, on a real terminal with the host's consoleshell at the other end of a line, good or bad."""

import contextlib
import os
import pty
import pwd
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbatch import consolelink, consoleshell
from vmbatch.errors import DeadlineError, NodeError
from vmbatch.units import Deadline

from .encoder import request
from .guest import KIT, SHELLS

PACKAGE = Path(consoleshell.__file__).parents[1]
TOKEN = "0123456789abcdef" * 2
DRIVER = """
import os, sys
from vmbatch.consoleshell import Session
class Call:
    uses_input = sys.argv[3] == "yes"
    def request(self):
        with open(sys.argv[2], "rb") as file:
            return file.read()
os._exit(Session(sys.argv[1]).run(Call))
"""

PROGRAMS = ["sh", "bash", "awk", "cat", "chmod", "cksum", "dd", "env", "id", "mkdir", "mkfifo", "mv", "openssl", "base64", "rm",
            "sed", "setsid", "sha256sum", "su", "stty", "sleep", "wc"]

Fault = Callable[[bytes], bytes]


def good(data: bytes) -> bytes:
    """A line that changes nothing."""
    return data


def translated(data: bytes) -> bytes:
    """As a terminal that was not set raw does it."""
    return data.replace(b"\n", b"\r\n")


def noisy(seed: int) -> Fault:
    """Drops, doubles and the kernel's messages, about once in 20 KB."""
    chance = random.Random(seed)  # noqa: S311

    def fault(data: bytes) -> bytes:
        if chance.random() > len(data) / 20_000:
            return data
        at = chance.randrange(len(data) + 1)
        return chance.choice((
            data[:at] + data[at + 1 :],
            data[:at] + data[at + 200 :],
            data[:at] + data[max(0, at - 50) :],
            data[:at] + b"\r\n[   12.345678] usb 1-1: new device\r\n" + data[at:],
            data[:at] + b"[   12.345678] no newline" + data[at:],
            data[:at] + b"\nvb> \0\xff\x1b[2Jlogin: " + data[at:],
        ))

    return fault


def raw(descriptor: int) -> None:
    modes = termios.tcgetattr(descriptor)
    modes[0] = modes[1] = modes[3] = 0
    modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)


class Line:
    """Two terminals and what joins them: `host` and `guest` are the paths of their ends."""

    def __init__(self, to_guest: Fault = good, to_host: Fault = good, *, echo: bool = False) -> None:
        (near, self.host_end), (far, self.guest_end) = pty.openpty(), pty.openpty()
        self.near, self.far = near, far
        raw(self.host_end)
        raw(self.guest_end)
        os.set_blocking(near, False)
        os.set_blocking(far, False)
        self.host, self.guest = os.ttyname(self.host_end), os.ttyname(self.guest_end)
        self.passed = [0, 0]
        self._open = True
        self._threads = [threading.Thread(target=self._join, args=arguments, daemon=True) for arguments in (
            (0, near, far, to_guest, near if echo else None), (1, far, near, to_host, None))]
        for thread in self._threads:
            thread.start()

    def _join(self, number: int, source: int, sink: int, fault: Fault, back: int | None) -> None:
        with contextlib.suppress(OSError):
            while self._open:
                if not select.select([source], [], [], 0.1)[0]:
                    continue
                data = os.read(source, 4096)
                self.passed[number] += len(data)
                self._write(sink, fault(data))
                if back is not None:
                    self._write(back, data[:500])

    def _write(self, sink: int, data: bytes) -> None:
        while data and self._open:
            select.select([], [sink], [], 0.1)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(sink, data) :]

    def close(self) -> None:
        """Both ends hang up."""
        if self._open:
            self._open = False
            for thread in self._threads:
                thread.join()
            for descriptor in (self.near, self.far, self.host_end, self.guest_end):
                os.close(descriptor)


class Served:
    """console-serve.sh of one shell on a line, for a user with a home."""

    def __init__(self, directory: Path, shell: str, line: Line, path: str = os.defpath,
                 limits: Callable[[], None] | None = None) -> None:
        self.base, self.line, self.directory = directory / "vmbatch", line, directory
        shutil.copytree(KIT, self.base / "kit")
        (self.base / "job").mkdir()
        (self.base / "messages").mkdir()
        (directory / "home").mkdir()
        (directory / "etc").mkdir()
        (directory / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nalice:x:{os.getuid()}:0::{directory}/home:/bin/bash\n")
        program, *options = SHELLS[shell]
        self.command = [shutil.which(program) or "", *options, str(self.base / "kit/console-serve.sh"), str(directory / "place")]
        self.environment = {"PATH": path, "VMBATCH_USER": "alice", "VMBATCH_ROOT": str(directory)}
        self.limits = limits
        self.start()

    def start(self) -> None:
        shutil.rmtree(self.directory / "place", ignore_errors=True)
        (self.directory / "place").mkdir(mode=0o700)
        self.process = subprocess.Popen(self.command, stdin=self.line.guest_end, env=self.environment, preexec_fn=self.limits,
                                        start_new_session=True)

    def job(self, command: str, stdin: int = subprocess.DEVNULL, uses_input: str = "yes") -> "subprocess.Popen[bytes]":
        asked = self.directory / "request"
        asked.write_bytes(request({"MINE": b"it's\n"}, command=command.encode()))
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, self.line.host, str(asked), uses_input], stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(PACKAGE), "PATH": os.defpath},
        )

    def run(self, command: str, data: bytes = b"", seconds: float = 100) -> tuple[int, bytes, bytes]:
        source = self.directory / "input"
        source.write_bytes(data)
        with source.open("rb") as file:
            process = self.job(command, file.fileno())
            try:
                out, err = process.communicate(timeout=seconds)
            finally:
                process.kill()
        return process.returncode, out, err

    def exchange(self, *texts: bytes, until: bytes = b"") -> bytes:
        """What comes back for bytes that are sent as they are, up to `until`; without that what happens to come in a moment."""
        for text in texts:
            os.write(self.line.host_end, text)
        said, over = b"", Deadline(20)
        while until not in said and select.select([self.line.host_end], [], [], over.left())[0]:
            said += os.read(self.line.host_end, 65536)
        while not until and select.select([self.line.host_end], [], [], 0.05)[0]:
            said += os.read(self.line.host_end, 65536)
        return said

    def end(self) -> None:
        self.line.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path, shell: str) -> Iterator[Serve]:
    """Serves with the shell of this test, on a line of its own."""
    started: list[Served] = []

    def start(*faults: Fault, echo: bool = False, path: str = os.defpath, limits: Callable[[], None] | None = None) -> Served:
        started.append(Served(tmp_path, shell, Line(*faults, echo=echo), path, limits))
        return started[0]

    yield start
    for served in started:
        served.end()


def line(text: str) -> bytes:
    return consolelink.line(text)


def test_every_byte_both_ways_and_the_streams_apart(serve: Serve) -> None:
    data = bytes(range(256)) * 1200 + random.Random(1).randbytes(100_001)  # noqa: S311
    status, out, err = serve().run("cat; printf '\\000\\377' >&2; exit 7", data)
    assert (status, err) == (7, b"\x00\xff")
    assert out == data


@pytest.mark.parametrize("command", ["exit 0", "exit 255", "kill -9 $$", "echo hello; exec >&- 2>&-; sleep 0.2"])
def test_exit_status(serve: Serve, command: str) -> None:
    status, out, err = serve().run(command)
    wanted = {"exit 0": (0, b""), "exit 255": (255, b""), "kill -9 $$": (137, b"")}.get(command, (0, b"hello\n"))
    assert ((status, out), err) == (wanted, b"")


def test_a_bad_line_costs_time_and_nothing_else(serve: Serve) -> None:
    data = random.Random(2).randbytes(150_000)  # noqa: S311
    served = serve(noisy(3), noisy(4), echo=True)
    status, out, err = served.run("cat; echo done >&2; exit 7", data)
    assert (status, err) == (7, b"done\n")
    assert out == data
    assert sum(served.line.passed) > 400_000


def test_newlines_that_are_translated(serve: Serve) -> None:
    data = random.Random(5).randbytes(40_000)  # noqa: S311
    assert serve(good, translated).run("cat", data) == (0, data, b"")


def test_what_a_prompt_wrote_before_is_passed_over(serve: Serve) -> None:
    served = serve()
    os.write(served.line.guest_end, b"\r\nDebian GNU/Linux 12 guest ttyS1\r\n\r\nguest login: ")
    os.write(served.line.host_end, b"root\nvb< 12 he")
    assert served.run("echo hello") == (0, b"hello\n", b"")


def test_output_comes_while_the_job_runs(serve: Serve) -> None:
    source, sink = os.pipe()
    process = serve().job("echo first; read answer; echo $answer", source)
    os.close(source)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    os.write(sink, b"second\n")
    os.close(sink)
    assert process.stdout.read() == b"second\n"
    assert process.wait() == 0


def test_input_that_nobody_reads(serve: Serve) -> None:
    served = serve()
    data = bytes(300_000)
    assert served.run("exit 3", data)[0] == 3
    assert served.run("exec <&-; sleep 1; echo hello", data) == (0, b"hello\n", b"")
    assert served.run("head -c 1000 | wc -c; sleep 1", data) == (0, b"1000\n", b"")


def test_no_input(serve: Serve) -> None:
    process = serve().job("cat; echo end", uses_input="no")
    assert process.communicate(timeout=60) == (b"end\n", b"")


def test_output_that_nobody_takes_stops_the_job_and_not_the_error_output(serve: Serve) -> None:
    process = serve().job("head -c 1000000 /dev/zero & echo trouble >&2; wait; exit 4")
    assert process.stderr is not None and process.stdout is not None
    assert process.stderr.readline() == b"trouble\n"
    assert len(process.stdout.read()) == 1_000_000
    assert process.wait() == 4


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT", "USR1", "HUP", "ALRM"])
def test_signals(serve: Serve, name: str) -> None:
    process = serve().job(f"trap 'echo caught; exit 9' {name}; echo armed; while :; do sleep 0.1; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    for _ in range(3):  # as mom, who signals every process
        process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.stdout.read() == b"caught\n"
    assert process.wait() == 9


def test_a_signal_while_the_job_is_being_started(serve: Serve) -> None:
    served = serve()
    process = served.job("sleep 50; exit 3")
    time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=30) in (143, -signal.SIGTERM)


def test_the_job_is_the_users_own_affair(serve: Serve) -> None:
    """No terminal, no descriptors of ours, no variables of ours, no signals ignored: 32 and 33 are the C library's
    own, which nothing but a process's first parent can set."""
    script = "tty; ls /proc/self/fd | tr '\\n' ' '; grep SigIgn /proc/self/status; env; pwd; printf %s \"$MINE\""
    status, out, _ = serve().run(script)
    text = out.decode()
    assert status == 0
    opened, _, ignored = text.partition("SigIgn:\t")
    assert opened == "not a tty\n0 1 2 3 "
    assert not int(ignored.split("\n")[0], 16) & ~(1 << 31 | 1 << 32)
    names = {item.partition("=")[0] for item in text.splitlines() if "=" in item}
    assert not {name for name in names if name.startswith(("VMBATCH_", "LC_ALL"))}
    assert "SHELL=/bin/bash\n" in text and "LOGNAME=alice\n" in text and "HOME=" in text
    assert text.endswith("/home\nit's\n")


def test_one_host_after_the_other(serve: Serve) -> None:
    served = serve()
    for number in range(4):
        assert served.run(f"echo {number}; exit {number}") == (number, f"{number}\n".encode(), b"")


def test_a_host_that_died_in_the_middle(serve: Serve) -> None:
    served = serve()
    for _ in range(2):
        process = served.job("echo $$; exec yes")
        assert process.stdout is not None
        job = int(process.stdout.readline())
        process.kill()
        process.communicate()
        assert served.run("echo hello") == (0, b"hello\n", b"")
        for _ in range(100):
            if not Path(f"/proc/{job}").exists():
                break
            time.sleep(0.05)
        assert not Path(f"/proc/{job}").exists()  # its streams have ended
    time.sleep(0.5)
    tree = subprocess.run(["ps", "-o", "args", "--sid", str(served.process.pid)], capture_output=True, text=True, check=False)
    assert tree.stdout.count("console-serve.sh") <= 6, tree.stdout


def test_two_hosts_at_once(serve: Serve) -> None:
    served = serve()
    first = served.job("echo armed; read x; exit 5", source := os.pipe()[0])
    assert first.stdout is not None
    assert first.stdout.readline() == b"armed\n"
    status, out, err = served.run("echo hello")
    assert (status, out) == (255, b"")
    assert err == (f"vmbatch: the connection to the job's guest was lost (console: {served.line.host} is in use by another job "
                   "shell; the job does not run) [VB802]\n").encode()
    first.kill()
    first.communicate()
    os.close(source)


def test_the_guests_side_is_killed(serve: Serve) -> None:
    """As by a job that kills all of its user's processes; console.sh starts it again."""
    served = serve()
    process = served.job("echo armed; sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait()
    served.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 255
    assert err == (b"vmbatch: the connection to the job's guest was lost (console: what served it in the guest was ended; "
                   b"the job may not have ended) [VB802]\n")
    assert served.run("exit 6")[0] == 6


def test_the_line_is_cut(serve: Serve) -> None:
    served = serve()
    process = served.job("echo armed; sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    began = time.monotonic()
    served.line.close()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 255
    assert b"the connection to the job's guest was lost (console: " in err
    assert time.monotonic() - began < 15
    assert served.process.wait(timeout=10) is not None


def test_no_room_for_the_output(serve: Serve) -> None:
    """A file of a frame that cannot be written whole is no end of the output."""
    served = serve(limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000)))
    assert served.run("echo short") == (0, b"short\n", b"")
    status, out, err = served.run("head -c 100000 /dev/zero")
    assert (status, out) == (255, b"")
    assert b"(console: the guest had no room for the job's output; the job may not have ended)" in err


@pytest.mark.parametrize("word", [b" broken out|", b" exit ", b" began ", b" ready ", b" took 1|", b" fed 1|", b" err 0 "])
def test_a_line_that_is_lost_comes_again(serve: Serve, word: bytes) -> None:
    lost = [False]

    def loses(data: bytes) -> bytes:
        if lost[0] or word not in data:
            return data
        lost[0] = True
        return b""

    if b"broken" in word:
        served = serve(good, loses, limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000)))
        assert b"had no room for the job's output" in served.run("head -c 100000 /dev/zero")[2]
    else:
        assert serve(good, loses).run("cat; exit 7", b"hello") == (7, b"hello", b"")
    assert lost[0]


def _programs(directory: Path, without: set[str]) -> str:
    """A PATH with what the kit uses, but for some."""
    place = directory / "programs"
    place.mkdir()
    for name in PROGRAMS:
        found = shutil.which(name)
        if found and name not in without:
            (place / name).symlink_to(found)
    for name in ("uuencode", "uudecode"):
        (place / name).symlink_to(shutil.which("busybox") or "")
    return str(place)


@pytest.mark.parametrize("without", [{"base64"}, {"base64", "openssl"}, {"cksum"}], ids="+".join)
def test_with_the_programs_of_other_guests(serve: Serve, tmp_path: Path, without: set[str]) -> None:
    """busybox has its own ones, whatever PATH says."""
    data = random.Random(7).randbytes(50_003)  # noqa: S311
    served = serve(path=_programs(tmp_path, without))
    assert served.run("cat; echo err >&2", data) == (0, data, b"err\n")


@pytest.mark.parametrize("program", ["gawk", "mawk", "busybox"])
def test_with_each_awk(serve: Serve, tmp_path: Path, program: str) -> None:
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    path = _programs(tmp_path, {"awk"})
    (Path(path) / "awk").symlink_to(found)
    data = random.Random(8).randbytes(50_003)  # noqa: S311
    assert serve(path=path).run("cat", data) == (0, data, b"")


def test_lines_that_begin_no_session(serve: Serve) -> None:
    served = serve()
    for text in ("vb< ../.. hello|../.. hello.", "vb< xyz hello|xyz hello.", "vb< * hello|* hello.", "vb< 12 hello|13 hello.",
                 "vb< 12 hello", "vb< 12 hello|12 hello", "vb< |.", "vb< .", "vb<  hello| hello.", "hello",
                 "vb< $(id) hello|$(id) hello.", "vb> 12 hello|12 hello.", "vb< 12 12 hello.|12 12 hello"):
        served.exchange(f"\n{text}\n".encode())
    said = served.exchange(line("12 hello"), until=b"sum.\n")
    assert said in (b"\nvb> 12 ready 1 user cksum|12 ready 1 user cksum.\n",
                    b"\nvb> 12 ready 1 user sha256sum|12 ready 1 user sha256sum.\n")


def test_lines_that_make_no_sense_in_a_session(serve: Serve) -> None:
    served = serve()
    served.exchange(line("12 hello"), until=b"sum.\n")
    for text in ("in", "in 0 5", "in x y z", "in 0 5 1", "got", "got 5 5", "got -1 x", "ask", "ask 1 2 3 4", "do", "do 1", "run",
                 "do 2 ../../bin/id", "do 3 job 1234", "*", "?", "do 4 signal 12 $(id)", "do 5 status ../x"):
        served.exchange(line(f"12 {text}"))
    said = served.exchange(line("12 do 9 status 77"), until=b" 9 1 .\n")
    assert said.endswith(b"\nvb> 12 done 9 1 |12 done 9 1 .\n")
    assert served.run("exit 8")[0] == 8


def test_nothing_is_done_twice(serve: Serve) -> None:
    served = serve()
    login = served.base / "job/login"
    served.exchange(line("12 hello"), line("12 do 1 login"), until=b" 1 0 .\n")
    assert login.exists()
    login.unlink()
    assert served.exchange(line("12 do 1 login"), until=b" 1 0 .\n") == b"\nvb> 12 done 1 0 |12 done 1 0 .\n"
    assert not login.exists()
    assert b"12 done 2 0 |" in served.exchange(line("12 do 2 login"), until=b" 2 0 .\n")
    assert login.exists()
    assert served.exchange(line("13 do 1 login"), until=b"gone.\n") == b"\nvb> 13 gone|13 gone.\n"


def test_prove_and_the_kits_messages(serve: Serve) -> None:
    served = serve()
    (served.base / "messages/announce").write_text(f"vmbatch 1 announce {TOKEN} -\n")
    (served.base / "messages/ready").write_text("half a messa")
    consoleshell.prove(served.line.host, Deadline(20))
    assert (served.base / "job/login").exists()
    login = consoleshell.Login(served.line.host)
    try:
        deadline = Deadline(20)
        while (message := login.message("announce")) is None and not deadline.passed():
            time.sleep(0.02)
        assert message == f"vmbatch 1 announce {TOKEN} -\n".encode()
        assert login.message("ready") is None
        (served.base / "messages/ready").write_text(f"vmbatch 1 ready {TOKEN} -\n")
        while (message := login.message("ready")) is None and not deadline.passed():
            time.sleep(0.02)
        assert message == f"vmbatch 1 ready {TOKEN} -\n".encode()
    finally:
        login.close()


@pytest.mark.error("VB710")
def test_a_login_that_fails(serve: Serve) -> None:
    served = serve()
    shutil.rmtree(served.base / "job")
    with pytest.raises(NodeError, match=r"^the login through the guest's console failed with status [12]$"):
        consoleshell.prove(served.line.host, Deadline(20))


def test_no_guest_at_the_other_end() -> None:
    lonely = Line()
    try:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match=r"^the guest's console has not answered$"):
            consoleshell.prove(lonely.host, Deadline(1.5))
        assert time.monotonic() - began < 15
    finally:
        lonely.close()


@pytest.mark.parametrize(("path", "why"), [("/dev/pts/99999", "No such file or directory"), ("/dev/null", "Inappropriate ioctl")])
def test_no_console_at_all(path: str, why: str) -> None:
    with pytest.raises(NodeError, match=f"^the guest's console cannot be opened: {path}: {why}"):
        consoleshell.prove(path, Deadline(1))


class Rooted:
    """console.sh start as root in a tree that is the guest's, with `nobody` as the submitting user."""

    def __init__(self, root: Path, shell: str, *, user: str = "nobody") -> None:
        self.root, self.line = root, Line()
        raw(self.line.guest_end)
        account = pwd.getpwnam("nobody")
        base = root / "var/lib/vmbatch"
        shutil.copytree(KIT, base / "kit")
        for name in ("job", "messages"):
            (base / name).mkdir()
        os.chown(base / "job", account.pw_uid, account.pw_gid)
        (root / "etc").mkdir()
        (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{user}:x:{account.pw_uid}:{account.pw_gid}::/:/bin/bash\n")
        self.environment = {
            "PATH": os.defpath, "VMBATCH_ROOT": str(root), "VMBATCH_CONSOLE": self.line.guest, "VMBATCH_USER": "nobody",
            "VMBATCH_UID": str(account.pw_uid), "VMBATCH_GID": str(account.pw_gid),
        }
        self.command = [*SHELLS[shell], str(base / "kit/console.sh")]

    def start(self, **more: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([*self.command, "start"], env=self.environment | more, capture_output=True, timeout=10, check=False)

    def end(self) -> None:
        self.line.close()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.root).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that `nobody` can enter."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vmbatch-console-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # noqa: S103
        yield Path(name)


def test_started_by_root_it_serves_as_the_user(tree: Path, shell: str) -> None:
    rooted = Rooted(tree, shell)
    try:
        done = rooted.start()
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        consoleshell.prove(rooted.line.host, Deadline(20))
        login = tree / "var/lib/vmbatch/job/login"
        assert login.stat().st_uid == pwd.getpwnam("nobody").pw_uid
        modes = termios.tcgetattr(rooted.line.guest_end)
        assert not modes[3] & (termios.ECHO | termios.ICANON | termios.ISIG) and not modes[1] & termios.OPOST
        served = [name for name in Path("/proc").glob("[0-9]*")
                  if f"{tree}/var/lib/vmbatch/kit/console-serve.sh" in _command_line(name)]
        assert served and {name.stat().st_uid for name in served if " -c " not in _command_line(name)} == {login.stat().st_uid}
        for name in served:
            with contextlib.suppress(OSError):
                os.kill(int(name.name), signal.SIGKILL)
        login.unlink()
        consoleshell.prove(rooted.line.host, Deadline(20))  # it was started again
        assert login.exists()
    finally:
        rooted.end()


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_a_guest_without_the_user_tells_messages_only(tree: Path, shell: str) -> None:
    rooted = Rooted(tree, shell, user="somebody")
    (tree / "var/lib/vmbatch/messages/failed").write_text(f"vmbatch 1 failed {TOKEN} there is no user | and no way\n")
    try:
        assert rooted.start().returncode == 0
        login = consoleshell.Login(rooted.line.host)
        deadline = Deadline(20)
        while (message := login.message("failed")) is None and not deadline.passed():
            assert login.poll() is None
            time.sleep(0.02)
        login.close()
        assert message == f"vmbatch 1 failed {TOKEN} there is no user | and no way\n".encode()
        assert not (tree / "var/lib/vmbatch/job/login").exists()
    finally:
        rooted.end()


def test_a_guest_that_lacks_a_program_says_so(tree: Path, tmp_path: Path) -> None:
    rooted = Rooted(tree, "dash")
    programs = _programs(tmp_path, {"mkfifo"})
    code = f'command() {{ case $2 in mkfifo) return 1 ;; esac; }}; set -- start; . {rooted.command[-1]}'
    try:
        command = [shutil.which("dash") or "", "-c", code, rooted.command[-1]]
        done = subprocess.run(command, env=rooted.environment | {"PATH": programs}, capture_output=True, timeout=10, check=False)
        assert done.returncode == 1
        assert re.fullmatch(rb"the guest lacks what the shell on /dev/pts/\d+ needs: mkfifo\n", done.stderr)
    finally:
        rooted.end()
