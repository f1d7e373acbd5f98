"""A worker: its own node, then cases from stdin, one a line, and an answer to each on stdout.

Started by `pool`, with an empty directory for its disk.
"""

import sys
import traceback
from pathlib import Path

from lab import nest
from lab.remains import Node

from .case import Answer, Case
from .play import Player


def main() -> None:
    """Until stdin ends."""
    answers = nest.answers()
    nest.enter(Path(sys.argv[1]))
    player = Player(Node())
    for line in sys.stdin:
        try:
            answer = player.play(Case.decode(line))
        except BaseException:
            answer = Answer(leaks=[f"the test itself failed: {traceback.format_exc()}"])
        answers.write(answer.encode() + "\n")
        answers.flush()
