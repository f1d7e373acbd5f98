"""A transient libvirt domain."""

import os
import re
import time

from ..errors import NodeError
from ..host import virt
from ..resource import Resource
from ..units import Deadline

_IN_FLIGHT_SECONDS = 2.0


class Domain(Resource, frozen=True, tag="domain"):
    """`xml` is the path of the domain's XML in the job's spool directory; `uuid` and `token` are this start's own."""

    uri: str
    name: str
    uuid: str
    token: str
    xml: str

    def __str__(self) -> str:
        return f"domain {self.name} (uuid {self.uuid}) at {self.uri}"

    def acquire(self) -> None:
        """Starts the guest."""
        with open(self.xml, encoding="utf-8") as file:
            virt.create(self.uri, file.read())

    @property
    def xen(self) -> bool:
        """Whether Xen runs it, which may know more of it than libvirt."""
        return self.uri.startswith("xen")

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the guest at once and sees it gone, from Xen, too: the uuid is this start's own, made of its token.

        Where the promise is the journal's last line, the promiser may have died with the request still in libvirtd's hands: a
        domain that is not there is then looked for a little longer.
        """
        patience = deadline.earlier(_IN_FLIGHT_SECONDS if last else 0)
        seen = False
        numbers: set[int] = set()
        while True:
            domain = virt.find(self.uri, self.uuid)
            if domain is not None:
                patience, seen = deadline, True
                owner = virt.owner(domain)
                if owner and self.xen:
                    numbers.add(virt.number(domain))
                if owner == self.token:
                    virt.destroy(domain)
                elif owner != "":
                    return
            if patience.passed() or (domain is None and seen):
                break
            time.sleep(0.02)
        if domain is not None and virt.find(self.uri, self.uuid) is not None:
            raise NodeError(f"the guest {self.name} is still there after its end")
        if self.xen:
            from ..host import xen

            xen.see_gone(self.uuid, os.path.dirname(self.xml), numbers - {-1}, deadline)


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
