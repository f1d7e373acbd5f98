"""What a task of Slurm's becomes in the guest, and with which environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch import request, slurmtask
from vmbatch.handover import Handover
from vmbatch.request import Request
from vmbatch.shell import RefusedError
from vmbatch.shell.task import Task

from .sample import TOKEN


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[int]:
    """The job's environment in a file, as the plugin leaves it."""
    path = tmp_path / "environment"
    path.write_bytes(b"SLURM_JOB_ID=42\0MINE=a=b\nc\0EMPTY=\0nonsense\0BAD-NAME=1\0HOSTNAME=n1\0SLURM_RLIMIT_CPU=1\0BYTES=\xff\0")
    yield os.open(path, os.O_RDONLY)


def test_the_jobs_environment(kept: int) -> None:
    assert slurmtask.read_environment(kept) == {
        "SLURM_JOB_ID": "42", "MINE": "a=b\nc", "EMPTY": "", "BAD-NAME": "1", "HOSTNAME": "n1", "BYTES": "\udcff",
    }
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)


@pytest.mark.parametrize("changed", [
    {"VMBATCH_ENVIRONMENT": ""}, {"VMBATCH_ENVIRONMENT": "x"}, {"VMBATCH_ENVIRONMENT": "99999"}, {"VMBATCH_JOB": None},
    {"VMBATCH_QUEUE": None}, {"VMBATCH_STEP": None}, {"VMBATCH_ENVIRONMENT": None},
])
def test_what_is_not_started_by_the_plugin(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]) -> None:
    environ = {"VMBATCH_JOB": "42", "VMBATCH_QUEUE": "vm", "VMBATCH_STEP": "0", "VMBATCH_ENVIRONMENT": "99999", **changed}
    monkeypatch.setattr(os, "environ", {name: value for name, value in environ.items() if value is not None})
    with pytest.raises(RefusedError, match=r"^its environment was not handed over: .*slurm-task is for Slurm's plugin"):
        slurmtask._run(["id"])


def made(monkeypatch: pytest.MonkeyPatch, kept: int, step: str, *words: str) -> Request:
    monkeypatch.setattr(os, "getcwd", lambda: "/home/alice")
    requests: list[Request] = []

    def keep(made: Request) -> bytes:
        requests.append(made)
        return b""

    monkeypatch.setattr(request.Request, "encode", keep)
    handover = Handover(
        console="", job="42", token=TOKEN, user="alice", uid=os.getuid(), address="10.77.0.5", alias="a", template="t",
        script=None, node_file=False, environment={"SLURM_JOB_ID": "x"},
    )
    Task(handover, step, list(words), slurmtask.read_environment(kept)).request()
    return requests[0]


def test_a_batch_script_is_sent_with_its_arguments(monkeypatch: pytest.MonkeyPatch, kept: int, tmp_path: Path) -> None:
    script = tmp_path / "slurm_script"
    script.write_bytes(b"#!/bin/bash\n\xff\n")
    sent = made(monkeypatch, kept, "batch", str(script), "a b", "it's", "$HOME")
    assert (sent.script, sent.command, sent.shell) == (b"#!/bin/bash\n\xff\n", None, b"")
    assert sent.arguments == b"'a b' 'it'\\''s' '$HOME'"
    assert sent.directory == b"/home/alice"
    assert sent.environment == {b"SLURM_JOB_ID": b"42", b"MINE": b"a=b\nc", b"EMPTY": b"", b"BYTES": b"\xff"}


@pytest.mark.parametrize("program", ["/usr/bin/bash", "/opt/site/bin/tool", "hostname", "./a'b"])
def test_a_step_is_a_command_of_the_guest(monkeypatch: pytest.MonkeyPatch, kept: int, program: str) -> None:
    """By its path; by its name where the guest has none there. A shell is no more than another program."""
    sent = made(monkeypatch, kept, "0", program, "-c", "echo $HOME")
    name, path = (word.replace("'", "'\\''") for word in (os.path.basename(program), program))
    assert sent.command == (
        b"exec /bin/sh -c 'p=$1; shift; [ -x \"$p\" ] || p=$0; exec \"$p\" \"$@\"' "
        + f"'{name}' '{path}' '-c' 'echo $HOME'".encode())
    assert (sent.script, sent.arguments) == (None, b"")


def test_a_script_that_is_not_there(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    with pytest.raises(RefusedError, match="/nowhere/slurm_script: No such file or directory"):
        made(monkeypatch, kept, "batch", "/nowhere/slurm_script")
