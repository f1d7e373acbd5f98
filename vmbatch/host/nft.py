"""nft(8): changes of the kernel's packet filters, each of which is made as a whole or not at all."""

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

from ..errors import CommandError, NodeError
from ..units import Deadline
from . import process

_SECONDS = 20.0
_MOST = 64 << 20
"""Of a list; a guest's interface has some 20 KB in it."""
_ABSENT = "No such file or directory"
"""ENOENT in the words of programs' environment."""
HINT = ("install nftables; its bridge family must be in this node's kernel; without filters: [network] filter = false, or "
        "<vbnetwork filter='no'> in the template")


class AbsentError(NodeError):
    """Something that the text is about is not there."""


def apply(text: str) -> None:
    """Does what the text says, if all of it can be done. NodeError with nft's reason; AbsentError."""
    with applying(text) as finish:
        finish()


def applying(text: str) -> AbstractContextManager[Callable[[], None]]:
    """As `apply`, while something else is done, however long: the function waits for it. What is not done at the end never is."""
    return _running(["-f", "-"], text)


def check(text: str) -> None:
    """NodeError if `apply` would fail."""
    with _running(["-c", "-f", "-"], text) as finish:
        finish()


def listed(*what: str) -> list[dict[str, Any]]:
    """What `nft list` shows, as libnftables-json(5) has it; nothing where the program is not there. NodeError."""
    if process.find("nft") is None:
        return []
    deadline = process.patience(_SECONDS)
    working = process.start([_program(), "-j", "list", *what])
    said = b""
    try:
        for piece in process.stream(working, deadline, process.alive):
            said += piece
            if len(said) > _MOST:
                raise NodeError(f"nft list {' '.join(what)} has no end", code="VB603")
        found = msgspec.json.decode(said, type=dict[str, list[dict[str, Any]]])
    except CommandError:
        why = _reason(said.decode(errors="replace"))
        raise NodeError(f"nft did not list {' '.join(what)}: {why}", HINT, code="VB603") from None
    except msgspec.MsgspecError as error:
        raise NodeError(f"nft did not list {' '.join(what)} as JSON: {error}", HINT, code="VB603") from None
    finally:
        process.end(working)
    return found["nftables"]


@contextmanager
def _running(words: list[str], text: str) -> Iterator[Callable[[], None]]:
    fd = os.memfd_create("vmbatch", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        with process.running([_program(), *words], stdin=fd) as finish:
            yield functools.partial(_finish, finish)
    finally:
        os.close(fd)


def _finish(finish: Callable[[Deadline], str]) -> None:
    try:
        finish(process.patience(_SECONDS))
    except CommandError as error:
        why = _reason(error.output)
        if _ABSENT in why:
            raise AbsentError(f"nft did not change the guest's network filter: {why}", HINT, code="VB603") from None
        raise NodeError(f"nft did not change the guest's network filter: {why}", HINT, code="VB603") from None


def _program() -> str:
    program = process.find("nft")
    if program is None:
        raise NodeError("nft is not on this node, and guests' network filters are made by it", HINT, code="VB603")
    return program


def _reason(said: str) -> str:
    """The first of nft's errors, with what it is about; it shows the line, and marks a place in the next one."""
    lines = [re.sub(r"^/dev/stdin:[0-9:-]+:? *", "", line).strip() for line in said.splitlines() if not set(line) <= set(" ^~")]
    return ": ".join(lines[:2]) or "it did not say why"
