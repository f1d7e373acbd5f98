"""The process that ends a guest which has hung: `python3 -Im vmbatch.watcher RECORD`, started by the prologue.

It is there as long as the guest and its record (hypervisor/watcher.py). What it cannot see it does not judge: while libvirt or
the share do not answer, or after this process or the node has stood still, the guest has its whole time again.
"""

import contextlib
import os
import sys
import time
from typing import Protocol

from . import verdict
from .errors import NodeError, UnreachableError
from .exchange.inbox import Inbox
from .host import socket, virt, virtend
from .host.log import Log, tell_user
from .hypervisor.watcher import Watcher, read
from .template import channel_path

_STEP_SECONDS = 5.0
_PIECE_BYTES = 4096
_PIECES = 64


class Ear(Protocol):
    """Where a guest's signs of life arrive."""

    def heard(self) -> bool:
        """Whether there is a new one since the last look. NodeError, OSError if that cannot be seen."""


class ShareEar:
    """The guest rewrites a message on its share: each new content is a sign."""

    def __init__(self, place: str, token: str, *, local: bool) -> None:
        self._inbox = Inbox(place, token, local=local)
        self._last = ""

    def heard(self) -> bool:
        """A message that is none, or half-written, is no sign. UnreachableError if the share does not answer."""
        try:
            message = self._inbox.read("heartbeat")
        except UnreachableError:
            raise
        except NodeError:
            return False
        if message is None or message.text == self._last:
            return False
        self._last = message.text
        return True


class PortEar:
    """The guest writes to its port: whatever it is."""

    def __init__(self, uri: str, uuid: str) -> None:
        self._uri = uri
        self._uuid = uuid
        self._fd = -1

    def heard(self) -> bool:
        """A flood is read bit by bit."""
        if self._fd < 0:
            path = channel_path(virt.running_xml(self._uri, self._uuid))
            if path is None:
                raise NodeError("the guest has no port for its messages", code="VB709")
            self._fd = socket.connect(path)
        heard = False
        for _ in range(_PIECES):
            try:
                data = os.read(self._fd, _PIECE_BYTES)
            except BlockingIOError:
                return heard
            if not data:
                os.close(self._fd)
                self._fd = -1
                raise NodeError("the guest's port was closed", code="VB709")
            heard = True
        return heard


class Patience:
    """When a guest that is to be heard every `seconds` has hung; `step` is the time between two looks."""

    def __init__(self, seconds: float, now: float) -> None:
        self.step = min(seconds / 4, _STEP_SECONDS)
        self._seconds = seconds
        self._since = self._looked = now

    def over(self, heard: bool | None, now: float) -> bool:
        """After a look, of which None says that nothing could be seen; one that came late counts as such."""
        if heard is not False or now - self._looked > 2 * self.step:
            self._since = now
        self._looked = now
        return now - self._since > self._seconds


def watch(record: Watcher, log: Log) -> None:
    """Until the guest is gone, by itself or by us."""
    domain = record.domain
    ear: Ear | None = None
    patience = Patience(record.seconds, time.monotonic())
    said = ""
    while os.path.exists(record.path):
        state = virt.state(domain.uri, domain.uuid)
        heard = None
        if state is not None and state not in ("running", "paused"):
            return
        if state is not None:
            with contextlib.suppress(NodeError, OSError):
                ear = ear or (ShareEar(record.place, record.token, local=record.local) if record.place
                              else PortEar(domain.uri, domain.uuid))
                heard = ear.heard()
        if patience.over(heard, time.monotonic()):
            try:
                end(record, state or "", log)
                return
            except NodeError as error:  # which may not last
                if str(error) != said:
                    said = str(error)
                    log.line(f"the guest cannot be ended: {said}")
        time.sleep(patience.step)


def end(record: Watcher, state: str, log: Log) -> None:
    """Ends the guest, and says why."""
    how = virtend.trouble(record.domain.uri, record.domain.name, record.domain.uuid) if state == "paused" else ""
    text = (f"the node has ended the job's guest: nothing was heard from it for {record.seconds:.0f} s"
            + (f", and {how}" if how else ", so it had hung"))
    log.line(text)
    verdict.end(record.domain, record.handover, record.token, text)


def main() -> None:
    """Of the process."""
    try:
        record = read(sys.argv[1])
        watch(record, Log(record.log, record.job, "watcher"))
    except NodeError as error:
        tell_user(error.lines())
        sys.exit(1)


if __name__ == "__main__":
    main()
