"""What mom sends to the job's session, as the job's processes in the guest see it; and that they do not outlive the job."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.loopback import Guest
from lab.mom import KILL_DELAY_SECONDS, Job, Mom, session_members

from .conftest import Accept


def started(mom: Mom, job: Job, **how: object) -> "subprocess.Popen[bytes]":
    """The job's shell, once the job has said `armed`."""
    process = mom.start_shell(job, stdout=subprocess.PIPE, **how)  # type: ignore[arg-type]
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n", job.errors
    return process


def to_session(session: int, number: int, times: int = 1) -> None:
    """As mom does: TERM once to every process of the session, other signals four times (torque.md, Signals)."""
    for _ in range(times):
        for member in session_members(session):
            os.kill(member, number)


def rest(process: "subprocess.Popen[bytes]") -> tuple[bytes, int]:
    assert process.stdout is not None
    return process.stdout.read(), process.wait()


def until(condition: object, seconds: float = 60.0) -> None:
    over = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < over, "too late"
        time.sleep(0.02)


def named(guest: Guest, word: str) -> list[str]:
    """Processes in the guest with a word in their command line."""
    return [line for line in guest.processes() if word in line and "ps -eo" not in line]


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "USR2", "HUP", "QUIT", "ALRM"])
def test_handler_in_the_script(mom: Mom, accept: Accept, name: str) -> None:
    """The script cleans up, and its exit code is the job's; remoteshell stays until then."""
    trap = f"trap 'echo caught; sleep 0.3; echo done; exit 9' {name}"
    job = accept(f"#!/bin/bash\n{trap}\necho armed\nwhile :; do sleep 0.05; done\n")
    process = started(mom, job)
    to_session(process.pid, getattr(signal, f"SIG{name}"), 1 if name == "TERM" else 4)
    assert rest(process) == (b"caught\ndone\n", 9)


def test_term_comes_once_within_the_kill_delay(mom: Mom, accept: Accept) -> None:
    """Mom sends it once to every process of the session: the job must not see it twice."""
    job = accept("#!/bin/bash\ntrap 'echo term' TERM\necho armed\nfor n in $(seq 60); do sleep 0.05; done\nexit 5\n")
    begin = time.monotonic()
    process = started(mom, job)
    to_session(process.pid, signal.SIGTERM)
    assert rest(process) == (b"term\n", 5)
    assert time.monotonic() - begin < 60 * KILL_DELAY_SECONDS


def test_every_process_of_the_session_gets_it(mom: Mom, accept: Accept) -> None:
    """Not the script's process group alone: background jobs of a shell with job control have groups of their own."""
    job = accept("""#!/bin/bash
set -m
bash -c 'trap "echo child; exit" TERM; echo ready; while :; do sleep 0.05; done' &
trap 'wait; echo parent; exit 3' TERM
while [ -z "$(jobs -r)" ]; do sleep 0.05; done
sleep 0.5
echo armed
wait
""")
    process = mom.start_shell(job, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert {process.stdout.readline(), process.stdout.readline()} == {b"ready\n", b"armed\n"}
    to_session(process.pid, signal.SIGTERM)
    assert rest(process) == (b"child\nparent\n", 3)


def test_death_by_the_signal(mom: Mom, accept: Accept) -> None:
    job = accept("#!/bin/sh\necho armed\nsleep 1000\n")
    process = started(mom, job)
    to_session(process.pid, signal.SIGTERM)
    assert rest(process) == (b"", 128 + signal.SIGTERM)


def test_signal_while_the_job_is_being_started(mom: Mom, accept: Accept, guest: Guest) -> None:
    """It is kept until there is a job that can have it."""
    before = guest.base / "before.d"
    before.mkdir()
    (before / "slow").write_text("#!/bin/sh\necho armed\nsleep 1\n")
    (before / "slow").chmod(0o755)
    try:
        process = started(mom, accept("#!/bin/sh\nexec sleep 1000\n"))
        to_session(process.pid, signal.SIGTERM)
        assert rest(process) == (b"", 128 + signal.SIGTERM)
    finally:
        (before / "slow").unlink()
        before.rmdir()


def state(guest: Guest, word: str) -> set[str]:
    found = subprocess.run(["nsenter", f"--target={guest.pid}", "--mount", "--pid", "ps", "-eo", "state=,args="],
                           capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in found.splitlines() if word in line}


def children(process: "subprocess.Popen[bytes]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def suspend(process: "subprocess.Popen[bytes]") -> None:
    """TSTP to the session and STOP 50 ms later, as mom does; on a slower machine when a process outside looks on."""
    outside = len(children(process))
    to_session(process.pid, signal.SIGTSTP)
    time.sleep(0.05)
    until(lambda: len(set(children(process)) - set(session_members(process.pid))) > outside)
    to_session(process.pid, signal.SIGSTOP)


def test_suspension(mom: Mom, accept: Accept, guest: Guest) -> None:
    """The job in the guest stops; CONT has it go on (resmom/requests.c)."""
    job = accept("#!/bin/bash\ntrap 'echo stopping' TSTP\ntrap 'echo going on' CONT\necho armed\n"
                 "for n in $(seq 30); do sleep 0.1234; done\nexit 6\n")
    process = started(mom, job)
    suspend(process)
    until(lambda: state(guest, "sleep 0.1234") == {"T"})
    time.sleep(0.5)
    assert state(guest, "sleep 0.1234") == {"T"}
    to_session(process.pid, signal.SIGCONT)
    shown, status = rest(process)
    assert (sorted(shown.splitlines()), status) == ([b"going on", b"stopping"], 6)  # bash has its traps wait for the sleep


def test_deleted_while_suspended(mom: Mom, accept: Accept, guest: Guest) -> None:
    """mom has it go on before the TERM."""
    process = started(mom, accept("#!/bin/bash\necho armed\nsleep 1011\n"))
    suspend(process)
    until(lambda: state(guest, "sleep 1011") == {"T"})
    to_session(process.pid, signal.SIGCONT)
    time.sleep(0.2)
    to_session(process.pid, signal.SIGTERM)
    assert rest(process) == (b"", 128 + signal.SIGTERM)


def test_tstp_alone_does_not_stop_the_job(mom: Mom, accept: Accept) -> None:
    """As on a node, where the job's process group is an orphaned one (POSIX, SIGTSTP)."""
    process = started(mom, accept("#!/bin/bash\ntrap 'echo tstp; exit 8' TSTP\necho armed\nwhile :; do sleep 0.05; done\n"))
    to_session(process.pid, signal.SIGTSTP, 4)
    assert rest(process) == (b"tstp\n", 8)


@pytest.mark.parametrize("victim", ["remoteshell", "ssh"])
def test_nothing_goes_on_without_its_host_side(mom: Mom, accept: Accept, guest: Guest, victim: str) -> None:
    """mom's KILL, the kernel's, or a broken connection: the run in the guest dies at once."""
    process = started(mom, accept("#!/bin/bash\ntrap : TERM HUP\necho armed\nsleep 1012 & wait\n"))
    if victim == "remoteshell":
        process.kill()
        assert process.wait() == -signal.SIGKILL
    else:
        os.kill(children(process)[0], signal.SIGKILL)
        assert process.wait() == 255
    until(lambda: not named(guest, "sleep 1012"))


def test_nothing_goes_on_without_its_host_side_if_it_reads(mom: Mom, accept: Accept, guest: Guest) -> None:
    """A run with an input of its own looks every few seconds."""
    source, sink = os.pipe()
    job = accept("#!/bin/bash\ntrap : TERM HUP\necho armed\nsleep 1013 & wait\n")
    process = started(mom, job, way="interpreter", words=[str(job.script)], stdin=source)
    process.kill()
    process.wait()
    until(lambda: not named(guest, "sleep 1013"))
    os.close(source)
    os.close(sink)


def test_what_a_job_leaves_behind_ends_with_it(mom: Mom, accept: Accept, guest: Guest) -> None:
    """As mom kills the rest of the session; so a child that holds the job's output does not keep the job."""
    job = accept("#!/bin/bash\nset -m\nsleep 1014 &\n(trap : TERM HUP; sleep 1014) &\necho armed\nexit 4\n")
    assert rest(started(mom, job)) == (b"", 4)
    until(lambda: not named(guest, "sleep 1014"))


def test_what_has_left_the_session_stays_until_the_guest_ends(mom: Mom, accept: Accept, guest: Guest) -> None:
    """Torque leaves such processes alone, too; here they end with the guest."""
    job = accept("#!/bin/bash\nsetsid sleep 1015 >/dev/null 2>&1 </dev/null &\nsleep 0.3\necho armed\nexit 4\n")
    assert rest(started(mom, job)) == (b"", 4)
    assert named(guest, "sleep 1015")
    guest.inside("pkill", "-f", "sleep 1015")
