"""The rules between an interface of a guest and its network."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from ..errors import NodeError
from ..guard import BASE, TABLE, Port, bare, claim, removal
from ..host import file, nft
from ..resource import Piece, SlowResource
from ..units import Deadline


class NetworkFilter(SlowResource, frozen=True, tag="network-filter"):
    """Of interface `number` of the start with this `token`; `rules` is the path of their text in the job's spool directory."""

    token: str
    number: int
    rules: str
    apart: ClassVar[bool] = True

    @property
    def port(self) -> Port:
        """Where it stands."""
        return Port(self.token, self.number)

    def __str__(self) -> str:
        return f"network filter {self.port.interface}"

    @contextlib.contextmanager
    def begin(self) -> Iterator[Callable[[], None]]:
        """Begins to make the filter. NodeError, also if the interface has one.

        What all interfaces share is there but for a node's first guest, and is made where it is missing. To make it again, or
        anything else that there is, takes something away, for whose last readers nft waits when it closes its socket
        (nft_rcv_nl_event of nf_tables_api.c): twice as long as for all else.
        """
        new = self._text().removeprefix(bare(self.port)) + claim(self.port)
        with nft.applying(new) as finish:
            def stand() -> None:
                try:
                    finish()
                except nft.AbsentError:
                    nft.apply(BASE + new)

            yield stand

    def change(self, rules: str) -> None:
        """Gives it other rules, in the spool, too; there is no moment without rules. NodeError."""
        file.replace(self.rules, rules.encode(), 0o600)
        nft.apply(rules)

    def mend(self) -> None:
        """Has the rules stand that it was given. NodeError, OSError."""
        nft.apply(self._text())

    def learned(self) -> tuple[str, ...]:
        """The addresses that DHCP has been seen to give to the guest. NodeError."""
        import ipaddress

        [found] = [each["set"] for each in nft.listed("set", "bridge", TABLE, self.port.learned) if "set" in each]
        return tuple(str(ipaddress.IPv4Address(number)) for number in found.get("elem", ()))

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Removes the filter. Who made it has died with its program, or the journal would be locked."""
        try:
            nft.apply(removal(self.port))
        except NodeError:
            if self.port in _ports(_ours()):
                raise

    def _text(self) -> str:
        with open(self.rules, encoding="utf-8") as opened:
            return opened.read()


class BridgePort(Piece, frozen=True, tag="bridge-port"):
    """A guest's `interface` as a port of a bridge, for which a spanning tree never ends at the guest.

    What a guest says of spanning trees passes no filter (see guard.py), and libvirt's networks believe it. `isolated` from other
    ports that are: libvirt has seen to that with QEMU, and does not with Xen.
    """

    interface: str
    isolated: bool

    def __str__(self) -> str:
        return (f"bridge port {self.interface}, not on the way to a spanning tree's root"
                + (", isolated" if self.isolated else ""))

    def make(self, work: object) -> None:
        """By bridge(8)'s root_block the bridge does not listen to who says otherwise. A guest that has ended has no port."""
        for name in ("root_block", *(("isolated",) if self.isolated else ())):
            with (contextlib.suppress(FileNotFoundError),
                  open(f"/sys/class/net/{self.interface}/brport/{name}", "w", encoding="ascii") as setting):
                setting.write("1")


def left() -> list[NetworkFilter]:
    """Every filter of which something is there; none for a user, who can neither make nor see any. NodeError."""
    return [] if os.geteuid() else [NetworkFilter(port.token, port.number, "") for port in _ports(_ours())]


def standing() -> set[Port]:
    """Every interface of which all is there. NodeError."""
    there = list(_ours())
    ruled = {thing["chain"] for kind, thing in there if kind == "rule"}
    led = {(thing["name"], interface, verdict["goto"]["target"])
           for kind, thing in there if kind == "map" for interface, verdict in thing.get("elem", ())}
    return {port for port in _ports(there) if {"sent", "got", f"from-{port.name}", f"to-{port.name}"} <= ruled
            and all((way, port.interface, f"{way}-{port.name}") in led for way in ("from", "to"))}


def _ports(there: Iterable[tuple[str, dict[str, Any]]]) -> list[Port]:
    names = (thing["name"] for kind, thing in there if kind in ("chain", "set"))
    found = map(re.compile(r"(?:from|to|learned|asked)-([0-9a-f]{32})-([0-9]+)").fullmatch, names)
    return sorted({Port(match[1], int(match[2])) for match in found if match}, key=lambda port: port.name)


def _ours() -> Iterator[tuple[str, dict[str, Any]]]:
    """All that is in our table, with its kind. NodeError."""
    return ((kind, thing) for each in nft.listed("ruleset", "bridge") for kind, thing in each.items()
            if thing.get("table") == TABLE)
