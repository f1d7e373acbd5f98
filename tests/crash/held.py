"""Started by the lab's mom in a hook's place: waits for the tracer, then becomes the hook named in its own file name."""

import os
import sys
import time


def _traced() -> bool:
    with open("/proc/self/status", encoding="ascii") as status:
        return any(line.startswith("TracerPid:") and int(line.split()[1]) for line in status)


def main() -> None:
    """`mom_priv/held.NAME` becomes `mom_priv/NAME`."""
    from . import syscalls

    place, name = os.path.split(sys.argv[0])
    hook = os.path.join(place, name.removeprefix("held."))
    while not _traced():
        time.sleep(0.0005)
    syscalls.install()
    os.execv(hook, [hook, *sys.argv[1:]])  # noqa: S606
