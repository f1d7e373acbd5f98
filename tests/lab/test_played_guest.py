"""The played guest runs what the kit's job.sh would run, and nothing else: a shell that dies in its request began no job."""

import io
import json
import socket
from pathlib import Path
from typing import cast

import libvirt

from lab.fakeguest import Guest, Guests
from lab.fakerun import Desk


def played(tmp_path: Path, request: bytes) -> tuple[bytes, list[str]]:
    """The answer to a request, and the events in the record."""
    connection = libvirt.open("test:///default")
    domain = connection.lookupByName("test")
    guest = Guest("token", "10.78.1.1", tmp_path, tmp_path, "42.vm", domain.UUIDString(), mute=False)
    desk = Desk(str(tmp_path / "socket"), cast(Guests, None), connection)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        desk._run(guest, "number", theirs, io.BytesIO(request))
        theirs.shutdown(socket.SHUT_WR)
        answer = ours.makefile("rb").read()
    return answer, [json.loads(line)["event"] for line in Path(f"{tmp_path}/socket.runs").read_text().splitlines()]


def test_a_whole_request_is_run(tmp_path: Path) -> None:
    answer, events = played(tmp_path, b"vmbatch 1\nenv START 1\nenv JOB_SECONDS 0\nenv JOB_EXIT 7\nrun\n")
    assert answer.splitlines()[-1] == b"exit 7"
    assert events == ["begin", "end"]


def test_a_request_without_its_end_is_not(tmp_path: Path) -> None:
    answer, events = played(tmp_path, b"vmbatch 1\nenv START 1\n")
    assert answer == b"exit 125\n"
    assert events == []
