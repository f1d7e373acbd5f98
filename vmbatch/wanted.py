"""Whether a batch system still wants the start whose guest is being prepared, where only asking tells."""

import threading

import msgspec

from . import endmarker
from .batch.system import Call, System
from .config import Config
from .host.log import Log
from .record import Start

_PAUSE_SECONDS = 1.0


def ask(system: System, call: Call, start: Start, config: Config, log: Log) -> threading.Event:
    """From now on a start that is not wanted any more is marked as ended, until the event is set."""
    over = threading.Event()
    if system.silent:
        threading.Thread(target=_ask, args=(system, call, start, config, log, over), daemon=True).start()
    return over


def _ask(system: System, call: Call, start: Start, config: Config, log: Log, over: threading.Event) -> None:
    while not over.wait(_PAUSE_SECONDS):
        why = system.unwanted(call, config)
        if why and not over.is_set():
            log.line(f"{why}; this start is over")
            endmarker.mark(start.job, msgspec.structs.replace(start.owner, pid=0))
            return
