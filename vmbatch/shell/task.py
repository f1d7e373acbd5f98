"""What a task of Slurm's is to run in the guest."""

from __future__ import annotations

import os

from .call import Call, is_null, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..handover import Handover

_PROGRAM = b"'p=$1; shift; [ -x \"$p\" ] || p=$0; exec \"$p\" \"$@\"'"


class Task(Call):
    """The batch script with its arguments (`step` is `batch`), or a step's command.

    A command's program is named by its path on the node where the job was submitted; in the guest it may lie elsewhere.
    """

    def __init__(
        self, handover: Handover, step: str, words: list[str], environ: dict[str, str], *, terminal: bool = False,
    ) -> None:
        self.handover = handover
        self.terminal = terminal
        self.directory = b""
        self.shell = ""
        self.script = None
        self.arguments = b""
        self.command = None
        self.uses_input = not is_null(0)
        self._environ = environ
        quoted = [quote(os.fsencode(word)) for word in words]
        if step == "batch":
            self._take_script(words[0], None)
            self.arguments = b" ".join(quoted[1:])
        else:
            name = quote(os.fsencode(os.path.basename(words[0])))
            self.command = b" ".join([b"exec /bin/sh -c", _PROGRAM, name, *quoted])
