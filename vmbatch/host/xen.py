"""What Xen itself knows of domains, beside libvirt: those that are dying, their devices in dom0, loop devices that were theirs.

A Xen domain whose memory is still mapped by a back end stays, dying and without a name, after libvirt has forgotten it; and the
scripts that detach a file's loop device (tools/hotplug/Linux/block in Xen) may have been killed or too late.
"""

import os
import re
import time
from pathlib import Path

import msgspec

from ..errors import CommandError, NodeError
from ..units import Deadline
from . import process

_BACKENDS = Path("/sys/bus/xen-backend/devices")
_LOOPS = Path("/sys/block")
_PAUSE_SECONDS = 0.2
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LINE = re.compile(rf"^(\S+)\s+(\d+)\s+\d+\s+\d+\s+([a-z-]{{6}})\s.*?\s({_UUID})\b", re.MULTILINE)


class XenDomain(msgspec.Struct, frozen=True):
    """A line of `xl list -v`; a dying domain has the name `(null)`."""

    name: str
    number: int
    uuid: str
    dying: bool


def parse_list(text: str) -> list[XenDomain]:
    """The domains in what `xl list -v` prints, but dom0."""
    found = (XenDomain(match[1], int(match[2]), match[4], "d" in match[3] or match[1] == "(null)")
             for match in _LINE.finditer(text))
    return [domain for domain in found if domain.number]


def domains(deadline: Deadline) -> list[XenDomain]:
    """All but dom0. NodeError."""
    program = process.find("xl")
    if program is None:
        raise NodeError("xl is not on this node", "install Xen's tools; VmBatch sees with them whether a guest is really gone",
                        code="VB910")
    return parse_list(process.run([program, "list", "-v"], deadline, quiet=True))


def see_gone(uuid: str, spool: str, numbers: set[int], deadline: Deadline) -> None:
    """Ends what Xen still has of a guest, and sees it gone: the domain, its back ends, loop devices on files below `spool`.

    `numbers` are those that libvirt knew the domain by. NodeError says what stays.
    """
    numbers = set(numbers)
    while True:
        left = [domain for domain in domains(deadline) if domain.uuid == uuid]
        numbers.update(domain.number for domain in left)
        for domain in left:
            _destroy(domain, deadline)
        devices = backends(numbers)
        loops = loops_below(spool)
        for loop in loops if not left and not devices else ():
            _detach(loop, deadline)
        if not left and not devices and not loops:
            return
        if deadline.passed():
            what = [*(f"Xen's domain {domain.number} ({'dying' if domain.dying else domain.name})" for domain in left),
                    *(f"the back end {name}" for name in devices), *loops]
            raise NodeError(f"of the guest is left after its end: {', '.join(what)}",
                            "xl list, xenstore-ls /local/domain/0/backend and losetup show it; the sweep tries again",
                            code="VB713")
        time.sleep(min(_PAUSE_SECONDS, deadline.left()))


def forget_interfaces(prefix: str, deadline: Deadline) -> None:
    """Removes what xenstore has of interfaces whose names begin so.

    Xen's script takes an interface's name for a domain's number where it is not Xen's own, writes down the MTU there, and nobody
    removes that (set_mtu of tools/hotplug/Linux/xen-network-common.sh).
    """
    lister, remover = process.find("xenstore-list"), process.find("xenstore-rm")
    if lister is None or remover is None:
        return
    for name in process.run([lister, "/local/domain"], deadline, quiet=True).split():
        if name.startswith(prefix):
            process.run([remover, f"/local/domain/{name}"], deadline)


def _destroy(domain: XenDomain, deadline: Deadline) -> None:
    """Asks Xen to end a domain that libvirt does not know; one that is dying needs nothing but time."""
    program = process.find("xl")
    if domain.dying or program is None:
        return
    try:
        process.run([program, "destroy", str(domain.number)], deadline)
    except CommandError as error:
        if any(other.number == domain.number and not other.dying for other in domains(deadline)):
            raise NodeError(f"xl does not end Xen's domain {domain.number}: {error}", code="VB713") from None


def backends(numbers: set[int]) -> list[str]:
    """Devices of these domains that dom0 still serves, such as `vif-7-0` and `qdisk-7-51712`."""
    try:
        names = sorted(os.listdir(_BACKENDS))
    except FileNotFoundError:
        return []
    return [name for name in names if (match := re.fullmatch(r"[a-z0-9_]+-(\d+)-\d+", name)) and int(match[1]) in numbers]


def loops_below(directory: str) -> list[str]:
    """Loop devices whose file lies in a directory, '' for none."""
    if not directory:
        return []
    found = []
    for place in sorted(_LOOPS.glob("loop*/loop/backing_file")):
        try:
            file = place.read_text().rstrip("\n").removesuffix(" (deleted)")
        except OSError:
            continue
        if file.startswith(f"{directory}/"):
            found.append(f"/dev/{place.parts[-3]}")
    return found


def _detach(loop: str, deadline: Deadline) -> None:
    process.run(["/usr/sbin/losetup", "--detach", loop], deadline)
