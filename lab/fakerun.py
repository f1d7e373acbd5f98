"""Runs of jobs in guests that are none: what the node sees of them, and a record of each begin and end.

A job of such a guest does nothing, for the seconds that its variable `JOB_SECONDS` says (a fraction by default), or until a
signal or its guest's end. It exits with `JOB_EXIT`.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from vmbatch.request import login_command

if TYPE_CHECKING:
    from .fakeguest import Guest, Guests

JOBS = Path("/var/lib/vmbatch/jobs")
_LOOK_SECONDS = 0.02


@dataclass
class Run:
    """A run under way; `signal` is what it was sent."""

    guest: "Guest"
    id: str
    signal: str = ""
    over: threading.Event = field(default_factory=threading.Event)


class Desk:
    """Answers what the node asks of its guests."""

    def __init__(self, path: str, guests: "Guests", connection: "libvirt.virConnect") -> None:
        self._guests = guests
        self._connection = connection
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._book = os.open(f"{path}.runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **what: object) -> None:
        """One line in the record."""
        os.write(self._book, json.dumps(what).encode() + b"\n")

    def answer(self, client: socket.socket) -> None:
        """One call."""
        with client, client.makefile("rb") as stream:
            try:
                address, _, command = stream.readline().decode().rstrip("\n").partition(" ")
                guest = self._guests.known(address)
                if guest is not None and self._alive(guest):
                    self._obey(guest, command, client, stream)
            except OSError:
                pass

    def _obey(self, guest: "Guest", command: str, client: socket.socket, stream: "socket.SocketIO | object") -> None:
        words = command.split()
        script = words[2].rpartition("/")[2] if len(words) > 2 else ""
        if command == login_command() and guest.mute:
            while self._alive(guest):
                time.sleep(_LOOK_SECONDS)
        elif command == login_command():
            guest.say("ready")
            self._say(client, "exit 0")
        elif script == "job.sh":
            self._run(guest, words[3], client, stream)
        elif script == "signal.sh":
            run = self._runs.get(words[3])
            if run is not None:
                run.signal = words[4]
                run.over.set()
            self._say(client, f"exit {int(run is None)}")
        else:
            self._say(client, "exit 127")

    def _run(self, guest: "Guest", number: str, client: socket.socket, stream: object) -> None:
        variables = {}
        for line in iter(stream.readline, b""):  # type: ignore[attr-defined]
            if line == b"run\n":
                break
            if match := re.fullmatch(rb"env (\w+) (.*)\n", line):
                variables[match[1].decode()] = match[2].decode()
        else:
            self._say(client, "exit 125")  # as job.sh: the request has no end
            return
        run = Run(guest, number)
        with self._lock:
            beside = [other.guest.token for other in self._runs.values()
                      if other.guest.job == guest.job and self._alive(other.guest)]
            self._runs[number] = run
        self.note(event="begin", job=guest.job, token=guest.token, start=int(variables.get("START", "0")), owner=_owner(guest),
                  beside=beside, run=number, time=time.time())
        self._say(client, f"out in guest {guest.token}")
        seconds = float(variables.get("JOB_SECONDS", "0.05"))
        over = time.monotonic() + seconds
        while self._alive(guest) and time.monotonic() < over and not run.over.wait(_LOOK_SECONDS):
            pass
        alive = self._alive(guest)
        with self._lock:
            del self._runs[number]
        self.note(event="end", job=guest.job, token=guest.token, run=number, signal=run.signal, lost=not alive, time=time.time())
        if alive:
            self._say(client, f"exit {143 if run.signal else int(variables.get('JOB_EXIT', '0'))}")

    def _alive(self, guest: "Guest") -> bool:
        try:
            self._connection.lookupByUUIDString(guest.uuid)
        except libvirt.libvirtError:
            return False
        return True

    def _say(self, client: socket.socket, line: str) -> None:
        client.sendall(line.encode() + b"\n")


def _owner(guest: "Guest") -> int:
    """The process id of the prologue that made a guest."""
    try:
        name = guest.job.replace("[", "-").replace("]", "")
        first = json.loads((JOBS / f"{name}.journal").read_text().splitlines()[0])
        return int(first["owner"]["pid"]) if first["token"] == guest.token else 0
    except (OSError, ValueError, IndexError):
        return 0


def serve(path: str, guests: "Guests", connection: "libvirt.virConnect") -> None:
    """In threads of its own."""
    desk = Desk(path, guests, connection)
    server = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of one before us that was killed
    server.bind(path)
    os.chmod(path, 0o666)  # noqa: S103 (the job's users are to reach their guests)
    server.listen(64)

    def accept() -> None:
        while True:
            client, _ = server.accept()
            threading.Thread(target=desk.answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
