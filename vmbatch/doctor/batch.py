"""The batch systems of this node: whether each starts our hooks, and gives them the time that a guest takes."""

import glob
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterator

import msgspec

from ..batch import pbsfacts, slurm, torque
from ..batch.openpbs import HOME as PBS
from ..config import Config
from ..errors import VmBatchError
from ..host import file
from ..installation import hookfile
from ..installation.node import hooks_directory
from .finding import Check, Finding, Site, error, of_error, ok, warning

_TORQUES = ("/var/spool/torque", "/var/lib/torque")
_SLURM = "/etc/slurm"
_HOOKS = ("prologue", "epilogue")
_SISTERS = ("prologue.parallel", "epilogue.parallel")
_OWN_PLACE = hooks_directory(sys.prefix)
_HOOK_BYTES = 64 << 10
_BEFORE_NEXT_SECONDS = 10.0
"""What TORQUE 6.1.3 takes off $prologalarm."""


class Hook(msgspec.Struct, frozen=True):
    """A file that a batch system runs: '' for `trouble` if only root can change it; `interpreter` is that of its first line."""

    path: str
    there: bool
    ours: bool = False
    mode: int = 0
    trouble: str = ""
    hint: str = ""
    interpreter: str = ""


def hook(path: str) -> Hook:
    """What is there."""
    try:
        with open(path, "rb") as text:
            content = text.read(_HOOK_BYTES)
            mode = stat.S_IMODE(os.fstat(text.fileno()).st_mode)
    except FileNotFoundError:
        return Hook(path, there=False)
    except OSError as wrong:
        return Hook(path, there=True, trouble=f"{path}: {wrong.strerror}")
    trouble = hint = ""
    try:
        file.check_trusted(path)
    except VmBatchError as wrong:
        trouble, hint = wrong.what, wrong.hint
    first = re.match(rb"#![ \t]*(\S+)", content)
    return Hook(path, True, hookfile.is_ours(content), mode, trouble, hint, first[1].decode(errors="replace") if first else "")


def judge_hook(found: Hook, option: str) -> Finding | None:
    """None if the batch system would run ours, and it can run; `option` is the batch system's for `vmbatch install`."""
    anew = f"vmbatch install {option} puts ours there"
    if not found.there:
        return error(f"{found.path} is not there", anew)
    if found.trouble:
        return error(found.trouble, found.hint)
    if not found.ours:
        return error(f"{found.path} is not VmBatch's", f"{anew}, and keeps this one as {os.path.basename(found.path)}.site, "
                                                       "which ours runs")
    if not found.mode & 0o100 or not found.mode & 0o004:
        return error(f"{found.path} has mode {found.mode:04o}", f"chmod 755 {found.path}")
    if not os.access(found.interpreter, os.X_OK):
        return error(f"{found.path} is for {found.interpreter}, which is not there any more", anew)
    return None


def needs(config: Config) -> float:
    """Seconds that a prologue must be given: the longest boot, and the margin for undoing it."""
    return config.timeouts_boot * config.timeouts_scale + config.timeouts_margin


def judge_alarm(seconds: float, config: Config, where: str) -> Finding:
    """`seconds` that the batch system really gives a prologue."""
    boot = config.timeouts_boot * config.timeouts_scale
    left = seconds - config.timeouts_margin
    if left <= 0:
        kept = f"[timeouts] margin keeps {config.timeouts_margin:.0f} s of that"
        return error(f"{where}: a prologue has {seconds:.0f} s, and {kept}", f"give it {needs(config):.0f} s")
    if left < boot:
        return warning(f"{where}: a guest has {left:.0f} s to boot, and [timeouts] boot = {boot:.0f} s",
                       f"give a prologue {needs(config):.0f} s")
    return ok(f"{where}: a prologue has {seconds:.0f} s")


def homes() -> list[str]:
    """Where a Torque is on this node."""
    return [home for home in _TORQUES if os.path.isdir(f"{home}/mom_priv")]


def of_torque(site: Site) -> Iterator[Finding]:
    """mom_priv: hooks, job starter, alarm."""
    for home in homes():
        place = f"{home}/mom_priv"
        try:
            with open(f"{place}/config", encoding="utf-8", errors="replace") as text:
                settings = text.read()
        except FileNotFoundError:
            settings = ""
        found = [hook(f"{place}/{name}") for name in (*_HOOKS, *_SISTERS)]
        yield from judge_torque(place, found, settings, torque.alarm(place), site.config)


def judge_torque(place: str, found: list[Hook], settings: str, seconds: float, config: Config) -> Iterator[Finding]:
    """`seconds` as a prologue has them, by mom's own `settings`."""
    wrong = []
    for each in found:
        said = judge_hook(each, "--torque")
        if said is not None and os.path.basename(each.path) in _SISTERS and not each.there:
            said = warning(f"{said.found}: jobs on several nodes have no guests on the others", said.advice)
        if said is not None:
            wrong.append(said)
    stated = dict(re.findall(r"^[ \t]*\$(\w+)[ \t]+([^\n#]*)", settings, re.MULTILINE))
    starter = stated.get("job_starter", "").strip()
    if not starter:
        wrong.append(error(f"{place}/config has no $job_starter: after a prologue that was killed the job would run on the node",
                           f"vmbatch install --torque writes it ($job_starter {_OWN_PLACE}/remoteshell); then restart pbs_mom"))
    elif os.path.basename(starter.split()[0]) != "remoteshell":
        wrong.append(error(f"{place}/config: $job_starter {starter} is not remoteshell",
                           "have remoteshell start your own, or see docs/torque.md"))
    else:
        try:
            file.check_trusted(starter.split()[0])
        except VmBatchError as bad:
            wrong += of_error(bad)
    if stated.get("job_starter_run_privileged", "").strip().lower() in ("1", "y", "yes", "true"):
        wrong.append(error(f"{place}/config has $job_starter_run_privileged: users' jobs would start as root",
                           "take it out, and restart pbs_mom"))
    yield from wrong
    alarm = judge_alarm(seconds, config, f"{place}/config ($prologalarm less {_BEFORE_NEXT_SECONDS:.0f} s)")
    if alarm.level != "ok":
        yield msgspec.structs.replace(alarm,
                                      advice=f"$prologalarm {needs(config) + _BEFORE_NEXT_SECONDS:.0f}, and restart pbs_mom")
    elif not wrong:
        yield ok(f"{place} has our hooks and $job_starter; {alarm.found.partition(': ')[2]}")


def of_openpbs(site: Site) -> Iterator[Finding]:
    """PBS_HOME's mom_priv, and the hook in pbs_mom."""
    home = pbsfacts.setting("PBS_HOME", PBS)
    place = f"{home}/mom_priv"
    if not os.path.isdir(place):
        return
    alarm, events = pbs_hook(f"{place}/hooks/vmbatch.HK")
    found = [hook(f"{place}/{name}") for name in (*_HOOKS, "openpbs")]
    yield from judge_openpbs(place, found, alarm, events, site.config)


def pbs_hook(path: str) -> tuple[float | None, set[str]]:
    """(alarm in seconds, events) of a hook as pbs_mom keeps it (src/hook/hook_func.c, hook_save); (None, none) without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as text:
            stated = dict(line.strip().split("=", 1) for line in text if "=" in line)
    except OSError:
        return None, set()
    number = stated.get("alarm", "")
    return float(number) if re.fullmatch(r"[0-9]{1,9}",
                                         number) else 30.0, set(re.findall(r"execjob_\w+", stated.get("event", "")))


def judge_openpbs(place: str, found: list[Hook], alarm: float | None, events: set[str], config: Config) -> Iterator[Finding]:
    """With `alarm` None there is no hook of ours in pbs_mom."""
    wrong = [said for each in found if (said := judge_hook(each, "--openpbs")) is not None]
    if alarm is None:
        wrong.append(error(f"{place}/hooks has no hook vmbatch: jobs' shells would run on the node",
                           "vmbatch install --openpbs prints the lines for qmgr, see docs/openpbs.md"))
    elif "execjob_launch" not in events:
        wrong.append(error("the hook vmbatch does not listen to execjob_launch: jobs' shells would run on the node",
                           "qmgr -c \"set hook vmbatch event += execjob_launch\""))
    yield from wrong
    if alarm is not None:
        judged = judge_alarm(alarm, config, "the hook vmbatch")
        if judged.level != "ok":
            yield msgspec.structs.replace(judged, advice=f'qmgr -c "set hook vmbatch alarm = {needs(config):.0f}"')
        elif not wrong:
            yield ok(f"{place} has our hooks; {judged.found}")


def of_slurm(site: Site) -> Iterator[Finding]:
    """slurm.conf and plugstack.conf."""
    if not os.path.exists(f"{_SLURM}/slurm.conf"):
        return
    stated = slurm.settings(f"{_SLURM}/slurm.conf")
    for name in ("prolog", "epilog"):  # each may be a pattern
        stated[name] = [path for pattern in stated.get(name, []) for path in glob.glob(pattern) or [pattern]]
    stack = ""
    for name in slurm.included(f"{_SLURM}/plugstack.conf"):
        with open(name, encoding="utf-8", errors="replace") as text:
            stack += text.read()
    yield from judge_slurm(stated, stack, slurm.alarm(f"{_SLURM}/slurm.conf"), site.config)


def judge_slurm(stated: dict[str, list[str]], stack: str, seconds: float, config: Config) -> Iterator[Finding]:
    """`stated` has each setting's values by its name in small letters, `stack` is plugstack.conf."""
    wrong = []
    for name, script in (("prolog", "slurm-prolog"), ("epilog", "slurm-epilog")):
        ours = [path for path in stated.get(name, []) if os.path.basename(path) == script]
        if not ours:
            wrong.append(error(f"slurm.conf: {name.capitalize()} is not {script}",
                               f"{name.capitalize()}={_OWN_PLACE}/{script}"))
        wrong += [said for path in ours if (said := judge_hook(hook(path), "--slurm")) is not None]
    flags = ",".join(stated.get("prologflags", [])).lower().split(",")
    if not {"alloc", "contain"} & set(flags):
        wrong.append(warning("slurm.conf: PrologFlags has no Alloc, so a guest boots when the first step comes",
                             "PrologFlags=Alloc"))
    if stated.get("getenvtimeout", [""])[-1] != "0":
        wrong.append(warning("slurm.conf: without GetEnvTimeout=0 a user can have slurmd run a login shell on the node",
                             "GetEnvTimeout=0"))
    plugin = next((words for line in stack.splitlines() if len(words := shlex.split(line, comments=True)) > 1
                   and words[1].endswith("vmbatch.so")), [])
    if not plugin:
        wrong.append(error("plugstack.conf has no vmbatch.so: tasks would run on the node",
                           "vmbatch install --slurm builds it, and writes its line"))
    elif plugin[0] != "required":
        wrong.append(error("plugstack.conf: vmbatch.so is optional, so tasks may run on the node",
                           "write required in front of it"))
    else:
        task = next((word.partition("=")[2] for word in plugin if word.startswith("task=")), "")
        for path in (plugin[1], task):
            if path.startswith("/") and not os.path.exists(path):
                wrong.append(error(f"plugstack.conf: {path} is not there", "vmbatch install --slurm puts it there"))
    yield from wrong
    alarm = judge_alarm(seconds, config, "slurm.conf (PrologEpilogTimeout)")
    batch = stated.get("batchstarttimeout", ["10"])[-1]
    if alarm.level != "ok":
        yield msgspec.structs.replace(alarm, advice=f"PrologEpilogTimeout={needs(config):.0f}")
    elif batch.isdecimal() and float(batch) < needs(config):
        yield warning(f"slurm.conf: BatchStartTimeout={batch}, and a guest may take longer: its job would be requeued",
                      f"BatchStartTimeout={needs(config):.0f}")
    elif not wrong:
        yield ok("slurm.conf and plugstack.conf have our hooks and plugin")


def some(site: Site) -> Iterator[Finding]:
    """Whether there is any batch system."""
    known = {"Torque": bool(homes()), "OpenPBS": os.path.isdir(f"{pbsfacts.setting('PBS_HOME', PBS)}/mom_priv"),
             "Slurm": os.path.exists(f"{_SLURM}/slurm.conf")}
    here = [name for name, is_here in known.items() if is_here]
    yield (ok(" ".join(here)) if here
           else warning("no batch system that VmBatch knows is on this node", "guests can be had by vmbatch run alone"))


CHECKS = (
    Check("batch", "which batch systems are on this node", some, settings=False),
    Check("torque", "whether mom has our hooks, $job_starter, and enough $prologalarm", of_torque, root=True),
    Check("openpbs", "whether mom has our hooks and files, and enough alarm", of_openpbs, root=True),
    Check("slurm", "whether slurm.conf and plugstack.conf have what guests need", of_slurm),
)
