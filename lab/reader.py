"""mom's process of an interactive job: runs the prologue, gives the terminal to the job's shell, and waits for it.

A program: its arguments are the terminal's path and the descriptor of a socket, on which come requests, a JSON object a line, and
go exit codes, a line each. TORQUE 6.1.3: the shell is a child of the process that read for qsub, and in its session.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import termios
from typing import Any


def main(terminal: str, control: int) -> int:
    """Serves until the shell has ended; its exit code."""
    os.setsid()
    tty = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
    with socket.socket(fileno=control) as channel, channel.makefile("rw") as lines:
        for line in lines:
            asked: dict[str, Any] = json.loads(line)
            hook = asked.pop("hook")
            done = subprocess.Popen(**asked, stdin=subprocess.DEVNULL if hook else tty, stdout=tty, stderr=tty,
                                    start_new_session=hook, restore_signals=False)
            code = done.wait()
            lines.write(f"{code}\n")
            lines.flush()
            if not hook:
                return code & 0xFF
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
