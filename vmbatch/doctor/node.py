"""The node around all that: clock, name service, timers, accounts."""

import ctypes
import glob
import os
import pwd
import re
import time
from collections.abc import Iterator

from ..errors import CommandError
from ..host import process
from ..installation.node import is_there
from ..units import Deadline
from .finding import Check, Finding, Site, ok, warning

_TIMEX_BYTES = 512
"""More than struct timex has (adjtimex(2))."""
_TIME_ERROR = 5
_SLOW_SECONDS = 1.0
_SYSTEMD = "/run/systemd/system"
_UNITS = {"vmbatch-sweep-boot.service": "is-enabled", "vmbatch-sweep.timer": "is-active"}
_CRON = ("/etc/crontab", "/etc/cron.d/*", "/etc/cron.hourly/*", "/etc/cron.daily/*", "/var/spool/cron/crontabs/root")


def synchronized(site: Site) -> Iterator[Finding]:
    """Whether something keeps this node's clock right."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    yield judge_clock(state)


def judge_clock(state: int) -> Finding:
    """By what adjtimex(2) returns."""
    if state == -1:
        return warning("the kernel does not say whether its clock is synchronized")
    if state == _TIME_ERROR:
        return warning("nothing keeps this node's clock right",
                       "run chronyd or systemd-timesyncd: logs, traces, images' ages and certificates go by it")
    return ok("it is synchronized")


def names(site: Site) -> Iterator[Finding]:
    """Whether the name service answers fast, and knows the account without rights."""
    begin = time.monotonic()
    for number in range(2):
        try:
            pwd.getpwnam(f"vmbatch-nobody-{os.getpid()}-{number}")
        except KeyError:
            continue
    took = (time.monotonic() - begin) / 2
    process.account_of(site.config.images_account)
    if took > _SLOW_SECONDS:
        yield warning(f"it took {took:.1f} s to find that a user is not known", "see nsswitch.conf(5), and the servers it names")
    else:
        yield ok(f"it answers in {took * 1000:.0f} ms, and knows {site.config.images_account}")


def timers(site: Site) -> Iterator[Finding]:
    """Whether the sweep runs by itself."""
    if os.path.isdir(_SYSTEMD):
        yield from judge_units({unit: _state(verb, unit) for unit, verb in _UNITS.items()}, set(filter(is_there, _UNITS)))
        return
    for path in sorted(found for pattern in _CRON for found in glob.glob(pattern)):
        with open(path, encoding="utf-8", errors="replace") as text:
            if re.search(r"^[^#\n]*\bvmbatch sweep\b", text.read(), re.MULTILINE):
                yield ok(f"{path} runs the sweep; there is no systemd")
                return
    yield warning("nothing runs vmbatch sweep by itself, and there is no systemd", "have cron do it, and the node's start")


def _state(verb: str, unit: str) -> str:
    try:
        return process.run(["/usr/bin/systemctl", verb, unit], Deadline(5.0), quiet=True).strip()
    except CommandError as said:
        return said.output.strip().partition("\n")[0] or "not found"


def judge_units(states: dict[str, str], there: set[str]) -> Iterator[Finding]:
    """By what systemctl says of each, and of which there is a file."""
    wrong = {unit: state for unit, state in states.items() if state not in ("enabled", "active")}
    for unit, state in wrong.items():
        yield warning(f"{unit} is {state}", f"systemctl enable --now {unit}" if unit in there
                      else "vmbatch install brings systemd's units, and enables them")
    if not wrong:
        yield ok("the sweep runs at each boot, and by its timer")


CHECKS = (
    Check("clock", "whether the node's clock is synchronized", synchronized, settings=False),
    Check("names", "whether the name service answers fast", names),
    Check("timers", "whether the sweep runs at boot and by a timer", timers, settings=False),
)
