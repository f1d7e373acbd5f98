"""qsub -I: the job's shell on a terminal, with all that a terminal has; and the proof where there is no script."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import loopback
from lab.loopback import Guest
from lab.mom import Job, Mom, Terminal
from vmbatch.handover import Mark

from .test_signals import state, until

PROMPT = b"ready> "
Open = Callable[..., Terminal]


def mark(pid: int) -> Mark:
    return Mark(pid, int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]))


@pytest.fixture
def interactive(mom: Mom, guest: Guest) -> Iterator[Open]:
    """A terminal of a job that a prologue, run by mom's process at the terminal, has handed over."""
    opened: list[tuple[Terminal, Job]] = []

    def made(*, x11: bool = False, variables: dict[str, str] | None = None, later: int = 0, console: str = "") -> Terminal:
        job = mom.accept(b"", variables={"PS1": PROMPT.decode(), "ENV": "", **(variables or {})})
        terminal = mom.open_terminal(job)
        leader = mark(terminal.reader.pid)
        guest.hand_over(mom, job)
        loopback.write_record(mom, job, leader=Mark(leader.pid, leader.started + later), x11=x11, console=console)
        opened.append((terminal, job))
        return terminal

    profile = guest.root / "home/alice/.bash_profile"
    profile.write_text(f"PS1='{PROMPT.decode()}'; bind 'set enable-bracketed-paste off'\n")
    yield made
    profile.unlink()
    for terminal, job in opened:
        terminal.close()
        guest.take_back(mom, job)


def at_prompt(terminal: Terminal, *words: str, term: str = "xterm") -> Terminal:
    terminal.start_shell(words, term=term)
    terminal.wait_for(PROMPT)
    return terminal


def said(terminal: Terminal, command: str) -> str:
    """What a command shows between its echo and the next prompt."""
    terminal.type(command.encode() + b"\r")
    shown = terminal.wait_for(b"\r\n") and terminal.wait_for(PROMPT)
    return shown.decode()[: -len(PROMPT)].replace("\r", "").strip("\n")


@pytest.mark.parametrize("words", [(), ("/bin/bash",)])
def test_login_shell_on_a_terminal(interactive: Open, words: tuple[str, ...]) -> None:
    """With qsub -S, or as $job_starter with the user's shell."""
    terminal = at_prompt(interactive(), *words, term="screen-256color")
    look = "tty | sed s,[0-9].*,,; echo $TERM; shopt -q login_shell && echo login"
    assert said(terminal, look) == "/dev/pts/\nscreen-256color\nlogin"
    assert said(terminal, "echo $PBS_JOBID $PBS_ENVIRONMENT") == f"{terminal.job.id} PBS_INTERACTIVE"
    assert said(terminal, "stty size") == "24 80"
    terminal.type(b"exit 7\r")
    assert terminal.wait() == 7


def test_window_size(interactive: Open) -> None:
    terminal = at_prompt(interactive())
    terminal.type(b"trap 'stty size' WINCH\r")
    terminal.wait_for(PROMPT)
    terminal.resize(50, 132)
    terminal.wait_for(b"50 132")


def test_keys_that_make_signals(interactive: Open, guest: Guest) -> None:
    """^C, ^Z, fg and ^D are the guest's."""
    def sleeps(seconds: int) -> bool:
        return state(guest, f"sleep {seconds}") == {"S"}

    terminal = at_prompt(interactive())
    terminal.type(b"sleep 1021\r")
    until(lambda: sleeps(1021))
    terminal.type(b"\x03")
    terminal.wait_for(PROMPT)
    assert said(terminal, "echo $?") == "130"
    terminal.type(b"sleep 1022\r")
    until(lambda: sleeps(1022))
    terminal.type(b"\x1a")
    terminal.wait_for(PROMPT)
    assert "Stopped" in said(terminal, "jobs")
    terminal.type(b"fg\r")
    terminal.wait_for(b"sleep 1022\r\n")
    until(lambda: sleeps(1022))
    terminal.type(b"\x03")
    terminal.wait_for(PROMPT)
    terminal.type(b"\x04")
    assert terminal.wait() == 130


def test_bytes_are_passed_on_as_they_are(interactive: Open) -> None:
    """No escape character, no flow control, no other translation on the node's side."""
    terminal = at_prompt(interactive())
    terminal.type(b"stty raw -echo; echo r'a'w; head -c 6 | od -An -tx1; stty sane\r")
    terminal.wait_for(b"raw\n")
    terminal.type(b"\r~.\x11\x13\xff")
    assert b"0d 7e 2e 11 13 ff" in terminal.wait_for(PROMPT)


@pytest.mark.parametrize("words", [("-c",), ("/bin/bash", "-c")])
def test_command(interactive: Open, words: tuple[str, ...]) -> None:
    """qsub -I -x."""
    terminal = interactive()
    terminal.start_shell((*words, "tty >/dev/null && echo on a terminal; exit 5"))
    terminal.wait_for(b"on a terminal\r\n")
    assert terminal.wait() == 5


def test_the_nodes_terminal_is_as_before(interactive: Open) -> None:
    terminal = interactive()
    before = subprocess.run(["stty", "-g"], stdin=terminal.descriptor, capture_output=True, check=True).stdout
    at_prompt(terminal)
    assert subprocess.run(["stty", "-g"], stdin=terminal.descriptor, capture_output=True, check=True).stdout != before
    terminal.type(b"exit\r")
    terminal.wait()
    assert subprocess.run(["stty", "-g"], stdin=terminal.descriptor, capture_output=True, check=True).stdout == before


def test_term_ends_it(interactive: Open, guest: Guest) -> None:
    """qdel: a shell at its prompt ignores TERM, as it does on a node; what runs in it does not."""
    terminal = at_prompt(interactive())
    terminal.type(b"sleep 1023; echo status $?\r")
    until(lambda: bool(state(guest, "sleep 1023")))
    shell = int(Path(f"/proc/{terminal.reader.pid}/task/{terminal.reader.pid}/children").read_text().split()[0])
    os.kill(shell, 15)
    terminal.wait_for(b"status 143")


@pytest.mark.parametrize("who", ["qsub", "remoteshell"])
def test_nothing_goes_on_when_it_is_left(interactive: Open, guest: Guest, who: str) -> None:
    """Whether the terminal goes away or the job's shell is killed; though the job ignores the hang-up."""
    terminal = at_prompt(interactive())
    terminal.type(b"trap '' HUP; sleep 1024\r")
    until(lambda: left(guest))
    shell = int(Path(f"/proc/{terminal.reader.pid}/task/{terminal.reader.pid}/children").read_text().split()[0])
    if who == "qsub":
        terminal.reader.kill()
    else:
        os.kill(shell, 9)
    until(lambda: not left(guest))


def left(guest: Guest) -> list[str]:
    return [line for line in guest.processes() if "sleep 1024" in line]


def test_record_of_an_earlier_start(interactive: Open) -> None:
    """There is no script; the prologue that wrote the record was another process of mom's."""
    terminal = interactive(later=-1)
    terminal.start_shell()
    terminal.wait_for(b"vmbatch: the job does not run: the guest was made for an earlier start of this job")
    assert terminal.wait() == 255


def test_record_of_another_process_of_moms(interactive: Open, mom: Mom) -> None:
    terminal = interactive()
    loopback.write_record(mom, terminal.job, leader=mark(1))
    terminal.start_shell()
    terminal.wait_for(b"earlier start of this job")
    assert terminal.wait() == 255


def test_no_record(mom: Mom) -> None:
    job = mom.accept(b"")
    terminal = mom.open_terminal(job)
    terminal.start_shell()
    terminal.wait_for(b"has no guest: its prologue has not handed one over")
    assert terminal.wait() == 255
    terminal.close()


def test_guest_without_network(interactive: Open) -> None:
    terminal = interactive(console="/dev/null")
    terminal.start_shell()
    terminal.wait_for(b"its guest has no network, and an interactive job needs one; submit to a queue whose guests")
    assert terminal.wait() == 255


@pytest.mark.parametrize("term", ["", "a b", "x" * 100, "$(id)", "xterm\n"])
def test_strange_terminals(interactive: Open, term: str) -> None:
    """What is no terminal's name does not reach ssh, or the guest."""
    terminal = at_prompt(interactive(), term=term)
    assert said(terminal, "echo [$TERM]") in ("[dumb]", "[]")


COOKIE = "00112233445566778899aabbccddeeff"


def x_display(guest: Guest) -> dict[str, str]:
    """What mom leaves for qsub -X: a display on the node, and its cookie in the user's file."""
    authority = Path("/home/alice/.Xauthority")
    authority.unlink(missing_ok=True)
    subprocess.run(["setpriv", "--reuid=alice", "--regid=alice", "--clear-groups", "xauth", "-f", str(authority), "add",
                    "127.0.0.1:17", "MIT-MAGIC-COOKIE-1", COOKIE], check=True, capture_output=True)
    return {"DISPLAY": "127.0.0.1:17.0", "XAUTHORITY": str(authority)}


def test_x11_where_the_site_lets_it(interactive: Open, guest: Guest) -> None:
    terminal = at_prompt(interactive(x11=True, variables=x_display(guest)))
    display = said(terminal, "echo $DISPLAY")
    assert display.endswith(".0") and display.startswith("localhost:1") and display != "127.0.0.1:17.0"
    cookies = said(terminal, "xauth list | cut -d' ' -f3-")
    assert "MIT-MAGIC-COOKIE-1" in cookies
    assert COOKIE not in cookies, "the node's cookie stays on the node"


def test_no_x11_where_it_does_not(interactive: Open, guest: Guest) -> None:
    terminal = at_prompt(interactive(variables=x_display(guest)))
    assert said(terminal, "echo $DISPLAY; echo $XAUTHORITY") == "127.0.0.1:17.0\n/home/alice/.Xauthority"
