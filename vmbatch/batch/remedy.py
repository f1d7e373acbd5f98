"""What a node does with a job that it cannot start, by Torque's own programs: hold the job, or take the node off-line.

qhold and qalter end with the server's error, pbsnodes with 0 whatever the server said (cmds/pbsnodes.c, marknode): all three are
silent when they succeed, so that anything they say is a failure. In `qalter -W` a value ends before the comma before the next `=`
(Libcmds/parse_equal.c), and a node's note has at most 256 characters.
"""

import os
import re

from ..config import Config
from ..errors import NodeError, VmBatchError
from ..host import file, process
from ..units import Deadline

_LENGTH = 200


def hold(job_id: str, kind: str, reason: str, config: Config, deadline: Deadline) -> str:
    """Holds a job (`s`: until an administrator releases it, `u`: its user can) and says why in its comment.

    What became of the comment, if it could not be set, in a sentence. VmBatchError if the job is not held.
    """
    _run(config, deadline, "qhold", "-h", kind, job_id)
    try:
        _run(config, deadline, "qalter", "-W", f"Comment={plain(reason)}", job_id)
    except VmBatchError as error:
        return f"the job is held, but its comment does not say why: {error}"
    return ""


def offline(host: str, reason: str, config: Config, deadline: Deadline) -> None:
    """Takes a node off-line, with a note. VmBatchError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host):
        raise NodeError(f"{host[:80]!r} is no name of a node", code="VB915")
    _run(config, deadline, "pbsnodes", "-o", "-N", plain(reason), host)


def plain(text: str) -> str:
    """Text that Torque's programs and server keep as it is: no comma, no equals sign, no quotes, ASCII, bounded."""
    text = text.replace(",", ";").replace("=", ":")
    text = "".join(char if " " < char <= "~" and char not in "\"'`\\" else " " for char in text)
    return " ".join(text.split())[:_LENGTH].rstrip()


def _run(config: Config, deadline: Deadline, name: str, *words: str) -> None:
    path = os.path.join(config.torque_programs, name)
    file.check_trusted(path)
    said = process.run([path, *words], deadline.earlier(config.torque_patience)).strip()
    if said:
        raise NodeError(f"{path}: {' '.join(said.split())[:300]}", code="VB915")
