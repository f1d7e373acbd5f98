"""A process apart: our streams, our signals, never our terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(work: str, *, seconds: str = "None", user: str = "None") -> list[str]:
    """A process that does `work(terminal)` apart and ends with its exit status."""
    text = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from vmbatch.host.terminal import Apart
from vmbatch.job import Group, User
signals = [signal.SIGTERM, signal.SIGINT]
def work(terminal):
{textwrap.indent(textwrap.dedent(work), "    ")}
sys.exit(Apart(work, {user}, signals).wait({seconds}))
"""
    return [sys.executable, "-I", "-c", text]


@pytest.mark.parametrize("status", [0, 1, 124, 255])
def test_streams_and_status(status: int) -> None:
    done = subprocess.run(program(f"""
        os.write(1, sys.stdin.buffer.read())
        os.write(2, b"terminal" if terminal else b"none")
        return {status}"""), input=b"in\0put", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"in\0put", b"none")


def test_a_death_by_signal_and_a_defect() -> None:
    done = subprocess.run(program("os.kill(os.getpid(), signal.SIGKILL)"), capture_output=True, timeout=60, check=False)
    assert done.returncode == 137
    done = subprocess.run(program("raise ValueError('wrong')"), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (255, b"vmbatch: wrong\n")


def test_signals_are_passed_on() -> None:
    process = subprocess.Popen(program("""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
        os.write(1, b"armed")
        while True: time.sleep(1)"""), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 5) == b"armed"
    process.terminate()
    assert process.wait(60) == 9


def test_the_third_signal_counts() -> None:
    process = subprocess.Popen(program("""
        signal.signal(signal.SIGINT, lambda *_: os.write(1, b"again"))
        os.write(1, b"armed")
        while True: time.sleep(1)"""), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for word in (b"armed", b"again", b"again"):
        assert os.read(process.stdout.fileno(), 5) == word
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137


def test_a_limit_of_time() -> None:
    done = subprocess.run(program("time.sleep(100)", seconds="0.3"), capture_output=True, timeout=60, check=False)
    assert done.returncode == 124


def test_it_dies_with_its_maker() -> None:
    process = subprocess.Popen(program("""
        print(os.getpid(), flush=True)
        time.sleep(100)"""), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    handle = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    process.wait()
    assert select.select([handle], [], [], 30)[0]


def test_nothing_is_inherited() -> None:
    """Neither descriptors nor the session."""
    done = subprocess.run(program("""
        print(sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], os.getsid(0) == os.getpid())
        sys.stdout.flush()"""), capture_output=True, timeout=60, check=False)
    assert done.stdout == b"[0, 1, 2] True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_the_rights_of_a_user() -> None:
    done = subprocess.run(program("""
        print(os.getresuid(), os.getresgid(), os.getgroups())
        sys.stdout.flush()""", user="User('nobody', 65534, Group('nogroup', 65534), (), '/', '/bin/sh')"), capture_output=True,
                          timeout=60, check=False)
    assert done.stdout == b"(65534, 65534, 65534) (65534, 65534, 65534) []\n"


def test_a_terminal_of_its_own() -> None:
    """With our size, which follows; typed Ctrl-C is a character on the way and a signal at its end."""
    pid, terminal = pty.fork()
    if not pid:
        words = program("""
            signal.signal(signal.SIGINT, lambda *_: os._exit(4))
            signal.signal(signal.SIGWINCH, lambda *_: os.write(1, str(os.get_terminal_size()).encode()))
            print(terminal, os.ttyname(0), flush=True)
            while True: time.sleep(0.1)""")
        os.execv(words[0], words)  # noqa: S606
    ours = os.ttyname(terminal) if os.isatty(terminal) else ""
    said = until(terminal, b"\n")
    assert said.startswith(b"True /dev/pts/")
    assert ours.encode() not in said.split()[1:2]
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
    assert b"columns=111, lines=33" in until(terminal, b"lines=33")
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def until(terminal: int, wanted: bytes) -> bytes:
    said, over = b"", time.monotonic() + 30
    while wanted not in said:
        assert select.select([terminal], [], [], max(0.0, over - time.monotonic()))[0], said
        said += os.read(terminal, 4096)
    return said


def test_only_the_output_is_a_terminal() -> None:
    """Then the process has a pipe, whose content is copied."""
    master, slave = pty.openpty()
    done = subprocess.run(program("print(terminal, os.isatty(1), flush=True)\nreturn 5"), stdin=subprocess.DEVNULL, stdout=slave,
                          timeout=60, check=False)
    os.close(slave)
    assert (done.returncode, os.read(master, 100)) == (5, b"False False\r\n")
    os.close(master)
