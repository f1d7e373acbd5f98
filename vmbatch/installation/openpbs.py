"""What a node of OpenPBS's wants: the programs in mom_priv; and, once for all nodes, the hook at the server."""

import os

from ..errors import SiteError
from ..host import file, process
from . import hookfile
from .mom import check_directory
from .node import Plan, script_note
from .step import File, Hook, Imported, Step

PLACES = ("/var/spool/pbs/mom_priv",)
_CONFIGURATION = "/etc/pbs.conf"
_HOOK = "vmbatch"
_CLASSIC = ("prologue", "epilogue")
_SETTINGS = (
    "event = 'execjob_begin,execjob_prologue,execjob_launch,execjob_attach'",
    "event += 'execjob_preterm,execjob_epilogue,execjob_end,execjob_abort'",
    "user = pbsadmin",
    "alarm = 600",
    "order = 1000",
    "fail_action = offline_vnodes",
    "enabled = true",
)


def configured() -> dict[str, str]:
    """The settings of pbs.conf(8); none where there is no such file."""
    if not os.path.exists(_CONFIGURATION):
        return {}
    lines = file.read_trusted(_CONFIGURATION).decode(errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def places() -> tuple[str, ...]:
    """Where mom_priv may be, by pbs.conf first."""
    home = configured().get("PBS_HOME")
    return ((os.path.join(home, "mom_priv"), *PLACES) if home else PLACES)


def plan(mom_priv: str, prefix: str, *, qmgr: bool) -> Plan:
    """For one mom_priv; with `qmgr` the server gets the hook, too. SiteError."""
    check_directory(mom_priv)
    texts, why = hookfile.texts(hookfile.OPENPBS_HOOKS, mom_priv, prefix)
    source, program = os.path.join(mom_priv, "vmbatch_hook.py"), hookfile.openpbs_hook(mom_priv)
    steps: list[Step] = [Hook(path, text) if os.path.basename(path) in _CLASSIC else File(path, text, 0o755)
                         for path, text in texts.items()]
    steps.append(File(source, program))
    imported = Imported(_HOOK, _qmgr() if qmgr else "qmgr", _SETTINGS, source, program)
    notes = script_note(mom_priv, why)
    if qmgr:
        return Plan((*steps, imported), notes)
    told = "".join(f'\n             qmgr -c "{command}"' for command in imported.commands())
    return Plan(tuple(steps), notes, (f"on the server, once (again, the last line alone, with a new version of VmBatch):{told}",))


def _qmgr() -> str:
    """The site's qmgr. SiteError."""
    home = configured().get("PBS_EXEC")
    own = os.path.join(home, "bin/qmgr") if home else ""
    found = own if own and os.access(own, os.X_OK) else process.find("qmgr")
    if not found:
        raise SiteError("there is no qmgr on this node", "leave out --qmgr, and run what is printed on the server", code="VB918")
    file.check_trusted(found)
    return found
