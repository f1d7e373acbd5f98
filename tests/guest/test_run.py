"""`vmbatch run`: one command in a guest without a batch system, as root for a user, and as a user alone."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import libvirt
import pytest

from lab import leftover, place
from lab.process import run as must
from vmbatch import history

from .disks import DOMAINS

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

VMBATCH = str(place.ENVIRONMENT / "bin/vmbatch")
PROGRESS = [*place.VMBATCH, "run", "-t", "busybox", "-u", "alice"]
ROOT = [*PROGRESS, "-q"]
HOME = Path("/home/alice")
STATE = HOME / ".local/state/vmbatch"
RUNTIME = Path("/run/user/1500")
ALICE = ["setpriv", "--reuid=1500", "--regid=1500", "--init-groups", "--", *place.VMBATCH]
OWN = {"HOME": str(HOME), "XDG_RUNTIME_DIR": str(RUNTIME), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "USER": "alice"}
URI = f"qemu+unix:///session?socket={RUNTIME}/libvirt/libvirt-sock"


def done(words: list[str], *, given: bytes = b"", environ: Mapping[str, str] | None = None,
         cwd: str = "/") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(words, input=given, capture_output=True, check=False, cwd=cwd, timeout=400,
                          env=None if environ is None else dict(environ))


def started(words: list[str], environ: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=None if environ is None else dict(environ))


def trapping(name: str, action: str) -> str:
    """A command that says `armed` and then waits for a signal."""
    return f"trap '{action}' {name}; echo armed; while :; do sleep 0.2; done"


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory of alice's, with something in it."""
    path = HOME / "work"
    path.mkdir()
    (path / "in").write_text("three\none\ntwo\n")
    (path / "tree/deep").mkdir(parents=True)
    (path / "tree/deep/file").write_text("deep\n")
    must(["chown", "-R", "alice:alice", path])
    yield path
    must(["rm", "-r", path])


def test_streams_and_the_user() -> None:
    found = done([*ROOT, "-e", "WHAT=it's $HOME", "--", "sh", "-c", 'id -un; pwd; cat; echo "$WHAT" >&2; exit 7'], given=b"a\0b")
    assert (found.returncode, found.stdout, found.stderr) == (7, b"alice\n/home/alice\na\0b", b"it's $HOME\n")


def test_progress_and_a_whole_guest() -> None:
    found = done([*(word for word in ROOT if word != "-q"), "--", "true"])
    said = found.stderr.decode()
    assert found.returncode == 0
    assert re.search(r"^vmbatch: boot \d+\.\d s$", said, re.MULTILINE)
    assert re.search(r"^vmbatch: the guest is ready after \d+\.\d s$", said, re.MULTILINE)


def test_every_exit_status() -> None:
    """All in one guest: what is the command's is asked of run there, and what becomes of it here by a few."""
    for status in (0, 1, 74, 124, 125, 253, 255):
        assert done([*ROOT, "sh", "-c", f"exit {status}"]).returncode == status


def test_no_such_program_and_a_death_by_signal() -> None:
    found = done([*ROOT, "/no/such/program"])
    assert found.returncode == 127
    assert b"/no/such/program" in found.stderr
    assert done([*ROOT, "sh", "-c", "kill -KILL $$"]).returncode == 137


def test_files_in_and_out(work: Path) -> None:
    found = done([*ROOT, "--input", "in", "--input", "tree:sub/tree", "--output", "sorted", "--output", "sub:back", "--",
                  "sh", "-c", "sort in > sorted; echo more > sub/tree/more; ln -s tree/more sub/link"], cwd=str(work))
    assert (found.returncode, found.stderr) == (0, b"")
    assert (work / "sorted").read_text() == "one\nthree\ntwo\n"
    assert (work / "back/tree/deep/file").read_text() == "deep\n"
    assert (work / "back/tree/more").read_text() == "more\n"
    assert os.readlink(work / "back/link") == "tree/more"
    assert {path.owner() for path in (work / "sorted", work / "back", work / "back/tree/more")} == {"alice"}
    assert not list(work.glob(".vmbatch-*"))


def test_what_a_guest_makes_of_an_output(work: Path) -> None:
    """Links and devices that lead elsewhere stay out, and what is there already is kept; the rest has come, and 74 says so."""
    (work / "out").mkdir()
    (work / "out/out").mkdir()
    (work / "out/out/mine").write_text("mine")
    must(["chown", "-R", "alice:alice", work])
    found = done([*ROOT, "--output", "evil", "--output", "out", "--output", "none", "--", "sh", "-c",
                  "mkdir evil out; cd evil; ln -s /etc/passwd link; ln -s ../.. up; mkfifo pipe; echo good > good"],
                 cwd=str(work))
    assert found.returncode == 74
    said = found.stderr.decode()
    assert re.search(r"^vmbatch: evil: \./evil/link: a link that leads elsewhere$", said, re.MULTILINE)
    assert re.search(r"^vmbatch: --output evil: 3 of the guest's files were left out \[VB804\]$", said, re.MULTILINE)
    assert f"vmbatch: --output out: {work}/out/out is there already (remove it, or name another place: " in said
    assert "vmbatch: none is not in the guest, in /home/alice" in said
    assert (work / "out/out/mine").read_text() == "mine"
    assert not list(work.rglob(".vmbatch-*"))


def test_files_of_others(work: Path) -> None:
    """They are read and written with the rights of the command's user, whoever calls."""
    secret = Path("/root/secret-of-roots")
    secret.write_text("secret")
    secret.chmod(0o600)
    try:
        found = done([*ROOT, "--input", str(secret), "--", "cat", secret.name])
        assert (found.returncode, found.stdout) == (125, b"")
        assert b"the command did not run" in found.stderr
        found = done([*ROOT, "--output", "x:/root/x-of-the-guest", "--", "touch", "x"])
        assert found.returncode == 74
        assert not Path("/root/x-of-the-guest").exists()
    finally:
        secret.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = started([*ROOT, "--", "sh", "-c", trapping(name, f"echo got {name}; exit 9")])
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.send_signal(number)
    assert process.stdout.read() == f"got {name}\n".encode()
    assert process.wait(60) == 9


def test_who_does_not_listen_is_ended() -> None:
    process = started([*ROOT, "--", "sh", "-c", trapping("INT", "")])
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(60) == 137


def test_a_limit_of_time() -> None:
    found = done([*ROOT, "--timeout", "1s", "--", "sleep", "100"])
    assert found.returncode == 124


def test_ctrl_c_during_boot() -> None:
    process = started([*PROGRESS, "true"])
    wait_for(lambda: guests("qemu:///system"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1] == b"vmbatch: interrupted; nothing is left of the guest"
    *_, known = history.records(["/var/log/vmbatch/history/jobs.jsonl"])
    assert (known.outcome, known.failure, known.why) == (history.CANCELLED, None, "it was interrupted")


def test_two_at_once() -> None:
    both = [started([*ROOT, "--", "sh", "-c", f"echo {number}; sleep 1"]) for number in range(2)]
    assert [process.communicate()[0] for process in both] == [b"0\n", b"1\n"]
    assert [process.returncode for process in both] == [0, 0]


def test_who_is_killed_is_cleaned_up_after() -> None:
    process = started([*ROOT, "--", "sh", "-c", "echo armed; sleep 100"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.kill()
    process.wait()
    assert done([*ROOT, "true"]).returncode == 0
    wait_for(lambda: not leftover.found())


@pytest.mark.parametrize(("words", "status", "said"), [
    (["-t", "none", "-u", "alice", "true"], 125, "vmbatch: the command could not run: there is no template none "
     "(/etc/vmbatch/domains has none of that name)\nvmbatch: nothing is left of its guest [VB205]\n"),
    (["-u", "alice", "true"], 125, "no template was named, and this node's queues have 7"),
    (["-t", "busybox", "-u", "nobody-such", "true"], 125, "this node knows no user nobody-such"),
    (["-t", "busybox", "-u", "root", "true"], 125, "jobs of root do not run in queue local"),
    (["-t", "busybox", "-u", "alice", "-i", "/x.qcow2", "true"], 125, "lets nobody choose the image"),
    (["-t", "busybox", "-u", "alice", "-m", "8G", "true"], 125, "guests of this template have the memory that it states"),
    (["-t", "busybox", "true"], 2, "say whose it is with --user"),
])
def test_what_cannot_be(words: list[str], status: int, said: str) -> None:
    found = done([VMBATCH, "run", *words], environ={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    assert (found.returncode, found.stdout) == (status, b"")
    assert said in found.stderr.decode()


def test_what_is_kept() -> None:
    found = done([VMBATCH, "run", "-t", "disk", "-u", "alice", "--keep", "--", "true"])
    kept = re.search(r"the guest's disks and console are in (\S+)", found.stderr.decode())
    assert found.returncode == 0, found.stderr.decode()
    assert kept is not None
    assert {"console.log", "vda.qcow2"} <= {path.name for path in Path(kept[1]).iterdir()}
    [line] = [line for line in done([VMBATCH, "kept"]).stdout.decode().splitlines() if not line.startswith(" ")]
    assert done([VMBATCH, "sweep", "--release", line.split()[0]]).returncode == 0


def test_a_terminal() -> None:
    """Both sides have one, with its size; it is not ours that the user's processes have."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(ROOT[0], [*ROOT, "--", "sh", "-c", "stty size; tty; read x; echo got $x; exit 3"])  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
    said = until(terminal, b"/dev/")
    assert b"33 111" in said
    os.write(terminal, b"hello\n")
    until(terminal, b"got hello")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    os.close(terminal)


def test_ctrl_c_on_a_terminal() -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execv(ROOT[0], [*ROOT, "--", "sh", "-c", trapping("INT", "echo stopped; exit 4")])  # noqa: S606
    until(terminal, b"armed")
    os.write(terminal, b"\x03")
    until(terminal, b"stopped")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def until(terminal: int, wanted: bytes, seconds: float = 120.0) -> bytes:
    said, over = b"", time.monotonic() + seconds
    while wanted not in said:
        assert select.select([terminal], [], [], max(0.0, over - time.monotonic()))[0], said
        try:
            said += os.read(terminal, 4096)
        except OSError:
            pytest.fail(f"the end came before {wanted!r}: {said!r}")
    return said


def guests(uri: str) -> list[str]:
    connection = libvirt.open(uri)
    try:
        return [domain.name() for domain in connection.listAllDomains()]
    finally:
        connection.close()


def wait_for(look: object, seconds: float = 60.0) -> None:
    over = time.monotonic() + seconds
    while not look():  # type: ignore[operator]
        assert time.monotonic() < over
        time.sleep(0.05)


@pytest.fixture
def alone() -> Iterator[list[str]]:
    """What alice calls without root; her guest is the lab's smallest, in QEMU's own network, and nothing of hers is left."""
    RUNTIME.mkdir(parents=True, exist_ok=True)
    os.chown(RUNTIME, 1500, 1500)
    RUNTIME.chmod(0o700)
    settings = HOME / ".config/vmbatch/domains"
    settings.mkdir(parents=True)  # the user's libvirtd keeps its own beside it
    text = (DOMAINS / "busybox.xml").read_text().replace("</vbconfig>", "<vbmessages>CHANNEL</vbmessages></vbconfig>", 1)
    (settings / "small.xml").write_text(re.sub(r"<interface.*?</interface>", "<interface type='user'><model type='virtio'/>"
                                               "<rom enabled='no'/></interface>", text, flags=re.DOTALL))
    must(["chown", "-R", "alice:alice", HOME / ".config"])
    yield [*ALICE, "run", "-q", "-t", "small"]
    assert own_leftover() == []
    must(["rm", "-rf", HOME / ".config/vmbatch", STATE, HOME / ".cache/vmbatch"])


def own_leftover() -> list[str]:
    lines = [str(path) for name in ("jobs", "spool") for path in (STATE / name).iterdir()]
    lines += [str(path) for name in ("handover", "claims") for path in (RUNTIME / "vmbatch" / name).iterdir()]
    lines += [str(path) for path in STATE.glob(".run-*")]
    with contextlib.suppress(libvirt.libvirtError):
        lines += guests(URI)
    return lines + leftover.processes()


def test_without_root(alone: list[str], work: Path) -> None:
    found = done([*alone, "--input", "in", "--output", "out", "--", "sh", "-c", "id -u; id -un; sort in > out; cat; exit 5"],
                 given=b"given", environ=OWN, cwd=str(work))
    assert (found.returncode, found.stdout) == (5, b"1500\nalice\ngiven"), found.stderr.decode()
    assert b"no KVM here" not in found.stderr, "the template is for emulation, and -q"
    assert (work / "out").read_text() == "one\nthree\ntwo\n"


def test_without_root_and_interrupted(alone: list[str]) -> None:
    """Before the guest is up, and while its command runs."""
    process = started([*alone, "true"], OWN)
    wait_for(lambda: (RUNTIME / "libvirt/libvirt-sock").exists() and guests(URI))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process = started([*alone, "--", "sh", "-c", trapping("TERM", "exit 6")], OWN)
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.terminate()
    assert process.wait(60) == 6


def test_without_root_and_killed(alone: list[str]) -> None:
    process = started([*alone, "--", "sh", "-c", "echo armed; sleep 100"], OWN)
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.kill()
    process.wait()
    assert b"would release" in done([*ALICE, "sweep", "--dry-run"], environ=OWN).stdout
    assert done([*alone, "true"], environ=OWN).returncode == 0
    assert done([*ALICE, "sweep"], environ=OWN).stdout == b""


def test_without_root_and_without_an_image(alone: list[str]) -> None:
    found = done([*ALICE, "run", "true"], environ=OWN)
    assert found.returncode == 125
    assert b"there is no image for the guest (name one with --image, or a template with --template)" in found.stderr
    done([*alone, "true"], environ=OWN)
