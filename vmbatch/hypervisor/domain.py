"""A transient libvirt domain."""

import contextlib
import os
import re
import time

import msgspec

from ..errors import DeadlineError, EndedError, NodeError
from ..guard import interfaces
from ..host import virt, virtend
from ..resource import Resource
from ..units import Deadline

_IN_FLIGHT_SECONDS = 2.0
_RESTART_SECONDS = 5.0
_LEAST_SECONDS = 1.0
"""For an answer, however little time is left."""
_PAUSE_SECONDS = 0.02


class Restore(msgspec.Struct, frozen=True):
    """A saved guest to go on from: `memory` is libvirt's file of it, `xml` the path of the domain that takes its place.

    `devices` are the paths of what it gets before it goes on.
    """

    memory: str
    xml: str
    devices: tuple[str, ...]


class Domain(Resource, frozen=True, tag="domain"):
    """`xml` is the path of the domain's XML in the job's spool directory; `uuid` and `token` are this start's own.

    `grace`: how many seconds a guest that has had its job gets for shutting down. With `restore` it is not booted.
    """

    uri: str
    name: str
    uuid: str
    token: str
    xml: str
    grace: float = 0.0
    restore: Restore | None = None

    def __str__(self) -> str:
        return (f"domain {self.name} (uuid {self.uuid}) at {self.uri}"
                + (f", from the saved guest {self.restore.memory}" if self.restore else ""))

    def acquire(self) -> None:
        """Starts the guest. NodeError; of one that is to go on from a saved one something may then be there."""
        if self.restore is None:
            virt.create(self.uri, _text(self.xml))
        else:
            self._go_on(self.restore)

    def _go_on(self, restore: Restore) -> None:
        """From a saved guest, by libvirt's file with another domain in it."""
        from ..format import FormatError, savefile

        try:
            with open(restore.memory, "rb") as memory:
                known = savefile.parse(lambda offset, size: os.pread(memory.fileno(), size, offset))
                head = savefile.header(known, _text(restore.xml).encode())
                virt.restore(self.uri, self._pipe, head, memory.fileno(), known.state)
        except FormatError as error:
            raise NodeError(f"{restore.memory} {error.what}", error.hint, code="VB714") from None
        virt.complete(self.uri, self.uuid, [_text(path) for path in restore.devices])

    @property
    def _pipe(self) -> str:
        """Through which libvirt gets a saved guest."""
        return os.path.join(os.path.dirname(self.xml), "memory")

    def freeze(self) -> None:
        """Stops a running guest where it is, if it is ours: QEMU then writes what it still has of the disks. Best effort."""
        with contextlib.suppress(NodeError):
            domain = virt.find(self.uri, self.uuid)
            if domain is not None and virt.owner(domain) == self.token:
                virt.suspend(domain)

    def shut_down(self, deadline: Deadline) -> None:
        """Asks a running guest to shut down, and waits until it has or its grace is over. NodeError; `release` is next anyway."""
        domain = virt.find(self.uri, self.uuid)
        if domain is not None and virt.owner(domain) == self.token:
            virtend.shut_down(self.uri, self.uuid, deadline.earlier(self.grace))

    @property
    def xen(self) -> bool:
        """Whether Xen runs it, which may know more of it than libvirt."""
        return self.uri.startswith("xen")

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the guest at once and sees it gone. NodeError."""
        self.begin_release(deadline, last=last)
        self.settle(deadline, None)

    def begin_release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the guest at once and sees it gone, from Xen, too: the uuid is this start's own, made of its token.

        Where the promise is the journal's last line, the promiser may have died with the request still in libvirtd's hands: a
        domain that is not there is then looked for a little longer, from libvirtd's first answer on. One that is being
        restarted is asked again.
        """
        numbers: set[int] = set()
        restart = deadline.earlier(_RESTART_SECONDS)
        if self.restore is not None:
            from ..host import feed

            feed.remove(self._pipe)
        while True:
            try:
                gone = self._end(deadline, _IN_FLIGHT_SECONDS if last else 0.0, numbers)
                break
            except NodeError as error:
                if isinstance(error, DeadlineError | EndedError) or restart.passed():
                    raise
                time.sleep(_PAUSE_SECONDS)
        if gone and self.xen:
            from ..host import xen

            xen.see_gone(self.uuid, os.path.dirname(self.xml), numbers - {-1}, deadline)
            xen.forget_interfaces(interfaces(self.token), deadline)

    def _end(self, deadline: Deadline, wait: float, numbers: set[int]) -> bool:
        """Whether the guest is gone, and not another's; looks for it `wait` seconds, adds to `numbers` its own. NodeError."""
        patience: Deadline | None = None
        tried = False
        while True:
            over = deadline if deadline.left() > _LEAST_SECONDS else Deadline(_LEAST_SECONDS)
            domain = virt.find(self.uri, self.uuid, over)
            if domain is None:
                patience = patience or deadline.earlier(0 if tried else wait)
                if patience.passed():
                    return True
            elif tried and deadline.passed():
                raise DeadlineError(f"the guest {self.name} is still there after its end", code="VB713")
            else:
                owner = virt.owner(domain, over)
                if owner and self.xen:
                    numbers.add(virt.number(domain))
                if owner == self.token:
                    if virtend.destroy(domain, self.uri, over):
                        return True
                elif owner != "":
                    return False
                if not tried:
                    tried = True
                    continue
            time.sleep(_PAUSE_SECONDS)


    def settle(self, deadline: Deadline, before: Resource | None) -> None:
        """Of a guest whose QEMU has ended libvirt has the disks in its hands a little longer: it restores their owners."""
        if before is None or not before.apart or getattr(before, "path", "") == os.path.dirname(self.xml):
            virtend.settle(self.uuid, deadline)


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def forgotten(uri: str, deadline: Deadline) -> list[Domain]:
    """Guests of ours that Xen has and libvirt has not; of their start's token the name shows the first 8 digits. NodeError."""
    if not uri.startswith("xen"):
        return []
    from ..host import xen

    found = []
    for domain in xen.domains(deadline):
        match = re.fullmatch(r"vmbatch-.+-([0-9a-f]{8})", domain.name)
        if match is not None and domain.uuid.startswith(match[1]) and virt.find(uri, domain.uuid) is None:
            found.append(Domain(uri, domain.name, domain.uuid, match[1], ""))
    return found
