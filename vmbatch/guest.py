"""What node and guest tell each other: messages on the share, requests before a job's input, commands of the kit."""

import ipaddress
import re

import msgspec

from .errors import NodeError
from .job import Script

BASE = "/var/lib/vmbatch"
MESSAGE_BYTES = 4096
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._=:,+@%- ")
_FILE_CHUNK = 8192
_SIGNALS = frozenset((
    "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "WINCH", "KILL",
))


class Message(msgspec.Struct, frozen=True):
    """A message from a guest; `address` for announce and ready, '' without a network; `text`, printable and bounded, else."""

    kind: str
    address: str = ""
    text: str = ""


def parse_message(data: bytes, token: str) -> Message:
    """A guest's message, as hostile input. NodeError says what is wrong with it."""
    match = re.fullmatch(rb"vmbatch 1 (announce|ready|failed|times) ([0-9a-f]{32}) ([^\n]{1,600})\n", data[:MESSAGE_BYTES + 1])
    if not match:
        raise NodeError("the guest wrote a message that is not one of the kit's")
    if match[2].decode() != token:
        raise NodeError("the guest wrote a message with another start's token")
    kind = match[1].decode()
    if kind in ("failed", "times"):
        return Message(kind, text=printable(match[3]))
    if match[3] == b"-":
        return Message(kind)
    try:
        address = ipaddress.ip_address(match[3].decode("ascii"))
    except ValueError:
        raise NodeError(f"the guest says its address is {printable(match[3])[:60]!r}") from None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        raise NodeError(f"the guest says its address is {address}, which no guest can have")
    return Message(kind, address=str(address))


def spans(text: str) -> dict[str, float]:
    """Seconds of each part of a guest's boot, out of a `times` message; empty for what is not one.

    It has the seconds since the guest's kernel began at which prolog and epilog began, there was an address, and all was mounted.
    """
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?( [0-9]{1,7}(\.[0-9]{1,3})?){3}", text):
        return {}
    points = [0.0, *map(float, text.split())]
    return {name: max(0.0, after - before)
            for name, before, after in zip(("kernel", "boot", "network", "shares"), points[:-1], points[1:], strict=True)}


def printable(data: bytes, limit: int = 500) -> str:
    """Text of a guest as it may be shown: no control characters or escape sequences, bounded."""
    text = re.sub(rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])?", b"", data).decode("utf-8", "replace")
    return "".join(char for char in text if char.isprintable())[:limit]


def escape(value: bytes) -> bytes:
    """For `printf %b` of a POSIX shell."""
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"\\0%03o" % byte for byte in value)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a run in the guest is to do; exactly one of medium's script, `script` and `command`."""

    environment: dict[bytes, bytes]
    directory: bytes = b""
    shell: bytes = b""
    script: bytes | None = None
    arguments: bytes = b""
    command: bytes | None = None

    def encode(self) -> bytes:
        """The request as the kit's job.sh reads it (docs/architecture.md)."""
        lines = [b"vmbatch 1"]
        for name, value in sorted(self.environment.items()):
            lines.append(b"env " + name + b" " + escape(value))
        if self.directory:
            lines.append(b"cwd " + escape(self.directory))
        if self.shell:
            lines.append(b"shell " + escape(self.shell))
        if self.script is not None:
            chunks = range(0, max(1, len(self.script)), _FILE_CHUNK)
            lines.extend(b"file " + escape(self.script[at : at + _FILE_CHUNK]) for at in chunks)
        if self.arguments:
            lines.append(b"args " + escape(self.arguments))
        if self.command is not None:
            lines.append(b"command " + escape(self.command))
        lines.append(b"run")
        return b"\n".join(lines) + b"\n"


def login_command() -> str:
    """Proves that the user can log in."""
    return f"exec /bin/sh {BASE}/kit/login.sh"


def run_command(run: str) -> str:
    """Runs a request; `run` is hexadecimal."""
    return f"exec /bin/sh {BASE}/kit/job.sh {int(run, 16):016x}"


def status_command(run: str) -> str:
    """Prints the exit status of a run that has ended."""
    return f"exec /bin/sh {BASE}/kit/status.sh {int(run, 16):016x}"


def signal_command(run: str, name: str) -> str:
    """Sends a signal, `TERM`, to the process group of a run."""
    if name not in _SIGNALS:
        raise ValueError(name)
    return f"exec /bin/sh {BASE}/kit/signal.sh {int(run, 16):016x} {name}"


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What the prologue leaves for the job shell: which start, which guest, and how to reach it.

    `address` is '' where the job's way is the character device `console`. `environment` maps the names of the batch system's own
    variables on this node to a digest of their values: what the job shell finds unchanged is the node's and stays there.
    """

    job: str
    token: str
    user: str
    uid: int
    address: str
    alias: str
    console: str
    template: str
    script: Script | None
    node_file: bool
    environment: dict[str, str]
