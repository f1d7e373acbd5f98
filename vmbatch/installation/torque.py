"""What a Torque mom wants: the hooks in her directory, and the job's shell in her configuration."""

import os
import re

import msgspec

from ..errors import SiteError
from . import block, hookfile
from .made import content
from .mom import check_directory
from .node import Plan, hooks_directory
from .step import Block, Hook

PLACES = ("/var/spool/torque/mom_priv", "/var/lib/torque/mom_priv")
"""Where Torque's and Debian's builds have it."""
_HOOKS = ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel")
_ALARM = 300
"""Seconds that a guest may take; TORQUE takes ten off."""
_SETTING = re.compile(rb"^[ \t]*\$(\w+)[ \t]+([^\r\n]*?)[ \t]*(?:#[^\r\n]*)?$", re.MULTILINE)


class Settings(msgspec.Struct, frozen=True):
    """What mom's configuration has to get, and which of its lines lose their force."""

    lines: tuple[str, ...]
    needed: tuple[str, ...]
    aside: tuple[str, ...]


def settings(text: bytes, path: str, hooks: str, *, health: bool) -> Settings:
    """For a configuration without VmBatch's own lines. SiteError for what contradicts them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for match in _SETTING.finditer(text):
        line, name, value = (part.decode(errors="replace") for part in match.group(0, 1, 2))
        found.setdefault(name, []).append((line, value))
    if found.get("job_starter_run_privileged"):
        raise SiteError(f"{path} has $job_starter_run_privileged, which gives users root's rights on the node", "take it out",
                        code="VB918")
    needed = _once(found, path, "job_starter", os.path.join(hooks, "remoteshell"))
    lines, aside = list(needed), []
    alarms = [(line, int(value)) for line, value in found.get("prologalarm", ()) if value.isdecimal()]
    if not alarms or alarms[-1][1] < _ALARM:
        lines.append(f"$prologalarm {_ALARM}")
        aside = [line for line, _ in alarms]
    if health:
        lines += (check := _once(found, path, "node_check_script", os.path.join(hooks, "health")))
        needed += check
        lines += [f"${name} {value}" for name, value in (("node_check_interval", "10"), ("down_on_error", "true"))
                  if name not in found]
    return Settings(tuple(lines), tuple(needed), tuple(aside))


def _once(found: dict[str, list[tuple[str, str]]], path: str, name: str, value: str) -> list[str]:
    """The line that is still missing, if it is. SiteError if it says something else."""
    for line, other in found.get(name, ()):
        if other != value:
            raise SiteError(f"{path} has the site's own: {line.strip()}",
                            f"VmBatch needs ${name} {value}: take that line out, or write ours in its place", code="VB918")
    return [] if name in found else [f"${name} {value}"]


def plan(mom_priv: str, prefix: str, *, health: bool) -> Plan:
    """For one mom_priv. SiteError."""
    check_directory(mom_priv)
    hooks = hooks_directory(prefix)
    path = os.path.join(mom_priv, "config")
    wanted = settings(block.rest(block.split(content(path) or b"", path)), path, hooks, health=health)
    interpreter = hookfile.interpreter_of(prefix)
    return Plan(
        (Block(path, wanted.lines, wanted.needed, wanted.aside),
         *(Hook(os.path.join(mom_priv, name), hookfile.hook(name, interpreter)) for name in _HOOKS)),
        notes(mom_priv),
        (f"restart the pbs_mom of {mom_priv}: she reads her config when she starts",),
    )


def notes(mom_priv: str) -> tuple[str, ...]:
    """What users may choose with `qsub -T`."""
    ours = {*_HOOKS, *(f"{name}.site" for name in _HOOKS)}
    others = sorted(name for name in os.listdir(mom_priv) if re.match(r"(pro|epi)logue\.", name) and name not in ours)
    return tuple(f"users can have {os.path.join(mom_priv, name)} run as root in place of VmBatch's hook (qsub -T); "
                 "their jobs then get no guest, and do not run" for name in others)
