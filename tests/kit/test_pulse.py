"""Signs of life from the guest: for the host, and for a watchdog."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .guest import NONCE, Guest


@pytest.fixture
def begun(guest: Guest) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Runs `epilog.sh start` to its end; what goes on behind it ends with the test."""
    guest.write("var/lib/vmbatch/failed", "")
    guest.write("var/lib/vmbatch/job/login", "")
    guest.functions |= {"modprobe": ":", "ip": "echo '10.77.0.1 dev eth0 src 10.77.0.42'", "mount": ":",
                        "sleep": "command sleep 0.05"}
    started: list[subprocess.Popen[bytes]] = []

    def run() -> "subprocess.Popen[bytes]":
        guest.write_medium()
        command = [*guest.shell, "-c", f'{guest.prelude}. "$0"', str(guest.medium / "epilog.sh"), "start"]
        process = subprocess.Popen(command, env=guest.environment, stdout=subprocess.PIPE, process_group=0)
        started.append(process)
        assert process.wait(timeout=60) == 0
        return process

    yield run
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def beats(guest: Guest) -> str:
    path = guest.root / "mnt/vmbatch/heartbeat"
    return path.read_text() if path.exists() else ""


def until(condition: Callable[[], bool]) -> None:
    over = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < over, "too late"
        time.sleep(0.02)


def test_heartbeats(guest: Guest, begun: Callable[[], "subprocess.Popen[bytes]"]) -> None:
    guest.context["VMBATCH_HEARTBEAT"] = "15"
    process = begun()
    assert process.stdout is not None
    assert process.stdout.read() == b"", "nothing of it holds the output open"
    seen: set[str] = set()

    def counted() -> bool:
        seen.add(beats(guest))
        return len(seen - {""}) >= 3

    until(counted)
    numbers = [int(each.removeprefix(f"vmbatch 1 heartbeat {NONCE} ")) for each in seen - {""}]
    assert 0 < min(numbers) < max(numbers)


def test_none_unless_asked_for(guest: Guest, begun: Callable[[], "subprocess.Popen[bytes]"]) -> None:
    guest.write("dev/watchdog", "")
    begun()
    time.sleep(0.2)
    assert (beats(guest), guest.read("dev/watchdog")) == ("", "")


def test_the_watchdog_is_fed(guest: Guest, begun: Callable[[], "subprocess.Popen[bytes]"]) -> None:
    guest.context["VMBATCH_WATCHDOG"] = "yes"
    os.mkfifo(guest.root / "dev/watchdog")
    holder = os.open(guest.root / "dev/watchdog", os.O_RDWR)
    try:
        begun()
        fed = b""
        while len(fed) < 3:
            fed += os.read(holder, 10)
        assert set(fed) == {ord(".")}, "a V would stop it"
    finally:
        os.close(holder)


def test_a_guest_without_a_driver_for_its_watchdog(guest: Guest, begun: Callable[[], "subprocess.Popen[bytes]"]) -> None:
    guest.context["VMBATCH_WATCHDOG"] = "yes"
    process = begun()
    assert process.stdout is not None
    assert process.stdout.read() == (b"vmbatch: the domain has a watchdog, but the guest no /dev/watchdog: "
                                     b"is there a driver for it?\n")
    assert Path(guest.root / "mnt/vmbatch/ready").exists()
