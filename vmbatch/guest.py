"""What guests tell the node: messages on the share, over the serial channel or by the console."""

import ipaddress
import re

import msgspec

from .errors import NodeError

MESSAGE_BYTES = 4096
JOB_COMES = b"vmbatch 1 job %d\n"
"""Precedes the context of a guest that waits, with its bytes."""
JOB_OVER = b"vmbatch 1 over\n"
"""To a guest that has had a job, and is to clean itself for another one."""


class Message(msgspec.Struct, frozen=True):
    """A message from a guest; `text` for failed, times, heartbeat, printable and bounded; else `address`, '' without one."""

    kind: str
    address: str = ""
    text: str = ""


class Way(msgspec.Struct, frozen=True):
    """How the node reaches a guest: its sshd at `address` and `port`, or the pty of its console `terminal`."""

    address: str
    terminal: str = ""
    port: int = 22

    def __str__(self) -> str:
        return self.terminal or (self.address if self.port == 22 else f"{self.address} port {self.port}")


def parse_message(data: bytes, token: str) -> Message:
    """A guest's message, as hostile input. NodeError says what is wrong with it."""
    match = re.fullmatch(rb"vmbatch 1 (announce|waiting|ready|busy|failed|times|heartbeat) ([0-9a-f]{32}) ([^\n]{1,600})\n",
                         data[:MESSAGE_BYTES + 1])
    if not match:
        raise NodeError("the guest wrote a message that is not one of the kit's", code="VB709")
    if match[2].decode() != token:
        raise NodeError("the guest wrote a message with another start's token", code="VB709")
    kind = match[1].decode()
    if kind in ("failed", "times", "heartbeat"):
        return Message(kind, text=printable(match[3]))
    if match[3] == b"-":
        return Message(kind)
    try:
        address = ipaddress.ip_address(match[3].decode("ascii"))
    except ValueError:
        raise NodeError(f"the guest says its address is {printable(match[3])[:60]!r}", code="VB709") from None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        raise NodeError(f"the guest says its address is {address}, which no guest can have", code="VB709")
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
