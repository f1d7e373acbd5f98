"""What a node of Slurm's wants: the plugin in plugstack.conf; slurm.conf is the whole cluster's, and is not touched."""

import os
import re
import tempfile

from .. import config, native
from ..errors import CommandError, SiteError
from ..host import file, process
from ..units import Deadline
from .made import content
from .node import Plan, data, hooks_directory
from .step import Block, File

PLACES = ("/etc/slurm", "/etc/slurm-llnl")
_COMPILER_SECONDS = 60.0


def settings(hooks: str) -> dict[str, str]:
    """What slurm.conf must say."""
    return {
        "Prolog": f"{hooks}/slurm-prolog",
        "Epilog": f"{hooks}/slurm-epilog",
        "PrologFlags": "Alloc",
        "PrologEpilogTimeout": "300",
        "BatchStartTimeout": "300",
        "JobSubmitPlugins": "lua",
        "GetEnvTimeout": "0",
        "HealthCheckProgram": f"{hooks}/health",
        "HealthCheckInterval": "300",
    }


def missing(text: str, wanted: dict[str, str]) -> list[str]:
    """The lines that slurm.conf does not have yet; names as Slurm compares them, one word of a list will do, and more seconds."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*([^\n#]*?)[ \t]*(?:#.*)?$", text, re.MULTILINE):
        found.setdefault(name.lower(), []).append(value)
    return [f"{name}={value}" for name, value in wanted.items()
            if not any(_says(other, value) for other in found.get(name.lower(), ()))]


def _says(found: str, wanted: str) -> bool:
    """Whether a setting has the value: more seconds will do where any are wanted."""
    if found.isdecimal() and wanted.isdecimal() and int(wanted):
        return int(found) >= int(wanted)
    return wanted.lower() in (found.lower(), *found.lower().split(","))


def plan(etc: str, prefix: str) -> Plan:
    """For the node whose slurm.conf is in `etc`. SiteError."""
    if not os.path.isdir(etc):
        raise SiteError(f"there is no {etc}", "name the directory of your slurm.conf with --slurm-conf", code="VB918")
    file.check_trusted(etc)
    hooks = hooks_directory(prefix)
    plugin = os.path.join(hooks, "vmbatch.so")
    words = ["required", plugin, f"task={hooks}/slurm-task"]
    if partitions := sorted(_partitions()):
        words.append(f"partitions={','.join(partitions)}")
    line = " ".join(words)
    text = (content(os.path.join(etc, "slurm.conf")) or b"").decode(errors="replace")
    lacking = "".join(f"\n             {setting}" for setting in missing(text, settings(hooks)))
    examples = os.path.join(prefix, "share/vmbatch/slurm")
    return Plan(
        (File(plugin, compiled(), 0o755), Block(os.path.join(etc, "plugstack.conf"), (line,), (" ".join(words[:3]),))),
        () if partitions else ("no partition has guests yet: run vmbatch install again when [queues] in vmbatch.conf names one, "
                               "so that the plugin guards it",),
        (*((f"in slurm.conf of the cluster, which lacks:{lacking}",) if lacking else ()),
         f"on slurmctld's machine: vmbatch.lua and job_submit.lua of {examples} beside slurm.conf",
         "restart slurmd, and slurmctld after changes of slurm.conf"),
    )


def _partitions() -> set[str]:
    """Those with guests."""
    text = content(native.CONFIG)
    return set() if text is None else set(config.parse(text, native.CONFIG).queues)


def compiled() -> bytes:
    """The plugin, built against the Slurm that is installed. SiteError."""
    compiler = process.find("cc") or process.find("gcc")
    hint = "install what it is built with (Debian: gcc libc6-dev libslurm-dev)"
    if compiler is None:
        raise SiteError("there is no C compiler for Slurm's plugin", hint, code="VB918")
    with tempfile.TemporaryDirectory(prefix="vmbatch-slurm-") as place:
        source, made = os.path.join(place, "vmbatch.c"), os.path.join(place, "vmbatch.so")
        with open(source, "wb") as text:
            text.write(data("slurm/vmbatch.c"))
        try:
            process.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", "-s", "-o", made, source], Deadline(_COMPILER_SECONDS))
        except CommandError as error:
            raise SiteError(f"Slurm's plugin cannot be built: {error}", hint, code="VB918") from None
        with open(made, "rb") as program:
            return program.read()


def runs() -> bool:
    """Whether a slurmd of root's works on this node."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/comm", "rb") as comm:
                if comm.read() == b"slurmd\n" and os.stat(f"/proc/{name}").st_uid == 0:
                    return True
        except OSError:
            continue
    return False
