"""The guest as the job's shell sees it from the node: the process that runs it, and what the node has written of its end."""

from __future__ import annotations

import os

from . import LOST, RefusedError, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..handover import Handover

ENDED = 253
"""Exit status: the guest has ended under its job."""
ENDED_HERE = 252
"""Exit status: the node has ended the guest, and says why."""
VERDICT = "verdict"
"""What the node has to say of the guest's end: a file of root's in the hand-over directory."""


class Guest:
    """`descriptor` becomes readable when the guest's process has ended; -1 where that is not known, or has happened."""

    def __init__(self, place: str, handover: Handover) -> None:
        self._place = place
        self.descriptor = -1
        self._gone = False
        if handover.guest is None:
            return
        try:
            self.descriptor = os.pidfd_open(handover.guest.pid)
            with open(f"/proc/{handover.guest.pid}/stat", "rb", buffering=0) as file:
                if int(file.read().rpartition(b")")[2].split()[19]) != handover.guest.started:
                    self._gone, self.descriptor = True, -1
        except ProcessLookupError:
            self._gone = True
        except OSError:  # proc(5), hidepid: whose process it is cannot be seen
            self.descriptor = -1

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether it is known to have ended, or does so within that time."""
        if self.descriptor >= 0 and not self._gone:
            import select

            self._gone = bool(select.select([self.descriptor], [], [], seconds)[0])
        return self._gone

    def judge(self) -> int:
        """Says in the job's stderr why the guest has ended, as far as that is known here; the exit status."""
        from .proof import trusted

        try:
            text = trusted(f"{self._place}/{VERDICT}").decode(errors="replace").strip()
        except (OSError, RefusedError):
            say("the job's guest has ended before its job: it has crashed, was shut down from inside, or was ended on the node",
                LOST)
            return ENDED
        say(text, LOST)
        return ENDED_HERE
