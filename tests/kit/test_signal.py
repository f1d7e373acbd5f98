"""signal.sh: signals from the host reach the whole job, and the wrapper outlives them."""

import os
import signal
import time
from pathlib import Path

import pytest

from .encoder import request
from .runs import ID, Runs, wait_for

GRANDCHILDREN = b"""#!/bin/sh
mkdir there
sh -c 'trap "touch there/deep; exit" TERM; touch there/1; while :; do sleep 0.05; done' &
sh -c 'sh -c "trap \\"touch there/deeper; exit\\" TERM; touch there/2; while :; do sleep 0.05; done"; :' &
trap 'touch there/handler; until [ -e there/deeper ]; do sleep 0.05; done; wait; exit 7' TERM
touch there/0
while :; do sleep 0.05; done
"""


def test_whole_job_gets_it(runs: Runs) -> None:
    there = Path(runs.environment["HOME"]) / "there"
    process = runs.start(request(file=GRANDCHILDREN))
    for name in "012":
        wait_for(there / name)
    assert runs.status() == (1, b"")
    assert runs.call("signal.sh", ID, "TERM").returncode == 0
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, b"")
    for name in ("handler", "deep", "deeper"):
        wait_for(there / name)
    assert runs.status() == (0, b"7\n")
    assert runs.call("signal.sh", ID, "TERM").returncode == 1


def test_the_first_process_alone(runs: Runs) -> None:
    there = Path(runs.environment["HOME"]) / "there"
    process = runs.start(request(file=GRANDCHILDREN))
    for name in "012":
        wait_for(there / name)
    assert runs.call("signal.sh", ID, "TERM", "alone").returncode == 0
    wait_for(there / "handler")
    assert not (there / "deep").exists()
    assert not (there / "deeper").exists()
    assert runs.call("signal.sh", ID, "TERM").returncode == 0
    assert process.wait(30) == 7
    assert runs.call("signal.sh", ID, "TERM", "alone").returncode == 1


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "ALRM", "TERM"])
def test_deaths(runs: Runs, name: str) -> None:
    """Also: the job has the default for each of them."""
    process = runs.start(request(login=b"/bin/bash", command=b"ulimit -c 0; : >started; exec sleep 60"))
    wait_for(Path(runs.environment["HOME"]) / "started")
    assert runs.call("signal.sh", ID, name).returncode == 0
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + getattr(signal, f"SIG{name}"), b"")


def test_stop_and_continue(runs: Runs) -> None:
    process = runs.start(request(command=b"touch started; read x; exit 6"))
    wait_for(Path(runs.environment["HOME"]) / "started")
    pid = runs.in_run("pid").read_text().strip()

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]

    assert runs.call("signal.sh", ID, "STOP").returncode == 0
    while state() != "T":
        time.sleep(0.01)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    time.sleep(0.1)
    assert state() == "T"
    assert runs.call("signal.sh", ID, "CONT").returncode == 0
    assert process.wait(timeout=30) == 6


def test_wrapper_outlives_signals(runs: Runs) -> None:
    process = runs.start(request(command=b"touch started; read x; exit 6"))
    wait_for(Path(runs.environment["HOME"]) / "started")
    for number in (1, 2, 3, 10, 12, 14, 15):
        os.kill(process.pid, number)
        time.sleep(0.02)
    assert process.poll() is None
    process.communicate(b"\n", timeout=30)
    assert process.returncode == 6
    assert runs.status() == (0, b"6\n")


def test_without_setsid(runs: Runs) -> None:
    """Then the job shares the wrapper's process group, and signals reach it by its pid."""
    code = 'command() { case $2 in setsid) return 1 ;; esac; }; . "$0"'
    runs.shell = [*runs.shell, "-c", code]
    process = runs.start(request(login=b"/bin/bash", command=b"touch started; exec sleep 60"))
    wait_for(Path(runs.environment["HOME"]) / "started")
    runs.shell = runs.shell[:-2]
    assert runs.call("signal.sh", ID, "TERM").returncode == 0
    assert process.wait(timeout=30) == 143


@pytest.mark.parametrize("name", ["", "9", "-9", "SIGTERM", "term", "TERM;id", "TERM 1", "0", "*"])
def test_bad_name(runs: Runs, name: str) -> None:
    assert runs.call("signal.sh", ID, name).returncode == 2


def test_before_the_run(runs: Runs) -> None:
    done = runs.call("signal.sh", ID, "TERM")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
