"""The lab's hand in dom0: a function of `inside` is called by name, through the agent."""

import json
import socket
from typing import Any

from . import machine

SECONDS = 600.0
"""How long an answer may take; a prologue in dom0 takes half a minute."""


def call(do: str, **arguments: Any) -> Any:
    """What the function gave. RuntimeError with its traceback; machine.OuterCrash if dom0 does not answer."""
    found = machine.state()
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SECONDS)
            line.connect(str(found.agent))
            line.sendall(json.dumps({"do": do, "with": arguments}).encode() + b"\n")
            answer = json.loads(_all(line))
    except (OSError, ValueError) as error:
        machine.check(found)
        raise machine.OuterCrash(f"dom0 does not answer: {error}\n{machine.last_words(found)}") from None
    if "failed" in answer:
        raise RuntimeError(f"{do} in dom0: {answer['failed']}")
    return answer["gave"]


def _all(line: socket.socket) -> bytes:
    data = b""
    while piece := line.recv(1 << 16):
        data += piece
    return data
