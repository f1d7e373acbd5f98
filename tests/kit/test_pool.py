"""A guest that waits for a job: it is nobody's, sleeps until the node speaks to it, and is the job's guest from then on."""

import contextlib
import io
import os
import select
import signal
import stat
import subprocess
import tarfile
import time
import tty
from collections.abc import Iterator

import pytest

from vmbatch.context.parameters import assignments
from vmbatch.context.stream import placed, size, tar
from vmbatch.context.tree import Entry
from vmbatch.guest import JOB_COMES

from .guest import NONCE, Guest

OF_JOB = ("VMBATCH_USER", "VMBATCH_UID", "VMBATCH_GROUP", "VMBATCH_GID", "VMBATCH_GROUPS", "VMBATCH_HOME", "VMBATCH_SHELL")
KEY = "ssh-ed25519 AAAAJOB job"


class Port:
    """The node's end of the guest's port, for which a terminal stands in."""

    def __init__(self, guest: Guest) -> None:
        self.node, self._slave = os.openpty()
        tty.setraw(self._slave)
        guest.write("sys/class/virtio-ports/vport1p1/name", "org.vmbatch.0\n")
        (guest.root / "dev/vport1p1").symlink_to(os.ttyname(self._slave))
        self._rest = b""

    def line(self) -> str:
        """What the guest says next."""
        while b"\n" not in self._rest:
            assert select.select([self.node], [], [], 20)[0], "the guest says nothing"
            self._rest += os.read(self.node, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def silent(self, seconds: float) -> bool:
        """Whether the guest says nothing for so long."""
        return not self._rest and not select.select([self.node], [], [], seconds)[0]

    def send(self, data: bytes) -> None:
        """First a line: of a terminal, which no port is, bash reads ahead."""
        line, _, data = data.partition(b"\n")
        os.write(self.node, line + b"\n")
        time.sleep(0.2)
        while data:
            data = data[os.write(self.node, data[:1024]):]


@pytest.fixture
def waiting(guest: Guest) -> Iterator[tuple[Guest, Port, "subprocess.Popen[bytes]"]]:
    """A guest that has come to where it waits; its medium has nothing of a user."""
    guest.write("etc/skel/.profile", "welcome\n")
    guest.write("etc/hosts", "127.0.0.1 localhost\n")
    context = dict(guest.context)
    guest.context = {name: value for name, value in context.items() if name not in OF_JOB} | {
        "VMBATCH_POOL": "yes", "VMBATCH_HOSTNAME": "vm-7"}
    guest.write_medium()
    guest.add_to_medium("ssh/host_key", "PRIVATE\n", 0o400)
    guest.add_to_medium("ssh/host_key.pub", "ssh-ed25519 AAAAHOST\n", 0o400)
    guest.add_to_medium("hosts", "10.0.0.1 server\n10.0.0.2 other\n")
    guest.add_to_medium("tar/list", "0 0 - /opt\n")
    guest.add_to_medium("tar/0.tar", "PLAYED\n")
    guest.context = context | {"VMBATCH_POOL": ""}
    if os.geteuid() != 0:
        guest.context |= {"VMBATCH_UID": str(os.getuid()), "VMBATCH_GID": str(os.getgid())}
    guest.functions |= {
        "modprobe": ":", "ip": "echo '10.77.0.1 dev eth0 src 10.77.0.42 uid 0'", "restorecon": ":",
        "mount": f'echo "$*" >>"{guest.root}/mounted"',
        "tar": f"""case $1:$2 in  # GNU's refuses a terminal: it is taken for one that reads on
            --version:*) ;;
            *:*/0.tar) echo "$*" >{guest.root}/unpacked ;;
            *) command tar "$@" ;;
        esac"""}
    done = guest.run(guest.medium / "prolog.sh", "start")
    assert (done.returncode, guest.read("var/lib/vmbatch/failed")) == (0, ""), (guest.base / "prolog.log").read_text()
    port = Port(guest)
    command = [*guest.shell, "-c", f'{guest.prelude}. "$0"', str(guest.medium / "epilog.sh"), "start"]
    process = subprocess.Popen(command, env=guest.environment, process_group=0)
    yield guest, port, process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what beats goes on behind it
    process.wait()


def context(guest: Guest, *more: Entry) -> bytes:
    """As the node sends it."""
    entries = tuple(placed((
        Entry("parameters.sh", 0o600, assignments(guest.context)), Entry("ssh/authorized_key", 0o600, f"{KEY}\n".encode()),
        Entry("job/script", 0o700, b"#!/bin/sh\n" + b"# job\n" * 4000), *more)))
    return JOB_COMES % size(entries) + b"".join(tar(entries))


def log_in(guest: Guest) -> None:
    subprocess.run([*guest.shell, str(guest.base / "kit/login.sh")], env=guest.environment, check=True, timeout=20)


@pytest.fixture
def without_chown(guest: Guest) -> None:
    guest.functions["command"] = '[ "$1" = -v ] && [ "$2" != chown ] && type "$2"'


@pytest.mark.usefixtures("without_chown")
def test_one_that_could_never_be_a_job_s(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    """That is told to who makes it, and to no job."""
    _guest, port, process = waiting
    assert port.line() == f"vmbatch 1 failed {NONCE} a guest that waits for a job needs the program chown"
    assert process.wait(20) == 1


def test_it_waits_as_nobody(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    guest, port, process = waiting
    assert port.line() == f"vmbatch 1 waiting {NONCE} 10.77.0.42"
    assert port.silent(0.3)
    assert process.poll() is None
    assert "alice" not in guest.read("etc/passwd")
    assert not (guest.base / "job").exists()
    assert not list((guest.root / "home").iterdir())
    assert guest.read("mounted"), "its share is there"
    assert guest.read("unpacked") == f"-xpf {guest.medium}/tar/0.tar -C {guest.root}/opt\n"
    assert "10.0.0.1 server\n10.0.0.2 other\n" in guest.read("etc/hosts")
    assert guest.read("etc/ssh/ssh_host_ed25519_key") == "PRIVATE\n"
    assert guest.read("proc/sys/kernel/hostname") == "vm-7\n"
    assert not (guest.root / "mnt/vmbatch/announce").exists()


def test_it_becomes_a_job_s(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    guest, port, process = waiting
    assert port.line().startswith("vmbatch 1 waiting ")
    port.send(context(
        guest, Entry("site/prolog.d/1", 0o755, b'#!/bin/sh\necho "$VMBATCH_USER" >>"$VMBATCH_ROOT/ran"\n'),
        Entry("site/epilog.d/1", 0o755, b'#!/bin/sh\necho late >>"$VMBATCH_ROOT/ran"\n'),
        Entry("site/before.d/1", 0o755, b"#!/bin/sh\n")))
    assert port.line() == f"vmbatch 1 announce {NONCE} 10.77.0.42"
    assert "alice:x:1500:" in guest.read("etc/passwd") or os.geteuid() != 0
    assert guest.read("home/alice/.ssh/authorized_keys") == f"{KEY}\n"
    assert guest.read("home/alice/.profile") == "welcome\n"
    assert f"-R 1500:1501 {guest.base}/job {guest.base}/home" in guest.read("chown.log") or os.geteuid() != 0
    assert [stat.S_IMODE((guest.base / name).stat().st_mode) for name in ("job", "job/script", "taken")] == [0o700] * 3
    assert guest.read("var/lib/vmbatch/job/script").count("# job\n") == 4000
    assert [stat.S_IMODE((guest.base / name).stat().st_mode) for name in ("before.d", "before.d/1")] == [0o755] * 2
    assert guest.read("proc/sys/kernel/hostname") == guest.read("etc/hostname") == "vm-42\n"
    assert "vm-7" not in guest.read("etc/hosts")
    assert {"127.0.0.1 localhost", "127.0.1.1 vm-42", "10.0.0.1 server"} <= set(guest.read("etc/hosts").splitlines())
    assert port.silent(0.3), "nobody has logged in"
    log_in(guest)
    assert port.line() == f"vmbatch 1 ready {NONCE} 10.77.0.42"
    assert process.wait(20) == 0
    assert guest.read("ran") == "alice\nlate\n"
    assert not (guest.root / "etc/.vmbatch").exists()
    log_in(guest)  # a second one finds nobody who waits


def test_accounts_that_came_meanwhile_stay(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    guest, port, _process = waiting
    port.line()
    time.sleep(1.1)  # a time that any shell sees
    guest.write("etc/passwd", guest.read("etc/passwd") + "late:x:77:77::/:/bin/false\n")
    port.send(context(guest))
    assert port.line().startswith("vmbatch 1 announce ")
    assert "late:x:77" in guest.read("etc/passwd")
    assert "alice:" in guest.read("etc/passwd")


def test_the_node_only_looks(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    """Who says something else, or nothing, has not taken it."""
    guest, port, process = waiting
    port.line()
    port.send(b"anything\n")
    assert port.line() == f"vmbatch 1 waiting {NONCE} 10.77.0.42"
    assert process.poll() is None
    port.send(context(guest))
    assert port.line().startswith("vmbatch 1 announce ")


def test_what_goes_wrong_is_told_by_the_port(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    guest, port, process = waiting
    port.line()
    port.send(context(guest, Entry("site/prolog.d/1", 0o755, b"#!/bin/sh\necho no such luck >&2\nexit 3\n")))
    assert port.line() == f"vmbatch 1 failed {NONCE} status 3 while running site/prolog.d/1: no such luck"
    assert process.wait(20) == 1


def test_a_context_that_breaks_off_is_told(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    """It is a job's by then: nobody else gets the guest."""
    _guest, port, process = waiting
    port.line()
    port.send(JOB_COMES % 1024 + b"x" * 1024)
    assert port.line().startswith(f"vmbatch 1 failed {NONCE} status 1 while unpacking the job's context: ")
    assert process.wait(20) == 1


def test_messages_go_where_the_template_wants_them_afterwards(waiting: tuple[Guest, Port, "subprocess.Popen[bytes]"]) -> None:
    guest, port, process = waiting
    guest.context["VMBATCH_HEARTBEAT"] = "0.1"
    port.line()
    port.send(context(guest))
    port.line()
    log_in(guest)
    assert port.line().startswith("vmbatch 1 ready ")
    assert process.wait(20) == 0
    beat = guest.root / "mnt/vmbatch/heartbeat"
    over = time.monotonic() + 10
    while not beat.exists() and time.monotonic() < over:
        time.sleep(0.02)
    assert beat.read_text().startswith(f"vmbatch 1 heartbeat {NONCE} ")


@pytest.mark.parametrize("shares", ["0", "1"])
def test_keys_of_users_whose_homes_may_be_on_shares(guest: Guest, shares: str) -> None:
    """sshd looks for them elsewhere before it has started, and not when the job waits for it."""
    guest.context = {name: value for name, value in guest.context.items() if name not in OF_JOB} | {
        "VMBATCH_POOL": "yes", "VMBATCH_SHARES": shares}
    guest.write("etc/ssh/sshd_config", "Port 22\n")
    guest.write_medium()
    done = guest.run(guest.medium / "prolog.sh", "start")
    assert (done.returncode, guest.read("var/lib/vmbatch/failed")) == (0, ""), (guest.base / "prolog.log").read_text()
    more = f"AuthorizedKeysFile .ssh/authorized_keys {guest.base}/keys/%u\n" if shares == "1" else ""
    assert guest.read("etc/ssh/sshd_config") == f"{more}Port 22\n"


def test_the_size_is_that_of_the_tar() -> None:
    entries = (Entry("a", 0o600, b"x" * 513), Entry("b/" + "c" * 150, 0o600, b""), Entry("d", 0o644, b"y" * 10240))
    sent = b"".join(tar(entries))
    assert len(sent) == size(entries)
    with tarfile.open(fileobj=io.BytesIO(sent)) as opened:
        assert opened.getnames() == [entry.name for entry in entries]
