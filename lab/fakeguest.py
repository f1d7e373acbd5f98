"""Guests for libvirt's test driver, which runs none: python -m lab.fakeguest --uri URI --share DIR --spool DIR --network PREFIX

A domain whose description is `silent` never announces itself, and one that is `mute` lets nobody log in.

With `--socket PATH`, guests without sshd: a program that takes the client's place (see fakessh.py) reaches them there, and the
job's runs are played as far as the node can tell, and written down in PATH.runs, a line of JSON for each begin and end.

Plays the kit's part towards the host for every domain of ours that starts: announces an address on the share, lets the job's
user log in there by ssh with the job's keys, then says that it is ready. With `--port PATH`, a domain that is to wait for a job
hears of it there (see fakeport.py). Each domain gets an address of its own in the network, all of which must be local to the
machine. Writes the line `up` when it listens.
"""

import argparse
import contextlib
import itertools
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import paramiko
from paramiko import Channel, Ed25519Key, PKey, ServerInterface, Transport
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED, OPEN_SUCCEEDED

from vmbatch.request import login_command

from .fakeport import Line, Port

_OWNER = "urn:vmbatch:job:1"
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Guest:
    """One guest: its job's token, where it writes its messages, where the node keeps its keys."""

    token: str
    address: str
    place: Path
    keys: Path
    job: str = ""
    uuid: str = ""
    mute: bool = False
    line: list[Line] = field(default_factory=list)

    def say(self, kind: str, text: str = "") -> None:
        """A message, as the kit writes it, on the share or through the port by which a guest has heard of its job.

        A guest whose place is gone has nobody to talk to.
        """
        if self.line:
            self.line[0].say(f"vmbatch 1 {kind} {self.token} {text or self.address}\n")
            return
        with contextlib.suppress(OSError):
            new = self.place / f"{kind}.new"
            new.write_text(f"vmbatch 1 {kind} {self.token} {text or self.address}\n")
            new.rename(self.place / kind)


class Login(ServerInterface):
    """The guest's sshd: the job's key, and the command that proves a login."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.done = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        """Nothing but keys."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: PKey) -> int:
        """The job's key alone."""
        known = (self.guest.keys / "id_ed25519.pub").read_text().split()[1]
        return AUTH_SUCCESSFUL if key.get_base64() == known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Sessions."""
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: Channel, command: bytes) -> bool:
        """The kit's login.sh; anything else does not exist here."""
        status = 0 if command.decode() in (login_command(), login_command(party=True)) else 127

        def answer() -> None:
            if status == 0:
                self.guest.say("ready")
            with contextlib.suppress(OSError, EOFError):
                channel.send_exit_status(status)
                channel.close()
            self.done.set()

        threading.Timer(0.005, answer).start()  # once the request itself has been answered
        return True


class Guests:
    """All guests of a connection, by address."""

    def __init__(self, share: Path, spool: Path, network: str, failing: str, port: Port | None = None) -> None:
        """`port` is for those that are to wait for a job."""
        self.share = share
        self.port = port
        self.failing = failing
        self.spool = spool
        self._numbers = itertools.cycle(f"{network}.{high}.{low}" for high in range(1, 250) for low in range(1, 250))
        self._known: dict[str, Guest] = {}

    def boot(self, domain: "libvirt.virDomain") -> None:
        """A domain has started."""
        try:
            element = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _OWNER, 0)
            nature = re.search(r"<description>(\w+)</description>", domain.XMLDesc())
        except libvirt.libvirtError:
            return
        job, token, user = (re.search(rf"\b{name}=[\"']([^\"']+)", element) for name in ("id", "token", "user"))
        if job is None or token is None:
            return
        name = job[1].replace("[", "-").replace("]", "")
        shared = self.share / f"{name}@{os.uname().nodename}.{token[1]}" / "guest"
        guest = Guest(token[1], self._address(token[1]), shared, self.spool / f"{name}.{token[1]}" / "keys", job[1],
                      domain.UUIDString(), nature is not None and nature[1] == "mute")
        self._known[guest.address] = guest
        if nature is not None and nature[1] == "silent":
            return
        if self.port is not None and job[1].endswith(".pool"):
            guest.line.append(self.port.begin(guest.token, guest.address, lambda: _is_there(domain),
                                              lambda name: self._prepare(guest, name)))
        else:
            self._prepare(guest, "" if user is None else user[1])

    def _address(self, token: str) -> str:
        """A guest of the same start has it again."""
        before = next((guest.address for guest in self._known.values() if guest.token == token), None)
        return before or next(self._numbers)

    def _prepare(self, guest: Guest, user: str) -> None:
        """The guest is the user's from now on."""
        if user == self.failing:
            guest.say("failed", "played to fail")
        else:
            guest.say("announce")

    def listen(self) -> None:
        """Serves port 22 of every guest."""
        server = socket.create_server(("0.0.0.0", 22), backlog=64)  # noqa: S104 (each guest has an address)

        def accept() -> None:
            while True:
                client, _ = server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def known(self, address: str) -> Guest | None:
        """The guest at an address."""
        return self._known.get(address)

    def _serve(self, client: socket.socket) -> None:
        guest = self._known.get(client.getsockname()[0])
        try:
            if guest is None:
                client.close()
                return
            transport = Transport(client)
            transport.add_server_key(Ed25519Key(filename=str(guest.keys / "host_key")))
            login = Login(guest)
            transport.start_server(server=login)
            over = time.monotonic() + _PATIENCE_SECONDS
            while transport.is_active() and time.monotonic() < over and not login.done.wait(0.1):
                pass
            transport.join(1)
            transport.close()
        except (OSError, EOFError, paramiko.SSHException):  # the job was ended meanwhile
            client.close()


def _is_there(domain: "libvirt.virDomain") -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError:
        return False


def main() -> None:
    """Until killed. The connection stays open: with the last one, the test driver's domains would go."""
    parser = argparse.ArgumentParser(prog="python -m lab.fakeguest", description="Guests for libvirt's test driver.")
    parser.add_argument("--uri", required=True)
    for name in ("--share", "--spool"):
        parser.add_argument(name, required=True, type=Path)
    parser.add_argument("--network", required=True, help="the first two numbers of the guests' addresses, such as 10.78")
    parser.add_argument("--socket", metavar="PATH", help="serve guests without sshd there")
    parser.add_argument("--port", metavar="PATH", help="guests that are to wait for a job hear of it there")
    parser.add_argument("--failing", default="", metavar="USER", help="guests of this user fail to prepare themselves")
    options = parser.parse_args()
    guests = Guests(options.share, options.spool, options.network, options.failing,
                    Port(options.port) if options.port else None)
    libvirt.virEventRegisterDefaultImpl()
    connection = _connect(options.uri, guests)
    guests.listen()
    if options.socket:
        from .fakerun import serve

        serve(options.socket, guests, connection)
    os.write(1, b"up\n")
    while True:
        libvirt.virEventRunDefaultImpl()
        if not connection.isAlive():
            connection = _connect(options.uri, guests)


def _connect(uri: str, guests: Guests) -> "libvirt.virConnect":
    """To libvirtd, once it answers."""
    while True:
        try:
            connection = libvirt.open(uri)
            break
        except libvirt.libvirtError:
            time.sleep(0.02)

    def changed(_: "libvirt.virConnect", domain: "libvirt.virDomain", event: int, _detail: int, _more: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            guests.boot(domain)

    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None)
    return connection


if __name__ == "__main__":
    main()
