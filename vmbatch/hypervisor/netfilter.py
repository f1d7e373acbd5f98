"""A filter of libvirt's between an interface of a guest and its network."""

import re
import time

from ..errors import NodeError
from ..host import file, virtnet
from ..resource import Resource
from ..units import Deadline

_IN_FLIGHT_SECONDS = 2.0
_PAUSE_SECONDS = 0.05


class NetworkFilter(Resource, frozen=True, tag="network-filter"):
    """`xml` is the path of the filter's XML in the job's spool directory; `uuid` is this start's own, made of its `token`."""

    uri: str
    name: str
    uuid: str
    token: str
    xml: str

    def __str__(self) -> str:
        return f"network filter {self.name}"

    def acquire(self) -> None:
        """Makes the filter. NodeError, also if it is there."""
        if virtnet.filter_is_there(self.uri, self.uuid):
            raise NodeError(f"there is a network filter {self.name} already", code="VB603")
        with open(self.xml, encoding="utf-8") as opened:
            virtnet.define_filter(self.uri, opened.read())

    def change(self, xml: bytes) -> None:
        """Gives it other rules, in the spool, too; there is no moment without rules. NodeError."""
        file.replace(self.xml, xml, 0o600)
        virtnet.define_filter(self.uri, xml.decode())

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes the filter, once the guest's end has reached libvirt's list of who uses it."""
        over = deadline.earlier(_IN_FLIGHT_SECONDS if last else 0)
        while True:
            if virtnet.filter_is_there(self.uri, self.uuid):
                over = deadline
                try:
                    virtnet.undefine_filter(self.uri, self.uuid)
                    return
                except NodeError:
                    if deadline.passed():
                        raise
            elif over.passed():
                return
            time.sleep(_PAUSE_SECONDS)


def left(uri: str) -> list[NetworkFilter]:
    """Every filter that looks like ours; of its start's token the name shows the first 8 digits. NodeError."""
    found = []
    for name, uuid in virtnet.filters(uri):
        match = re.fullmatch(r"vmbatch-.+-([0-9a-f]{8})-[0-9]+", name)
        if match is not None:
            found.append(NetworkFilter(uri, name, uuid, match[1], ""))
    return found
