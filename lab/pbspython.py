"""A pbs_python for the lab: runs one hook as OpenPBS's embedded Python does, with a module `pbs` written from its sources.

    python3 lab/pbspython.py INPUT OUTPUT HOOK

INPUT and OUTPUT are JSON where OpenPBS has lines of its own: attributes in, what the hook made of them out. Imitated are
src/modules/python/pbs/v1 (`_svr_types.py`: event, job, vnode; `_base_types.py`: pbs_env, pbs_resource, hold_types) and
src/tools/pbs_python.c: which attributes may be set in which event, accept and reject as SystemExit, the exit status 254 for an
exception and 253 for the alarm. Nothing is imported but what comes with Python, and nothing of VmBatch's.
"""

import json
import re
import signal
import sys
import traceback
import types
from typing import Any, NoReturn

EVENTS = {
    "execjob_begin": 0x40, "execjob_prologue": 0x80, "execjob_epilogue": 0x100, "execjob_end": 0x200, "execjob_preterm": 0x400,
    "execjob_launch": 0x800, "exechost_periodic": 0x1000, "exechost_startup": 0x2000, "execjob_attach": 0x4000,
    "execjob_resize": 0x20000, "execjob_abort": 0x40000,
}
ND_OFFLINE = 0x1
UNREADABLE = {"Exit_status": ("execjob_epilogue", "execjob_end"), "comment": (), "job_state": (), "schedselect": ()}
"""Attributes that only some events have (PBS Hooks Guide, table of job attributes)."""
SETTABLE = ("execjob_begin", "execjob_prologue", "execjob_launch", "execjob_epilogue", "execjob_preterm")
READONLY_VARIABLES = frozenset((
    "PBS_ENVIRONMENT", "PBS_JOBDIR", "PBS_JOBID", "PBS_JOBNAME", "PBS_NODEFILE", "TMPDIR", "PBS_O_HOME", "PBS_O_HOST",
    "PBS_O_LANG", "PBS_O_LOGNAME", "PBS_O_MAIL", "PBS_O_PATH", "PBS_O_QUEUE", "PBS_O_SHELL", "PBS_O_SYSTEM", "PBS_O_TZ",
    "PBS_O_WORKDIR", "PBS_QUEUE",
))


class BadAttributeValueError(Exception):
    """An attribute that may not be set, or not so."""


class UnsetAttributeNameError(Exception):
    """There is no such attribute."""


class EventIncompatibleError(Exception):
    """The event has no such parameter."""


class AlarmError(BaseException):
    """The hook's alarm: pbs_python interrupts the hook."""


class pbs_env(dict[str, str]):
    """Variables of an environment; a string of them is split at commas, and values keep their backslashes."""

    def __init__(self, value: Any, generic: bool = False) -> None:
        self._generic = generic
        if isinstance(value, str):
            pairs = (part.partition("=") for part in re.findall(r"(?:[^,\\]|\\.)+", value, re.DOTALL))
            value = {name: text for name, equals, text in pairs if equals}
        super().__init__(value)

    def __setitem__(self, name: str, value: str) -> None:
        if name in READONLY_VARIABLES and not self._generic:
            raise BadAttributeValueError(f"env variable '{name}' is readonly")
        super().__setitem__(name, value)

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.items() if value is not None).rstrip(",")


class pbs_resource:
    """Resources by name; None for one that is not set. It can be asked for its names, and not iterated over."""

    __iter__ = None

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def keys(self) -> list[str]:
        """The names of those that are set."""
        return list(self._values)

    def __getitem__(self, name: str) -> str | None:
        return self._values.get(name)


class hold_types:
    """Letters of holds: u, o, s, p, n."""

    def __init__(self, value: str) -> None:
        if not value or set(value) - set("uosnp"):
            raise BadAttributeValueError(f"illegal hold type {value}")
        self.value = value

    def __str__(self) -> str:
        return self.value


class Queue:
    """A queue, by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


class Job:
    """The event's job."""

    def __init__(self, event: str, attributes: dict[str, Any], more: dict[str, Any]) -> None:
        self.__dict__.update(_event=event, _attributes=attributes, _more=more, _set={})

    def __getattr__(self, name: str) -> Any:
        if name == "id":
            return self._more["id"]
        if self._event not in UNREADABLE.get(name, (self._event,)):
            return None
        if name not in self._attributes and name.startswith("_"):
            raise AttributeError(name)
        value = self._attributes.get(name)
        if name in ("Resource_List", "resources_used"):
            return pbs_resource(value or {})
        if name == "Variable_List":
            return pbs_env(value or "")
        if name == "queue":
            return Queue(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("Hold_Types", "Execution_Time", "run_count", "resources_used", "Variable_List"):
            raise BadAttributeValueError(f"job attribute '{name}' is readonly")
        if self._event not in SETTABLE:
            raise BadAttributeValueError(f"job attribute '{name}' cannot be set in {self._event}")
        self._set[name] = str(value)

    def rerun(self) -> None:
        """The job goes back into its queue if the event is rejected."""
        self._set["_rerun"] = True

    def delete(self) -> None:
        """The job is deleted if the event is rejected."""
        self._set["_delete"] = True

    def in_ms_mom(self) -> bool:
        """Whether this is the job's first node."""
        return bool(self._more["ms"])

    def stdout_file(self) -> str:
        """The file of the job's output."""
        return str(self._more["stdout"])

    def stderr_file(self) -> str:
        """The file of the job's errors."""
        return str(self._more["stderr"])


class Vnode:
    """A vnode of the event's list; what is set is for the server."""

    def __init__(self, name: str) -> None:
        self.__dict__.update(name=name, _set={})

    @property
    def changes(self) -> dict[str, Any]:
        """What was set."""
        return dict(self.__dict__["_set"])

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("state", "comment", "resources_available"):
            raise UnsetAttributeNameError(f"vnode attribute '{name}' not found")
        self.__dict__["_set"][name] = value


class Event:
    """What the hook is asked about."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(type=EVENTS[given["event"]], hook_name=given["hook_name"], requestor="pbs_mom")
        parameters: dict[str, Any] = {
            "job": Job(given["event"], given["job"], given["about"]),
            "vnode_list": {name: Vnode(name) for name in given["vnodes"]},
        }
        if given["event"] == "execjob_launch":
            parameters.update(progname=given["progname"], argv=list(given["argv"]), env=pbs_env(given["env"]))
        if given["event"] == "execjob_attach":
            parameters.update(pid=given["pid"])
        self.__dict__["_param"] = parameters
        self.__dict__["verdict"] = ("accept", "")

    def __getattr__(self, key: str) -> Any:
        if key in self._param:
            return self._param[key]
        raise EventIncompatibleError(key)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("progname", "argv", "env") or name not in self._param:
            raise BadAttributeValueError(f"event attribute '{name}' is readonly")
        self._param[name] = value

    def accept(self, ecode: int = 0) -> NoReturn:
        """Ends the hook: the event takes its course."""
        self.__dict__["verdict"] = ("accept", "")
        raise SystemExit(str(ecode))

    def reject(self, emsg: str = "", ecode: int = 255) -> NoReturn:
        """Ends the hook: the event does not take its course."""
        self.__dict__["verdict"] = ("reject", emsg)
        raise SystemExit(str(ecode))


def module(given: dict[str, Any], event: Event, said: list[str]) -> types.ModuleType:
    """The module `pbs` as a hook sees it."""
    made = types.ModuleType("pbs")
    made.__dict__.update({name.upper(): number for name, number in EVENTS.items()})
    made.__dict__.update(
        event=lambda: event, pbs_env=pbs_env, hold_types=hold_types, ND_OFFLINE=ND_OFFLINE, LOG_ERROR=3, LOG_DEBUG=7,
        logmsg=lambda _level, text: said.append(str(text)), get_local_nodename=lambda: given["node"],
        pbs_conf={"PBS_HOME": given["home"], "PBS_EXEC": "/opt/pbs"},
    )
    return made


def main() -> int:
    """pbs_python --hook."""
    source, target, script = sys.argv[1:]
    with open(source, encoding="utf-8", errors="surrogateescape") as file:
        given = json.load(file)
    event = Event(given)
    said: list[str] = []
    sys.modules["pbs"] = module(given, event, said)

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise AlarmError

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, given["alarm"])
    status = 0
    try:
        with open(script, encoding="utf-8") as file:
            exec(compile(file.read(), script, "exec"), {"__name__": "__builtin__"})  # noqa: S102
    except SystemExit:
        pass
    except AlarmError:
        status, event.__dict__["verdict"] = 253, ("reject", "")
    except BaseException:
        said.append(traceback.format_exc())
        status, event.__dict__["verdict"] = 254, ("reject", "")
    signal.setitimer(signal.ITIMER_REAL, 0)
    found: dict[str, Any] = {
        "verdict": event.verdict[0], "message": event.verdict[1], "said": said, "job": event.job._set,
        "vnodes": {name: vnode.changes for name, vnode in event.vnode_list.items() if vnode.changes},
    }
    if given["event"] == "execjob_launch":
        found.update(progname=event.progname, argv=[str(word) for word in event.argv], env=str(event.env))
    with open(target, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(found, file)
    return status


if __name__ == "__main__":
    sys.exit(main())
