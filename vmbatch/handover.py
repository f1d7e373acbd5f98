"""The hand-over record: what the prologue leaves for the job's shell, which must read it in no time.

Text, a line a field, `name value`: numbers in decimal, all else as the hexadecimal of its bytes.
An optional field may be missing.
"""

from __future__ import annotations

import os

VERSION = b"vmbatch hand-over 1\n"
_TEXTS = ("job", "token", "user", "address", "alias", "console", "template")
_NUMBERS = ("uid", "node_file", "x11", "port")


class Mark:
    """A process of this node: `started` in clock ticks since boot (proc(5))."""

    __slots__ = ("pid", "started")

    def __init__(self, pid: int, started: int) -> None:
        self.pid = pid
        self.started = started


class ScriptMark:
    """The job's script file, of which each start of a job has a new one."""

    __slots__ = ("device", "inode", "mtime_ns", "path")

    def __init__(self, path: str, device: int, inode: int, mtime_ns: int) -> None:
        self.path = path
        self.device = device
        self.inode = inode
        self.mtime_ns = mtime_ns


class Handover:
    """Which start, which guest, how to reach it, and what proves that a job's shell belongs to this start.

    `script` is the proof of a batch job, and `leader` that of all in Torque. `address` is '' where the
    job's way is the character device `console`. `environment` maps the names of the batch system's own variables on this node
    to a digest of their values: what the job's shell finds unchanged is the node's and stays there. `x11`: whether the site lets
    interactive jobs have their submitter's display. `port` is where the guest's sshd is at its address. `guest` is the process
    that runs the guest, where the hypervisor has one.
    """

    __slots__ = ("address", "alias", "console", "environment", "guest", "job", "leader", "node_file", "port", "script",
                 "template",
                 "token", "uid", "user", "x11")

    def __init__(
        self, *, job: str, token: str, user: str, uid: int, address: str, alias: str, console: str, template: str,
        script: ScriptMark | None, node_file: bool, environment: dict[str, str], leader: Mark | None = None, x11: bool = False,
        guest: Mark | None = None, port: int = 22,
    ) -> None:
        self.job = job
        self.token = token
        self.user = user
        self.uid = uid
        self.address = address
        self.alias = alias
        self.console = console
        self.template = template
        self.script = script
        self.node_file = node_file
        self.environment = environment
        self.leader = leader
        self.x11 = x11
        self.guest = guest
        self.port = port

    def encode(self) -> bytes:
        """The record as `decode` reads it."""
        lines = [f"{name} {_hex(getattr(self, name))}" for name in _TEXTS]
        lines += [f"{name} {int(getattr(self, name))}" for name in _NUMBERS]
        if self.script is not None:
            script = self.script
            lines.append(f"script {script.device} {script.inode} {script.mtime_ns} {_hex(script.path)}")
        lines += [f"{name} {mark.pid} {mark.started}" for name, mark in (("leader", self.leader), ("guest", self.guest)) if mark]
        lines += [f"env {_hex(name)} {digest}" for name, digest in sorted(self.environment.items())]
        return VERSION + "".join(f"{line}\n" for line in lines).encode("ascii")


def decode(data: bytes) -> Handover:
    """A record. ValueError if it is none of this version."""
    if not data.startswith(VERSION):
        raise ValueError("not a record of this version")
    fields: dict[str, list[str]] = {}
    environment = {}
    try:
        for line in data[len(VERSION):].decode("ascii").splitlines():
            name, *words = line.split(" ")
            if name == "env":
                environment[_text(words[0])] = words[1]
            else:
                fields[name] = words
        script, leader, guest = fields.get("script"), fields.get("leader"), fields.get("guest")
        return Handover(
            **{name: _text(fields[name][0]) for name in _TEXTS}, uid=int(fields["uid"][0]), x11=fields["x11"][0] == "1",
            node_file=fields["node_file"][0] == "1", environment=environment, port=int(fields.get("port", ["22"])[0]),
            script=None if script is None else ScriptMark(_text(script[3]), *map(int, script[:3])),
            leader=None if leader is None else Mark(*map(int, leader)),
            guest=None if guest is None else Mark(*map(int, guest)),
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a whole record: {error}") from None


def _hex(text: str) -> str:
    return os.fsencode(text).hex()


def _text(digits: str) -> str:
    return os.fsdecode(bytes.fromhex(digits))
