"""Another machine on the guests' network, run in a network namespace of its own: what reaches it, a line for each on its output.

`tcp ADDRESS ADDRESS-OF-OURS PORT-OF-THEIRS` for a connection; `frame <NAME>` for a frame with `<NAME>` in it.
"""

import re
import select
import socket
import subprocess
import sys

ADDRESSES = ("10.77.0.3", "10.77.0.4")
PORT = 15001


def main() -> None:
    """Waits for its interface, then says `ready`."""
    sys.stdin.readline()
    for address in ADDRESSES:
        subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", "bystander"], check=True)
    subprocess.run(["ip", "link", "set", "bystander", "up"], check=True)
    listener = socket.create_server(("", PORT))
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
    sniffer.bind(("bystander", 0))
    sys.stdout.write("ready\n")
    while True:
        sys.stdout.flush()
        for source in select.select([listener, sniffer], [], [])[0]:
            if source is listener:
                connection, peer = listener.accept()
                sys.stdout.write(f"tcp {peer[0]} {connection.getsockname()[0]} {peer[1]}\n")
                connection.close()
            elif name := re.search(rb"<[a-z-]+>", sniffer.recv(4096)):
                sys.stdout.write(f"frame {name[0].decode()}\n")


if __name__ == "__main__":
    main()
