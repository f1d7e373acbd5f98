"""A Slurm of the lab's node: munged, slurmdbd and its database, slurmctld, and a slurmd for each of two nodes, both this machine.

    python -m lab.slurm [OPTION=VALUE]...       starts it and stays until it is killed; options replace those of slurm.conf

Debian builds slurmd so that several may run on a machine: `-N` names the node, whose port and directories (`%n`) are its own. A
job's processes are found by their descent (proctrack/linuxproc), unless OPTIONS are joined by CGROUPS; these need the machine's
control groups of version 1, which `control_groups` shows the node.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from . import place
from .init import LOG
from .process import run

CONFIG = Path("/etc/slurm")
STATE = Path("/var/spool/slurmctld")
DATABASE = Path("/var/spool/slurmdbd")
DATABASE_SOCKET = Path("/run/mysqld/mysqld.sock")
PLUGIN = Path("/srv/slurm/vmbatch.so")
HOOKS = Path("/srv/slurm/hooks")
PORTS = {"n1": 6821, "n2": 6822}
KILL_WAIT_SECONDS = 4
OPTIONS = {
    "ClusterName": "lab",
    "SlurmctldHost": "node(127.0.0.1)",
    "SlurmUser": "slurm",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "MpiDefault": "none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageHost": "localhost",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "bf_interval=1,sched_interval=1,sched_min_interval=0",
    "SlurmdParameters": "config_overrides",
    "StateSaveLocation": str(STATE),
    "SlurmdSpoolDir": "/var/spool/slurmd/%n",
    "SlurmctldPidFile": "/run/slurmctld.pid",
    "SlurmdPidFile": "/run/slurmd-%n.pid",
    "SlurmctldLogFile": f"{LOG}/slurmctld.log",
    "SlurmdLogFile": f"{LOG}/slurmd-%n.log",
    "SlurmdDebug": "verbose",
    "SlurmctldDebug": "verbose",
    "KillWait": str(KILL_WAIT_SECONDS),
    "ReturnToService": "2",
    "DefMemPerCPU": "256",
    "PrologFlags": "Alloc",
    "PrologEpilogTimeout": "300",
    "BatchStartTimeout": "300",
    "GetEnvTimeout": "0",
    "JobSubmitPlugins": "lua",
    "Prolog": f"{HOOKS}/slurm-prolog",
    "Epilog": f"{HOOKS}/slurm-epilog",
}
CGROUPS = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "JobAcctGatherType": "jobacct_gather/cgroup",
    "PrologFlags": "Alloc,Contain",
}
CONTROLLERS = ("freezer", "memory", "cpuset", "cpuacct", "devices")
_SLURMDBD = f"""AuthType=auth/munge
DbdHost=localhost
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageLoc=slurm
LogFile={LOG}/slurmdbd.log
PidFile=/run/slurmdbd.pid
"""
_CGROUP = """CgroupPlugin=cgroup/v1
ConstrainCores=yes
ConstrainRAMSpace=yes
ConstrainDevices=yes
"""
_NODE = "CPUs=16 RealMemory=16000 Feature=busybox,debian"
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_PATIENCE_SECONDS = 240.0
_LOOK_SECONDS = 0.05


class Slurm:
    """The cluster lab; `partitions` are its partitions, the first one the default."""

    def __init__(self, partitions: Sequence[str], options: Mapping[str, str] | None = None) -> None:
        self.partitions = partitions
        self.options = {**OPTIONS, **(options or {})}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Makes its files and starts all daemons; returns when both nodes are idle."""
        self._populate()
        munge = pwd.getpwnam("munge")
        self._start("munged", ["/usr/sbin/munged", "--foreground"], user=munge.pw_uid, group=munge.pw_gid)
        wait(lambda: Path("/run/munge/munge.socket.2").exists(), "munged")
        self._account(pwd.getpwnam("slurm"))
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in PORTS:
            self.start_slurmd(node)
        wait(lambda: self.states() == dict.fromkeys(PORTS, "idle"), "slurmd", lambda: str(self.states()))

    def _account(self, slurm: pwd.struct_passwd) -> None:
        """What sacct asks. The database has no tables of accounts: whoever reaches its socket may all."""
        for path in (DATABASE, DATABASE_SOCKET.parent):
            path.mkdir(mode=0o700, exist_ok=True)
            os.chown(path, slurm.pw_uid, slurm.pw_gid)
        options = ["--no-defaults", f"--datadir={DATABASE}", f"--socket={DATABASE_SOCKET}", "--skip-networking",
                   "--skip-grant-tables", "--innodb-buffer-pool-size=32M", "--innodb-flush-method=nosync"]
        self._start("mariadbd", ["mariadbd", *options], user=slurm.pw_uid, group=slurm.pw_gid)
        wait(DATABASE_SOCKET.exists, "mariadbd")
        config = CONFIG / "slurmdbd.conf"
        config.touch(0o600)
        os.chown(config, slurm.pw_uid, slurm.pw_gid)
        config.write_text(_SLURMDBD)
        self._start("slurmdbd", ["slurmdbd", "-D"])
        wait(self._knows_accounting, "slurmdbd", lambda: (LOG / "slurmdbd.log").read_text())
        if not run(["sacctmgr", "-nP", "show", "cluster"]).strip():
            run(["sacctmgr", "-i", "add", "cluster", OPTIONS["ClusterName"]])

    @staticmethod
    def _knows_accounting() -> bool:
        return subprocess.run(["sacctmgr", "-nP", "show", "cluster"], capture_output=True, check=False).returncode == 0

    def _populate(self) -> None:
        munge, slurm = pwd.getpwnam("munge"), pwd.getpwnam("slurm")
        CONFIG.mkdir(exist_ok=True)
        for path, owner, mode in (
            (Path("/etc/munge"), munge, 0o700), (Path("/run/munge"), munge, 0o755), (Path("/var/lib/munge"), munge, 0o711),
            (Path("/var/log/munge"), munge, 0o700), (STATE, slurm, 0o700),
        ):
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, owner.pw_uid, owner.pw_gid)
            path.chmod(mode)
        key = Path("/etc/munge/munge.key")
        key.write_bytes(os.urandom(128))
        os.chown(key, munge.pw_uid, munge.pw_gid)
        key.chmod(0o400)
        for log in ("slurmctld.log", "slurmdbd.log"):
            (LOG / log).touch()
            os.chown(LOG / log, slurm.pw_uid, slurm.pw_gid)
        for node in PORTS:
            Path(f"/var/spool/slurmd/{node}").mkdir(parents=True, exist_ok=True)
        self.configure({})
        (CONFIG / "cgroup.conf").write_text(_CGROUP)
        self._install()

    def _install(self) -> None:
        """VmBatch as docs/slurm.md has it."""
        HOOKS.mkdir(parents=True, exist_ok=True)
        programs = place.ENVIRONMENT / "bin"
        run([programs / "python3", programs / "vmbatch", "hooks", HOOKS])  # users reach this Python
        source = place.CLONE / "slurm"
        run(["make", "-s", "-C", source, f"plugin={PLUGIN}", "install"])
        (CONFIG / "plugstack.conf").write_text(f"required {PLUGIN} task={HOOKS}/slurm-task partitions={self._guests()}\n")
        shutil.copy(source / "vmbatch.lua", CONFIG)
        names = ", ".join(f'"{name}"' for name in self._guests().split(","))
        (CONFIG / "job_submit.lua").write_text((source / "job_submit.lua").read_text().replace('"vm"', names))

    def _guests(self) -> str:
        return ",".join(name for name in self.partitions if name != "native")

    def configure(self, changes: Mapping[str, str]) -> None:
        """Writes slurm.conf; other options have the daemons read it by `reconfigure`."""
        lines = [f"{name}={value}" for name, value in {**self.options, **changes}.items() if value]
        lines += [f"NodeName={node} NodeHostname=node NodeAddr=127.0.0.1 Port={port} {_NODE}" for node, port in PORTS.items()]
        lines += [f"PartitionName={name} Nodes=ALL State=UP" for name in self.partitions]
        lines[-len(self.partitions)] += " Default=YES"
        (CONFIG / "slurm.conf").write_text("\n".join(lines) + "\n")

    def reconfigure(self, changes: Mapping[str, str]) -> None:
        """Other options for all daemons from now on, '' for none; returns when the slurmds have them."""
        before = {node: _reconfigured(node) for node in PORTS}
        self.configure(changes)
        run(["scontrol", "reconfigure"])
        wait(lambda: all(_reconfigured(node) > before[node] for node in PORTS), "slurmd does not reconfigure")

    def _start(self, name: str, argv: list[str], *, user: int = 0, group: int = 0) -> None:
        with open(LOG / f"{name}.out", "ab") as out:
            self._processes[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, user=user, group=group,
                extra_groups=[], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, cwd="/",
            )

    def start_slurmd(self, node: str) -> None:
        """As systemd starts it."""
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill_slurmd(self, node: str, number: int = signal.SIGKILL) -> None:
        """slurmd alone: what it has started lives on. After SIGTERM it waits for its Prologs."""
        process = self._processes.pop(node)
        process.send_signal(number)
        process.wait(_PATIENCE_SECONDS)

    def down(self) -> None:
        """Ends all daemons, in the order in which they need each other."""
        for node in PORTS:
            if node in self._processes:
                self.kill_slurmd(node, signal.SIGTERM)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            process = self._processes.pop(name, None)
            if process is not None:
                process.terminate()
                process.wait(_PATIENCE_SECONDS)

    def states(self) -> dict[str, str]:
        """Each node's state, such as `idle` or `drained`."""
        with contextlib.suppress(Exception):
            return dict(line.split() for line in run(["sinfo", "-h", "-N", "-o", "%N %T"]).splitlines())
        return {}

    def reason(self, node: str) -> str:
        """Why a node is drained."""
        return field(run(["scontrol", "show", "node", node]), "Reason").partition(" [")[0]

    def resume(self) -> None:
        """Takes nodes back into service."""
        for node, state in self.states().items():
            if "drain" in state:
                run(["scontrol", "update", f"NodeName={node}", "State=RESUME"])

    def sbatch(self, script: str | bytes, *options: str, user: str = "alice", arguments: Sequence[str] = ()) -> str:
        """Submits a script as a user from his home; the job's id."""
        home = Path(pwd.getpwnam(user).pw_dir)
        path = home / f"job-{time.monotonic_ns()}.sh"
        path.write_bytes(script if isinstance(script, bytes) else script.encode())
        said = self.run_as(user, ["sbatch", "--parsable", *options, str(path), *arguments])
        path.unlink()
        return said.stdout.strip()

    def run_as(
        self, user: str, argv: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """One of Slurm's commands as a user would run it."""
        with self.start_as(user, argv, env=env) as process:
            out, err = process.communicate(stdin, _PATIENCE_SECONDS)
        if check and process.returncode:
            raise AssertionError(f"{' '.join(argv)}: {process.returncode}\n{err}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def start_as(self, user: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """A command of a user's that goes on by itself."""
        person = pwd.getpwnam(user)
        own = {"PATH": "/usr/bin:/bin", "HOME": person.pw_dir, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        return subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=person.pw_dir,
            user=person.pw_uid, group=person.pw_gid, extra_groups=os.getgrouplist(user, person.pw_gid), start_new_session=True,
            env={**own, **(env or {})},
        )

    def show(self, job: str) -> str:
        """What `scontrol show job` says."""
        return run(["scontrol", "show", "job", job])

    def state(self, job: str) -> str:
        """The job's state, such as `RUNNING`, `PENDING` or `COMPLETED`."""
        return field(self.show(job), "JobState")

    def wait_for(self, job: str, *states: str) -> str:
        """Waits until the job is in one of these states; which."""
        wait(lambda: self.state(job) in states, f"job {job} is not {' or '.join(states)}", lambda: self.show(job) + self.log(job))
        return self.state(job)

    def end(self, job: str) -> str:
        """Waits until the job has ended, and its Epilog, too; its state."""
        return self.wait_for(job, *_ENDED)

    def output(self, job: str, user: str = "alice") -> str:
        """What the job has written."""
        path = Path(pwd.getpwnam(user).pw_dir) / f"slurm-{job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def account(self, job: str) -> dict[str, list[str]]:
        """What `sacct` says of a job and each of its steps, when it has been told of its end: state and exit code."""
        rows: dict[str, list[str]] = {}

        def told() -> bool:
            said = run(["sacct", "-nP", "-j", job, "-o", "JobID,State,ExitCode,End"])
            rows.update((name, [state, code]) for name, state, code, _ in (line.split("|") for line in said.splitlines()))
            return bool(rows) and "Unknown" not in said

        wait(told, f"sacct does not say that {job} has ended", lambda: str(rows))
        return rows

    def log(self, job: str) -> str:
        """VmBatch's log of the job."""
        path = Path(f"/var/log/vmbatch/{job}.log")
        return path.read_text() if path.exists() else ""

    def clear(self) -> None:
        """Cancels all jobs, waits until their Epilogs have ended, and takes all nodes back into service."""
        run(["scancel", "--state=PENDING"])
        run(["scancel", "--state=RUNNING"])
        wait(lambda: not run(["squeue", "-h"]).strip(), "jobs do not end", lambda: run(["squeue"]))
        self.resume()


@contextlib.contextmanager
def control_groups() -> Iterator[list[str]]:
    """The machine's control groups in the node's /sys while it lasts, and what slurmd made there removed; what there is not."""
    hierarchies = dict(line.split()[:2] for line in Path("/proc/cgroups").read_text().splitlines())
    missing = [name for name in CONTROLLERS if hierarchies.get(name, "0") == "0"]
    if missing:
        yield missing
        return
    top = Path("/sys/fs/cgroup")
    run(["mount", "-t", "tmpfs", "cgroup", top])
    try:
        for name in CONTROLLERS:
            (top / name).mkdir()
            run(["mount", "-t", "cgroup", "-o", name, "cgroup", top / name])
        yield []
        for name in CONTROLLERS:
            for made in sorted((top / name).glob("slurm*/**/"), key=lambda path: -len(path.parts)):
                made.rmdir()
    finally:
        run(["umount", "--recursive", top])


def _reconfigured(node: str) -> int:
    """How often a slurmd has read its configuration: it says each time that the lab's nodes are made up."""
    return (LOG / f"slurmd-{node}.log").read_text().count("Node configuration differs from hardware")


def field(text: str, name: str) -> str:
    """A field of what scontrol prints."""
    match = re.search(rf"(?:^|\s){name}=(.*?)(?=\s+[A-Za-z/:]+=|\n|$)", text)
    return match[1] if match else ""


def wait(ready: Callable[[], object], what: str, more: Callable[[], str] = str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Until something is so; AssertionError says what is not, and `more`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}\n{more()}")
        time.sleep(_LOOK_SECONDS)


def main() -> None:
    """Until it is killed."""
    slurm = Slurm(["native", "busybox", "debian"], dict(argument.split("=", 1) for argument in sys.argv[1:]))
    slurm.up()
    print("up", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
