"""Which process, since when, in which boot: identities that a process id alone does not give; and randomness."""

import os
import time

import msgspec

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process: `started` in clock ticks since the node's boot (proc(5), field 22 of /proc/PID/stat)."""

    pid: int
    started: int
    boot: str


def boot_id() -> str:
    """This boot of the node."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def uptime() -> float:
    """Seconds since this boot, by a clock that nobody sets, and that goes on while the node sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def for_people(seconds: float) -> str:
    """A time since the epoch as the node's people write it: `2024-02-29 13:00:00 CET`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def started(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def runs(process: ProcessIdentity) -> bool:
    """Whether it still runs; where proc(5) hides the processes of others (hidepid), whether one with its number does."""
    begun = started(process.pid)
    if begun is not None:
        return begun == process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def age(pid: int) -> float:
    """Seconds since a process was started; 0 if there is none."""
    begun = started(pid)
    return 0.0 if begun is None else since(begun)


def since(ticks: int) -> float:
    """Seconds that have gone since a time in ticks since this boot."""
    return max(0.0, uptime() - ticks / os.sysconf("SC_CLK_TCK"))


def this_process() -> ProcessIdentity:
    """The identity of the caller."""
    pid = os.getpid()
    return ProcessIdentity(pid, started(pid) or 0, boot_id())


def new_token() -> str:
    """32 hexadecimal digits that nobody can guess."""
    return os.urandom(16).hex()
