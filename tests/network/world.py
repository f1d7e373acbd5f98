"""A bridge with guests' interfaces on it, run in a network namespace of its own: where frames arrive.

It reads a `Play` as JSON on its input, and writes a list of places for each frame on its output.
"""

import os
import re
import select
import socket
import subprocess
import sys
import time

import msgspec

from vmbatch.guard import Guard, Port, rules
from vmbatch.hypervisor.netfilter import BridgePort, NetworkFilter

from . import packet

BRIDGE, NODE, NODE_MAC, PORT = "br0", "10.77.0.1", "52:54:00:00:00:01", 15002
WORLD = "world"
"""Another machine on the bridge."""
_MARK = re.compile(rb"<([0-9]{6})>")
_ALL = 0x0003
_SECONDS = 20.0


class Sent(msgspec.Struct, frozen=True):
    """A frame that a guest, by its interface's name, or the world sends."""

    sender: str
    frame: bytes


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """An interface keeps what it has learned, as when its guest is ready."""

    port: Port
    guard: Guard


class Play(msgspec.Struct, frozen=True):
    """Rules for nft and frames in turns: each is played to its end before the next one. `stp`: the bridge's."""

    guests: tuple[str, ...]
    acts: tuple[str | Settle | BridgePort | tuple[Sent, ...], ...]
    stp: bool = False


def mark(number: int) -> bytes:
    """By which a frame is known where it arrives."""
    return b"<%06d>" % number


def play(play: Play) -> list[set[str]]:
    """Where each frame arrives: at the `world`, at a guest, at the `node` by the bridge, at a `socket` of the node's."""
    done = subprocess.run(["unshare", "--net", "--mount", sys.executable, "-m", __name__], input=msgspec.json.encode(play),
                          capture_output=True, check=False, timeout=_SECONDS * 3)
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=list[set[str]])


def _run(command: str, text: str | None = None) -> None:
    subprocess.run(command.split(), input=text, text=True, check=True, capture_output=True)


def _end(name: str) -> str:
    """The other end of an interface, which is in the guest."""
    return f"e{name}"[:15]


class _World:
    def __init__(self, guests: tuple[str, ...], stp: bool) -> None:
        os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})  # so that what is sent first arrives first
        _run("mount -t sysfs sysfs /sys")
        for setting in ("all", "default"):
            _write(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6", "1")
            _write(f"/proc/sys/net/ipv4/conf/{setting}/rp_filter", "0")
        _run("ip link set lo up")
        _run(f"ip link add {BRIDGE} address {NODE_MAC} type bridge mcast_snooping 0 forward_delay 0 stp_state {int(stp)}")
        _run(f"ip addr add {NODE}/24 dev {BRIDGE}")
        _run(f"ip link set {BRIDGE} up")
        self.sockets = {}
        for name in (WORLD, *guests):
            _run(f"ip link add {name} type veth peer name {_end(name)}")
            _run(f"ip link set {name} master {BRIDGE} up")
            _run(f"ip link set {_end(name)} up")
            self.sockets[name] = _sniffer(_end(name))
        for name in (WORLD, *guests):
            _wait_forwarding(name)
        self.sockets["node"] = _sniffer(BRIDGE)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("", PORT))
        self.udp.setblocking(False)

    def send(self, frames: tuple[Sent, ...], first: int) -> list[set[str]]:
        """The first frame has the mark `first`. A last one, which nothing keeps from the node, tells that all have passed."""
        for each in frames:
            self.sockets[each.sender].send(each.frame)
        last = first + len(frames)
        self.sockets[WORLD].send(packet.ether("52:54:00:00:00:99", NODE_MAC, packet.ARP, packet.arp(
            1, ("52:54:00:00:00:99", "10.77.0.99"), NODE, mark(last))))
        found: list[set[str]] = [set() for _ in range(len(frames) + 1)]
        while not found[-1]:
            assert select.select([self.sockets["node"]], [], [], _SECONDS)[0], "the last frame has not come"
            self._look(found, first, frames)
        self._look(found, first, frames)
        return found[:-1]

    def _look(self, found: list[set[str]], first: int, frames: tuple[Sent, ...]) -> None:
        for place, source in (*self.sockets.items(), ("socket", self.udp)):
            for data in _received(source):
                number = _MARK.search(data)
                index = -1 if number is None else int(number[1]) - first
                if 0 <= index < len(found):
                    found[index].add(place)
        for each, places in zip(frames, found, strict=False):
            places.discard(each.sender)


def _wait_forwarding(port: str) -> None:
    """Until the bridge has no doubt that there is no loop (uapi/linux/if_bridge.h, BR_STATE_FORWARDING)."""
    over = time.monotonic() + _SECONDS
    while time.monotonic() < over:
        with open(f"/sys/class/net/{port}/brport/state", encoding="ascii") as state:
            if state.read() == "3\n":
                return
        time.sleep(0.01)
    raise TimeoutError(port)


def _received(source: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(source.recv(65536))
        except BlockingIOError:
            return found


def _sniffer(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    made.bind((interface, 0))
    made.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE of asm-generic/socket.h
    made.setblocking(False)
    return made


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as setting:
        setting.write(text)


def main() -> None:
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Play)
    world = _World(wanted.guests, wanted.stp)
    found: list[set[str]] = []
    for act in wanted.acts:
        if isinstance(act, str):
            _run("nft -f -", act)
        elif isinstance(act, BridgePort):
            act.make(None)
        elif isinstance(act, Settle):
            given = NetworkFilter(act.port.token, act.port.number, "").learned()
            _run("nft -f -", rules(act.port, msgspec.structs.replace(act.guard, ipv4=given, learns=False)))
        else:
            found += world.send(act, len(found))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
