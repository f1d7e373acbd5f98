#!/usr/bin/python3 -IS
"""In the place of /usr/bin/ssh, towards guests without sshd: a line `ADDRESS COMMAND` to lab.fakeguest's socket, then the input.

Back come lines, `out TEXT` or `exit STATUS`. What ends without a status is a lost connection: 255, as ssh says. It imports next
to nothing, as it is started for each login.
"""

import _socket
import os
import select
import sys

PATH = "/run/fakeguest/socket"


def main() -> int:
    """Exit status: the command's, or 255."""
    words = sys.argv[1:]
    end = words.index("--")
    guest = _socket.socket(_socket.AF_UNIX)
    try:
        guest.connect(PATH)
        os.write(guest.fileno(), " ".join(words[end + 1 :]).encode() + b"\n")
        return talk(guest, 0 if "-n" not in words[:end] else -1)
    except OSError:
        return 255


def talk(guest: "_socket.socket", stdin: int) -> int:
    """Input there, output back, until there is a status."""
    heard = b""
    while True:
        ready = select.select([guest.fileno(), *([stdin] if stdin >= 0 else [])], [], [])[0]
        if stdin in ready:
            data = os.read(stdin, 65536)
            if data:
                os.write(guest.fileno(), data)
            else:
                guest.shutdown(_socket.SHUT_WR)
                stdin = -1
        if guest.fileno() in ready:
            data = os.read(guest.fileno(), 65536)
            if not data:
                return 255
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                if line.startswith(b"exit "):
                    return int(line[5:])
                os.write(1, line[4:] + b"\n")


if __name__ == "__main__":
    os._exit(main())
