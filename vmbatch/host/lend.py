"""A file as its user may open it: opened by a process with the user's rights, and lent to us."""

import contextlib
import os
import select
import socket
import sys

from ..errors import DeadlineError, JobError
from ..job import User
from ..units import Deadline
from . import process

_BORROWER = """
import os, socket, sys
answer = socket.socket(fileno=int(sys.argv[1]))
try:
    lent = os.open(sys.argv[2], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
except OSError as error:
    answer.sendall((error.strerror or str(error)).encode())
else:
    socket.send_fds(answer, [b"!"], [lent])
"""


def open_as(user: User, path: str, deadline: Deadline) -> tuple[int, str]:
    """(descriptor, where it really lies) of a file that the user may read; it does not block. JobError, DeadlineError.

    The user can stop or cheat the process that opens it, and wins nothing: it has no more rights than the user, and what it
    lends is judged by the kernel's own knowledge of it.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        borrower = process.start(
            [sys.executable, "-I", "-S", "-c", _BORROWER, str(theirs.fileno()), path], user=user, pass_fds=(theirs.fileno(),))
        try:
            theirs.close()
            if not select.select([ours], [], [], deadline.left())[0]:
                raise DeadlineError(f"{path} could not be opened in time", code="VB311")
            said, lent, _, _ = socket.recv_fds(ours, 256, 1)
        finally:
            process.end(borrower)
    if not lent:
        why = "".join(char for char in said.decode(errors="replace") if char.isprintable())
        raise JobError(f"{path}: {why or 'cannot be opened'}", "the image must be readable for you", code="VB302")
    for extra in lent[1:]:
        os.close(extra)
    os.set_inheritable(lent[0], False)
    try:
        return lent[0], os.readlink(f"/proc/self/fd/{lent[0]}")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(lent[0])
        raise
