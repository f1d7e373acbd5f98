"""The job's shell over the console of a guest that has no network: a real guest, and its console's pty as libvirt gives it."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import guest as guests
from lab import place
from lab.boot import MEMORY_MIB
from lab.domain import Parts, domain
from vmbatch import consoleshell
from vmbatch.context import content
from vmbatch.context.medium import _Tree
from vmbatch.context.tree import Entry
from vmbatch.errors import DeadlineError
from vmbatch.request import Request
from vmbatch.units import Deadline

from .conftest import in_node  # noqa: F401

pytestmark = pytest.mark.guest

TOKEN = "0123456789abcdef" * 2
ALICE, PHYSICS = 1500, 1600
PORTS = {
    "hvc0": "<console type='pty'><target type='virtio' port='0'/></console>",
    "ttyS1": "<serial type='pty'><target port='1'/></serial>",
}
PROLOG = """#!/bin/sh
medium=${0%/*}
. "$medium/kit/lib.sh"
. "$medium/kit/user.sh"
[ "$1" = start ] || exit 0
start prolog
cp -R "$medium/kit" "$base/kit"
mkdir "$base/messages"
BROKEN
create_user
mkdir -m 700 "$base/job"
hand_over "$base/job"
doing='starting the shell on the console'
sh "$medium/kit/console.sh" start
"""
EPILOG = """#!/bin/sh
medium=${0%/*}
. "$medium/kit/lib.sh"
[ "$1" = start ] || exit 0
start epilog
shared=$base/messages
if [ -s "$base/failed" ]; then
    sh "$medium/kit/console.sh" start
    read -r reason <"$base/failed"
    tell failed "$reason"
    exit
fi
tell announce -
until [ -e "$base/job/login" ]; do pause; done
tell ready -
"""
DRIVER = """
import os, sys
from vmbatch.consoleshell import Session
class Call:
    uses_input = True
    def request(self):
        with open(sys.argv[2], "rb") as file:
            return file.read()
os._exit(Session(sys.argv[1]).run(Call))
"""


@dataclass
class Guest:
    """A guest whose user has logged in; `console` is the pty, as the user's."""

    name: str
    console: str
    work: Path
    messages: dict[str, bytes]

    def start(self, command: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        request = self.work / "request"
        request.write_bytes(Request(environment={b"MINE": b"it's\n"}, command=command.encode()).encode())
        return subprocess.Popen(
            [f"{place.ENVIRONMENT}/bin/python3", "-c", DRIVER, self.console, str(request)],
            user=ALICE, group=ALICE, extra_groups=[], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PYTHONPATH": str(self.work / "package"), "PATH": os.defpath}, cwd="/",
        )

    def run(self, command: str, data: bytes = b"", seconds: float = 600) -> tuple[int, bytes, bytes]:
        source = self.work / "input"
        source.write_bytes(data)
        with source.open("rb") as file:
            process = self.start(command, file.fileno())
            out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err


def _medium(work: Path, device: str, broken: str) -> Path:
    """A context of the kit's own parts, for a guest with a console and no share."""
    parameters = {
        "TOKEN": TOKEN, "USER": "alice", "UID": str(ALICE), "GROUP": "alice", "GID": str(ALICE), "GROUPS": f"physics:{PHYSICS}",
        "HOME": "/home/alice", "SHELL": "/bin/bash", "CONSOLE": device,
    }
    text = "".join(f"VMBATCH_{name}='{value}'\n" for name, value in parameters.items())
    target = work / "medium.iso"
    with contextlib.ExitStack() as files:
        tree = _Tree("VMBATCH", files)
        for entry in content.kit():
            if entry.name not in ("prolog.sh", "epilog.sh"):
                tree.add(entry)
        for name, script in (("prolog.sh", PROLOG.replace("BROKEN", broken)), ("epilog.sh", EPILOG), ("parameters.sh", text)):
            tree.add(Entry(name, 0o755, script.encode()))
        tree.write(str(target))
    return target


def _virsh(*words: str | Path) -> str:
    return subprocess.run(["virsh", "-q", *map(str, words)], check=True, capture_output=True, text=True).stdout


class Booted:
    """A running guest; its console is not opened yet."""

    def __init__(self, work: Path, device: str, broken: str = "") -> None:
        shutil.copytree(Path(consoleshell.__file__).parent, work / "package/vmbatch")
        self.name, self.log = f"console-{device}-{os.getpid()}", Path(f"/var/log/libvirt/console-{device}-{os.getpid()}.log")
        images = place.IMAGES / guests.directory("busybox").name
        parts = Parts(images, None, _medium(work, device, broken), self.log, "lab.fault=nonet")
        text = domain(self.name, MEMORY_MIB["busybox"], parts)
        # libvirt numbers a port without a number behind all that have one
        text = text.replace("</serial>", "<target port='0'/></serial>").replace("<memballoon", f"{PORTS[device]}<memballoon", 1)
        (work / "domain.xml").write_text(text)
        _virsh("create", work / "domain.xml")
        kind = "virtio" if device.startswith("hvc") else "isa-serial"
        found = re.search(rf"<(?:console|serial) type='pty'[^>]*>\s*<source path='(/dev/pts/\d+)'/>\s*<target type='{kind}'",
                          _virsh("dumpxml", self.name))
        assert found, _virsh("dumpxml", self.name)
        self.console = found[1]

    def end(self) -> None:
        subprocess.run(["virsh", "-q", "destroy", self.name], capture_output=True, check=False)


@contextlib.contextmanager
def _readable() -> Iterator[Path]:
    """A directory that the user and QEMU can enter, too; pytest's own they cannot."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-console-") as name:
        os.chmod(name, 0o755)  # noqa: S103
        yield Path(name)


@pytest.fixture(scope="module", params=sorted(PORTS))
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with _readable() as work:
        yield from _logged_in(work, request.param)


def _logged_in(work: Path, device: str) -> Iterator[Guest]:
    """As the prologue does it."""
    booted = Booted(work, device)
    try:
        login = consoleshell.Login(booted.console)
        deadline = Deadline(90)
        messages = {}
        try:
            while (message := login.message("announce")) is None:
                assert not deadline.passed(), booted.log.read_text()
                time.sleep(0.05)
            messages["announce"] = message
            while (status := login.poll()) is None:
                assert not deadline.passed()
                time.sleep(0.05)
            assert status == 0
            while (message := login.message("ready")) is None:
                assert not deadline.passed()
                time.sleep(0.05)
            messages["ready"] = message
        finally:
            login.close()
        os.chown(booted.console, ALICE, ALICE)
        os.chmod(booted.console, 0o600)
        yield Guest(booted.name, booted.console, work, messages)
    finally:
        booted.end()


def test_the_kits_messages_come_over_the_console(guest: Guest) -> None:
    assert guest.messages == {kind: f"vmbatch 1 {kind} {TOKEN} -\n".encode() for kind in ("announce", "ready")}


def test_a_megabyte_of_random_bytes_out_and_back(guest: Guest) -> None:
    data = random.Random(4).randbytes(1 << 20)  # noqa: S311
    began = time.monotonic()
    status, out, err = guest.run("cat; exit 7", data)
    seconds = time.monotonic() - began
    print(f"\n1 MiB out and back over {guest.name}: {seconds:.1f} s")
    assert (status, err) == (7, b"")
    assert out == data


def test_streams_apart_and_exit_status(guest: Guest) -> None:
    assert guest.run("echo out; printf '\\000\\377' >&2; exit 7") == (7, b"out\n", b"\x00\xff")


def test_as_the_user_with_all_groups_and_no_terminal(guest: Guest) -> None:
    _, out, err = guest.run("id; pwd; echo $HOME $SHELL $USER $LOGNAME; echo \"$MINE\"; tty; : </dev/tty; env", b"")
    assert out.startswith(b"uid=1500(alice) gid=1500(alice) groups=1500(alice),1600(physics)\n/home/alice\n"
                          b"/home/alice /bin/bash alice alice\nit's\n\nnot a tty\n")
    assert b"VMBATCH_" not in out
    assert b"/dev/tty" in err


def test_a_job_that_does_nothing(guest: Guest) -> None:
    began = time.monotonic()
    assert guest.run("exit 3") == (3, b"", b"")
    seconds = time.monotonic() - began
    print(f"\na job that does nothing over {guest.name}: {seconds:.1f} s")


def test_nothing_of_the_frames_is_in_the_log_console(guest: Guest) -> None:
    guest.run("echo secret-word")
    log = Path(f"/var/log/libvirt/{guest.name}.log").read_bytes()
    assert b"guest:" in log
    assert b"vb> " not in log and b"vb< " not in log and b"secret-word" not in log


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "HUP"])
def test_signals(guest: Guest, name: str) -> None:
    process = guest.start(f"trap 'echo caught; exit 9' {name}; echo armed; while :; do sleep 0.1; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.stdout.read() == b"caught\n"
    assert process.wait() == 9


def test_a_flood_of_both_streams(guest: Guest) -> None:
    status, out, err = guest.run("seq 1 20000 & seq 1 20000 >&2; wait; exit 5")
    lines = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    assert (status, out == lines, err == lines) == (5, True, True)


def test_the_users_processes_are_all_killed(guest: Guest) -> None:
    """With them goes what serves the console; the job ends with its shell, and the next one can run."""
    status, _, err = guest.run("kill -9 -1; sleep 100")
    assert status == 255
    assert b"connection to the job's guest was lost" in err
    assert guest.run("echo again") == (0, b"again\n", b"")


def test_a_job_shell_that_dies_leaves_the_console_to_the_next(guest: Guest) -> None:
    process = guest.start("echo armed; yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.kill()
    process.communicate()
    assert guest.run("exit 4") == (4, b"", b"")
    assert "yes" not in guest.run("sleep 1; ps -o comm")[1].decode().split()


def test_a_guest_that_ends_is_noticed(guest: Guest) -> None:
    """The last test: the guest is gone after it."""
    process = guest.start("echo armed; sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    _virsh("destroy", guest.name)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 255
    assert b"connection to the job's guest was lost" in err


def test_a_prolog_that_failed_is_told_though_nobody_can_log_in() -> None:
    with _readable() as work:
        booted = Booted(work, "hvc0", broken="fail 'no such luck'")
        try:
            login = consoleshell.Login(booted.console)
            deadline = Deadline(90)
            while (message := login.message("failed")) is None:
                assert not deadline.passed(), booted.log.read_text()
                assert login.poll() is None
                time.sleep(0.05)
            login.close()
            assert message == f"vmbatch 1 failed {TOKEN} no such luck\n".encode()
            with pytest.raises(DeadlineError):
                consoleshell.prove(booted.console, Deadline(3))
        finally:
            booted.end()
