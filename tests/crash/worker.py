"""A worker: its own node, then cases from stdin, one a line, and an answer to each on stdout.

Started by `pool`, with an empty directory for its disk.
"""

import os
import sys
import traceback
from pathlib import Path

from . import nest
from .case import Answer, Case
from .play import Player
from .remains import Node


def main() -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the node's programs may say is not an answer
    os.set_inheritable(answers.fileno(), False)
    nest.enter(Path(sys.argv[1]))
    player = Player(Node())
    for line in sys.stdin:
        try:
            answer = player.play(Case.decode(line))
        except BaseException:
            answer = Answer(leaks=[f"the test itself failed: {traceback.format_exc()}"])
        answers.write(answer.encode() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
