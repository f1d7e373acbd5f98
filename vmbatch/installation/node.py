"""What every node wants, whatever its batch system: hooks, configuration, directories, systemd's units, the command."""

import os
import sysconfig
from collections.abc import Sequence

import msgspec

from .. import config, native
from ..errors import SiteError, VmBatchError
from ..host import file, process
from . import hookfile
from .made import content
from .record import STATE
from .step import Directory, File, Link, Step, Unit

_OWN_PLACE = "/opt/vmbatch"
"""Where the files in etc/ have VmBatch."""
_SYSTEM_PREFIXES = ("/usr", "/usr/local")
_UNITS = "/etc/systemd/system"
_SYSTEMS_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system")
_CONFIGURATION = os.path.dirname(native.CONFIG)
COMMAND = "/usr/local/bin/vmbatch"
COMPLETIONS = {"bash": "/usr/local/share/bash-completion/completions/vmbatch",
               "zsh": "/usr/local/share/zsh/site-functions/_vmbatch",
               "fish": "/usr/local/share/fish/vendor_completions.d/vmbatch.fish"}
"""Where each shell looks for what the site has added."""


class Plan(msgspec.Struct, frozen=True):
    """Steps in their order, what the admin should know, and what is left for the admin to do."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()

    def __add__(self, other: "Plan") -> "Plan":
        """One behind the other."""
        return Plan(self.steps + other.steps, self.notes + other.notes, self.remaining + other.remaining)


def hooks_directory(prefix: str) -> str:
    """Where the hooks of VmBatch at `prefix` are."""
    return os.path.join("/usr/local/lib/vmbatch" if prefix in _SYSTEM_PREFIXES else prefix, "hooks")


def data(name: str) -> bytes:
    """A file that VmBatch brings."""
    with open(os.path.join(sysconfig.get_path("data"), "share/vmbatch", name), "rb") as source:
        return source.read()


def check_reachable(prefix: str) -> None:
    """SiteError unless all users can reach VmBatch, and root alone can change it."""
    interpreter = hookfile.interpreter_of(prefix)
    file.check_trusted(interpreter, __file__)
    for path in (interpreter, __file__):
        while (path := os.path.dirname(path)) != "/":
            if os.stat(path).st_mode & 0o005 != 0o005:
                raise SiteError(f"users cannot reach {prefix}: {path} is closed to them, and jobs' shells would not start",
                                "install VmBatch anew, after `umask 022`, into a directory such as /opt/vmbatch", code="VB918")


def plan(prefix: str, completions: dict[str, bytes]) -> Plan:
    """For VmBatch at `prefix`; `completions` by shell. SiteError."""
    check_reachable(prefix)
    hooks = hooks_directory(prefix)
    made, why = hookfile.texts(hookfile.HOOKS, hooks, prefix)
    notes = list(script_note(hooks, why))
    steps: list[Step] = [
        Directory(STATE, 0o711),
        *_directories(hooks),
        *(File(path, text, 0o755) for path, text in made.items()),
        *_directories(os.path.join(_CONFIGURATION, "domains")),
        File(native.CONFIG, data("etc/vmbatch.conf"), editable=True),
        Directory(os.path.join(STATE, "images")),
    ]
    if os.path.isdir("/etc/logrotate.d"):
        steps.append(File("/etc/logrotate.d/vmbatch", data("etc/logrotate.conf"), editable=True))
    if process.find("systemctl"):
        steps += units(prefix)
    else:
        notes.append("there is no systemd here: have cron run `vmbatch sweep` at boot before the batch system, and every quarter "
                     "of an hour, `vmbatch image fetch --all` and `vmbatch save --all` every night, and `vmbatch pool refill` "
                     "every minute")
    if prefix not in _SYSTEM_PREFIXES and not os.path.lexists("/usr/bin/vmbatch"):
        try:
            steps += _command(prefix, completions)
        except SiteError as error:
            notes.append(f"{COMMAND} and completion for shells are left out: {error}")
    return Plan(tuple(steps), tuple(notes), _remaining())


def script_note(directory: str, why: str) -> tuple[str, ...]:
    """What an admin should know of a remoteshell that could not be compiled."""
    text = f"{directory}/remoteshell is a script, into which users' jobs can bring LD_PRELOAD and the like: {why}"
    return (text,) if why else ()


def _directories(path: str) -> list[Step]:
    """A directory, and those above it that are not there."""
    above = os.path.dirname(path)
    return [*([] if os.path.isdir(above) else _directories(above)), Directory(path)]


def _command(prefix: str, completions: dict[str, bytes]) -> list[Step]:
    """Where users find `vmbatch`, and shells its words. SiteError where others than root can write, such as a group."""
    file.check_trusted(*(file.nearest(os.path.dirname(path)) for path in (COMMAND, *COMPLETIONS.values())))
    steps: list[Step] = [Link(COMMAND, os.path.join(prefix, "bin/vmbatch"))]
    for shell, path in COMPLETIONS.items():
        steps += [*_directories(os.path.dirname(path)), File(path, completions[shell])]
    return steps


def units(prefix: str) -> list[Step]:
    """systemd's units, but for those that the system brings; enabled where they say what wants them."""
    found: list[Step] = []
    enabled: list[Step] = []
    directory = os.path.join(sysconfig.get_path("data"), "share/vmbatch/etc/systemd")
    for name in sorted(os.listdir(directory)):
        text = data(f"etc/systemd/{name}").replace(f"{_OWN_PLACE}/bin/".encode(), f"{prefix}/bin/".encode())
        if not is_there(name, _SYSTEMS_UNITS):
            found.append(File(os.path.join(_UNITS, name), text))
        if b"\n[Install]\n" in text:
            enabled.append(Unit(name))
    return found + enabled


def is_there(unit: str, places: Sequence[str] = (_UNITS, *_SYSTEMS_UNITS)) -> bool:
    """Whether systemd has a file for a unit: the package's, or one that was put there."""
    return any(os.path.exists(os.path.join(place, unit)) for place in places)


def _remaining() -> tuple[str, ...]:
    """What no program can know: which queue, which share, which guest; without what is there already."""
    try:
        known = config.parse(content(native.CONFIG) or b"", native.CONFIG)
    except VmBatchError:
        known = None
    described = known is not None and known.queues and (known.share_source or not known.share_type.startswith("nfs"))
    templates = set() if known is None else {name for names in known.queues.values() for name in names}
    there = known is not None and all(os.path.isfile(os.path.join(known.templates_directory, name)) for name in templates)
    return (*(() if described else (f"in {native.CONFIG}: the queue and its template in [queues], the share in [share]",)),
            *(() if templates and there else (f"a template in {_CONFIGURATION}/domains; try it with `vmbatch check TEMPLATE`",)),
            "`vmbatch doctor`, which looks at all that guests need")
