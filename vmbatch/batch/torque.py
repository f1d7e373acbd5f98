"""Torque: arguments and environment of its hooks, exit statuses, the alarm. Facts from TORQUE 6.1.3, measured."""

import grp
import os
import pwd
import re
import stat

from ..errors import Fault, JobError, NodeError, SiteError
from ..job import Group, Job, Script, User, check_job_id, check_name

START, ABORT, REQUEUE = 0, 1, 2
_DEFAULT_ALARM = 300
_SCRIPT_SUFFIX = ".SC"
_PROLOGUE_QUEUE, _EPILOGUE_QUEUE = 6, 8


def exit_status(fault: Fault) -> int:
    """A prologue's exit status: a job's own fault aborts it, anything else puts it back into its queue."""
    return ABORT if fault is Fault.JOB else REQUEUE


def prologue_queue(argv: list[str]) -> str:
    """The queue in a prologue's arguments; empty where there is none."""
    return argv[_PROLOGUE_QUEUE] if len(argv) > _PROLOGUE_QUEUE else ""


def epilogue_queue(argv: list[str]) -> str:
    """The queue in an epilogue's arguments; empty where there is none."""
    return argv[_EPILOGUE_QUEUE] if len(argv) > _EPILOGUE_QUEUE else ""


def parse_prologue(argv: list[str], environ: dict[str, str], token: str, job_directory: str | None) -> Job:
    """The job of a prologue: job id, user, group, job name, resource list, queue, account, path of the script file."""
    if len(argv) < 8:
        raise NodeError(f"the prologue was given {len(argv) - 1} arguments instead of 8", "it is to be run by pbs_mom")
    identifier, user, group, name, resources, queue, account = argv[1:8]
    check_job_id(identifier)
    check_name(queue, "queue")
    script = argv[8] if len(argv) > 8 and argv[8] else None
    if script is None and job_directory is not None:
        script = os.path.join(job_directory, identifier.replace("[", "-").replace("]", "") + _SCRIPT_SUFFIX)
    person = parse_user(user, group)
    return Job(
        id=identifier, token=token, user=person, name=name, queue=queue, account=account, resources=resources,
        script=None if script is None else identify_script(script, person),
        node_file=_node_file(environ.get("PBS_NODEFILE", "")), wishes=parse_wishes(resources),
    )


def parse_wishes(resources: str) -> dict[str, str]:
    """What `-l other=NAME=VALUE;NAME=VALUE` asks of VmBatch, whose names begin with `vb`. JobError.

    Torque joins all resources with commas and does not quote them, so that no value can have a comma in it.
    """
    found: dict[str, str] = {}
    for resource in resources.split(","):
        if found and "=" not in resource:
            raise JobError(f"-l other: no value can have a comma in it, and {resource[:80]!r} stands behind one",
                           "write %2C in a URL, or rename the file")
        if not resource.startswith("other="):
            continue
        for part in resource.removeprefix("other=").split(";"):
            name, equals, value = part.strip().partition("=")
            if not name.startswith("vb"):
                continue
            if not equals or not value:
                raise JobError(f"-l other={name[:80]}: a value is missing", f"write -l other={name[:80]}=VALUE")
            if name in found:
                raise JobError(f"-l other: {name[:80]} is asked for twice")
            found[name] = value
    return found


def parse_user(name: str, group: str) -> User:
    """The submitting user as this node's name service knows it. NodeError."""
    check_name(name, "user")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NodeError(f"this node knows no user {name}") from None
    try:
        gid = grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise NodeError(f"this node knows no group {group[:80]!r}") from None
    others = sorted(set(os.getgrouplist(name, gid)) - {gid})
    primary, *groups = (_group(number) for number in (gid, *others))
    return User(name, entry.pw_uid, primary, tuple(groups), entry.pw_dir or "/", entry.pw_shell or "/bin/sh")


def _group(gid: int) -> Group:
    """A group with a name that any guest can have: its own, unless there is none or it has blanks or the like."""
    try:
        name = grp.getgrgid(gid).gr_name
        check_name(name, "group")
    except (KeyError, JobError):
        name = f"gid{gid}"
    return Group(name, gid)


def identify_script(path: str, user: User) -> Script | None:
    """The job's script file as it is now; None for an interactive job, which has none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, user.uid):
        raise JobError(f"{path} is not a regular file of {user.name}")
    return Script(path, status.st_dev, status.st_ino, status.st_mtime_ns)


def _node_file(path: str) -> str | None:
    """The node file that mom made, if it made one: root's, in a directory of root's (resmom/start_exec.c, TMomFinalizeChild)."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISREG(status.st_mode) and status.st_uid == 0 else None


def is_gone(script: Script) -> bool:
    """Whether the batch system has taken the job's script file away: it keeps it until the epilogue has ended."""
    try:
        status = os.lstat(script.path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return (status.st_dev, status.st_ino, status.st_mtime_ns) != (script.device, script.inode, script.mtime_ns)


def alarm(mom_directory: str) -> float:
    """Seconds until mom kills a hook: `$prologalarm` of its configuration, less the 10 s that 6.1.3 takes off."""
    seconds = _DEFAULT_ALARM
    try:
        with open(os.path.join(mom_directory, "config"), encoding="utf-8", errors="replace") as config:
            for line in config:
                if match := re.match(r"\s*\$prologalarm\s+(\d{1,6})\s*(#.*)?$", line):
                    seconds = int(match[1])
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SiteError(f"{mom_directory}/config: {error.strerror}") from None
    return seconds - 10 if seconds > 10 else seconds
