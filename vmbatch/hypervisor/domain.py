"""A transient libvirt domain."""

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

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Ends the guest at once and sees it gone.

        Where the promise is the journal's last line, the promiser may have died with the request still in libvirtd's hands: a
        domain that is not there is then looked for a little longer.
        """
        patience = deadline.earlier(_IN_FLIGHT_SECONDS if last else 0)
        seen = False
        while True:
            domain = virt.find(self.uri, self.uuid)
            if domain is not None:
                patience, seen = deadline, True
                if virt.owner(domain) != self.token:
                    return
                virt.destroy(domain)
            if patience.passed() or (domain is None and seen):
                break
            time.sleep(0.02)
        if domain is not None and virt.find(self.uri, self.uuid) is not None:
            raise NodeError(f"the guest {self.name} is still there after its end")
