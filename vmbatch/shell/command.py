"""A command line that is to run in the guest by itself, without a batch system."""

from __future__ import annotations

import os

from .call import Call, is_null, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..handover import Handover


class Command(Call):
    """`words` as they are, in this directory of the guest, with these variables beside those of the user's login there."""

    def __init__(self, handover: Handover, words: list[str], environ: dict[str, str], directory: str, *,
                 terminal: bool = False) -> None:
        self.handover = handover
        self.terminal = terminal
        self.shell = ""
        self.script = None
        self.arguments = b""
        self.directory = os.fsencode(directory)
        self.command = b"exec " + b" ".join(quote(os.fsencode(word)) for word in words)
        self.uses_input = not is_null(0)
        self._environ = environ

    def _environment(self) -> dict[bytes, bytes]:
        return {os.fsencode(name): os.fsencode(value) for name, value in self._environ.items()}
