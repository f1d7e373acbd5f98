"""OpenPBS's pbs_mom for the lab: runs hooks and classic scripts, and starts job shells, as its sources say.

Facts: resmom/mom_hook_func.c (run_hook, mom_process_hooks), resmom/start_exec.c (finish_exec, start_process), resmom/prolog.c
(run_pelog). Python hooks run in a process of their own (lab/pbspython.py). In what order things happen is the caller's.
"""

import contextlib
import grp
import itertools
import json
import os
import pwd
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from . import place

EVENTS = (
    "execjob_begin", "execjob_prologue", "execjob_launch", "execjob_attach", "execjob_preterm", "execjob_epilogue", "execjob_end",
    "execjob_abort",
)
_numbers = itertools.count(int(time.time() * 1000) % 1_000_000_000)


@dataclass
class Job:
    """A job on this node; `variables` are what the user gave to `qsub -v`, `words` what stands behind `qsub --`."""

    id: str
    user: str
    queue: str
    home: Path
    name: str = "job"
    account: str | None = None
    resources: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    interactive: bool = False
    join: str = "n"
    exec_host2: str = ""
    exec_vnode: str = ""
    first: bool = True
    tasks: int = 0

    @property
    def script(self) -> Path:
        """The script file; an array member's has brackets in its name."""
        return self.home / "mom_priv/jobs" / f"{self.id}.SC"

    @property
    def files(self) -> tuple[Path, Path]:
        """The files of output and errors."""
        return self.home / "spool" / f"{self.id}.OU", self.home / "spool" / f"{self.id}.ER"

    @property
    def output(self) -> bytes:
        """The job's stdout so far."""
        return self.files[0].read_bytes()

    @property
    def errors(self) -> bytes:
        """The job's stderr so far."""
        return self.files[1].read_bytes()

    @property
    def person(self) -> pwd.struct_passwd:
        """The submitting user."""
        return pwd.getpwnam(self.user)

    @property
    def group(self) -> str:
        """The job's group."""
        return grp.getgrgid(self.person.pw_gid).gr_name


@dataclass
class Answer:
    """What a hook made of an event: pbs_python's exit status (negative: a signal), and what it wrote, if anything."""

    status: int
    found: dict[str, Any]

    @property
    def verdict(self) -> str:
        """`accept`, `delete`, `rerun`, `hold`; `error` for an exception or the alarm, `skipped` for any other end (rc -1)."""
        if self.status in (253, 254):
            return "error"
        if self.status != 0:
            return "skipped"
        if self.found["verdict"] == "accept":
            return "accept"
        changed = self.found["job"]
        if changed.get("_delete"):
            return "delete"
        return "hold" if changed.get("Hold_Types") else "rerun"

    @property
    def message(self) -> str:
        """The reason of a rejection."""
        return str(self.found.get("message", ""))


class Mom:
    """A pbs_mom with its files under `home`, and one hook, for the events in `events`."""

    def __init__(
        self, home: Path = place.PBS, *, events: tuple[str, ...] = EVENTS, alarm: float = 120, hook: Path | None = None,
    ) -> None:
        self.home = home
        self.events = events
        self.alarm = alarm
        self.hook = hook or home / "mom_priv/vmbatch_hook.py"
        for name in ("mom_priv/hooks/tmp", "mom_priv/jobs", "aux", "spool"):
            (home / name).mkdir(parents=True, exist_ok=True)
        (home / "spool").chmod(0o1777)
        (home / "mom_priv/hooks/vmbatch.HK").write_text(f"type=site\nenabled=true\nuser=pbsadmin\nalarm={alarm:.0f}\norder=1\n")

    @property
    def prologue_alarm(self) -> float:
        """Seconds until a classic script is killed: `$prologalarm`, 30 by default."""
        with contextlib.suppress(FileNotFoundError):
            if found := re.search(r"^\$prologalarm\s+(\d+)", (self.home / "mom_priv/config").read_text(), re.MULTILINE):
                return int(found[1])
        return 30

    def accept(self, script: bytes = b"", *, job_id: str = "", user: str = "alice", queue: str = "busybox", **about: Any) -> Job:
        """A job that the server has sent: its files are made."""
        job = Job(job_id or f"{next(_numbers)}.lab", user, queue, self.home, **about)
        uid, gid = job.person.pw_uid, job.person.pw_gid
        paths = [(path, b"", 0o600) for path in job.files]
        if not job.interactive and not job.words:
            paths.append((job.script, script, 0o700))
        for path, data, mode in paths:
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            os.chown(path, uid, gid)
            path.chmod(mode)
        (self.home / "aux" / job.id).write_text("node1\n")
        (self.home / "mom_priv/jobs" / f"{job.id}.JB").write_bytes(b"")
        return job

    def _attributes(self, job: Job, status: int) -> dict[str, Any]:
        return {
            "Job_Name": job.name, "Account_Name": job.account, "euser": job.user, "egroup": job.group, "queue": job.queue,
            "Resource_List": {"ncpus": "1", "select": "1:ncpus=1", "walltime": "00:10:00", **job.resources},
            "Variable_List": _joined({"PBS_O_HOME": job.person.pw_dir, **job.variables}),
            "exec_host": "node1/0", "exec_host2": job.exec_host2 or "node1.lab:15002/0",
            "exec_vnode": job.exec_vnode or "(node1:ncpus=1)", "Join_Path": job.join,
            "interactive": 15001 if job.interactive else None, "session_id": 4711, "Exit_status": status,
            "resources_used": {"cput": "00:00:00", "walltime": "00:00:03"},
        }

    def run_hook(self, job: Job, event: str, *, status: int = 0, deaf: bool = False, **more: Any) -> Answer:
        """One run of the hook for an event. `deaf`: pbs_python does not hear its alarm, so that mom has to kill it."""
        return self.finish_hook(*self.start_hook(job, event, status=status, deaf=deaf, **more))

    def start_hook(
        self, job: Job, event: str, *, status: int = 0, deaf: bool = False, stdin: int | BinaryIO | None = None, **more: Any,
    ) -> tuple["subprocess.Popen[bytes]", Path]:
        """The hook's process, leader of a session and group, in mom's environment; its streams are the job's before a shell."""
        given = {
            "event": event, "hook_name": "vmbatch", "home": str(self.home), "node": "node1",
            "vnodes": ["node1", "node1[0]", "node2"], "alarm": 0 if deaf else self.alarm, "job": self._attributes(job, status),
            "about": {"id": job.id, "ms": job.first, "stdout": str(job.files[0]), "stderr": str(job.files[1])}, **more,
        }
        base = self.home / "mom_priv/hooks/tmp" / f"hook_{event}_{next(_numbers)}"
        base.with_suffix(".in").write_text(json.dumps(given), encoding="utf-8", errors="surrogateescape")
        with contextlib.ExitStack() as stack:
            early = event in ("execjob_prologue", "execjob_launch")
            streams = [stack.enter_context(open(path, "ab")) for path in job.files] if early else [subprocess.DEVNULL] * 2
            process = subprocess.Popen(
                ["/usr/bin/python3", str(place.CLONE / "lab/pbspython.py"), str(base.with_suffix(".in")),
                 str(base.with_suffix(".out")), str(self.hook)],
                stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=streams[0], stderr=streams[1],
                cwd=base.parent, env=self._mom_environment(), start_new_session=True, umask=0o077 if early else 0o022,
                restore_signals=False,
            )
        return process, base

    def finish_hook(self, process: "subprocess.Popen[bytes]", base: Path) -> Answer:
        """Waits for the hook until its alarm, and kills its process group in any case."""
        try:
            status = process.wait(self.alarm + 0.5)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()
            status = 253
        _kill_group(process.pid)
        found: dict[str, Any] = {}
        if status >= 0:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                found = json.loads(base.with_suffix(".out").read_text(encoding="utf-8", errors="surrogateescape"))
        for suffix in (".in", ".out"):
            base.with_suffix(suffix).unlink(missing_ok=True)
        return Answer(status, found)

    def _mom_environment(self) -> dict[str, str]:
        return {"LANG": "C.UTF-8", "PATH": "/bin:/usr/bin", "MOM_SECRET": "only the node's", "PBS_HOOK_CONFIG_FILE": "/none"}

    def start_classic(self, job: Job, name: str, words: list[str], umask: int = 0o077) -> "subprocess.Popen[bytes]":
        """A classic script in a session of its own, with its output in the job's files."""
        environ = self._mom_environment() | {"PBS_JOBDIR": job.person.pw_dir}
        del environ["PBS_HOOK_CONFIG_FILE"]
        with open(job.files[0], "ab") as output, open(job.files[1], "ab") as errors:
            return subprocess.Popen([str(self.home / "mom_priv" / name), *words], stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=errors, cwd=self.home / "mom_priv", env=environ, start_new_session=True, umask=umask,
                                    restore_signals=False)

    def finish_classic(self, process: "subprocess.Popen[bytes]") -> int:
        """run_pelog's result: the exit status, -3 for a signal, -4 for the alarm; the process group is killed in any case."""
        try:
            status = process.wait(self.prologue_alarm)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()
            return -4
        _kill_group(process.pid)
        return status if status >= 0 else -3

    def prologue(self, job: Job) -> Answer:
        """The prologue's event, or where no hook listens the classic script: 1 aborts the job, anything else requeues it."""
        if "execjob_prologue" in self.events:
            read, write = os.pipe()
            os.write(write, b"the shell's line\n")
            os.close(write)
            try:
                answer = self.run_hook(job, "execjob_prologue", stdin=read)
                assert os.read(read, 99) == b"the shell's line\n", "a hook has read what is the shell's"
            finally:
                os.close(read)
            return answer
        status = self.finish_classic(self.start_classic(job, "prologue", [job.id, job.user, job.group]))
        changed = {"_delete": True} if status == 1 else {}
        return Answer(0, {"verdict": "reject" if status else "accept", "message": "", "job": changed, "vnodes": {}})

    def environment(self, job: Job) -> dict[str, str]:
        """The environment of the job's shell: mom's, then the user's, then OpenPBS's own (finish_exec)."""
        person = job.person
        return {
            "LANG": "C.UTF-8", "PATH": "/bin:/usr/bin", "PBS_O_HOME": person.pw_dir, "PBS_O_WORKDIR": person.pw_dir,
            "PBS_O_QUEUE": job.queue, **job.variables, "HOME": person.pw_dir, "LOGNAME": job.user, "PBS_JOBNAME": job.name,
            "PBS_JOBID": job.id, "PBS_QUEUE": job.queue, "SHELL": person.pw_shell, "USER": job.user, "PBS_JOBCOOKIE": "C4B7",
            "PBS_NODENUM": "0", "PBS_TASKNUM": "1", "PBS_MOMPORT": "15003", "OMP_NUM_THREADS": "1", "NCPUS": "1",
            "PBS_NODEFILE": f"{self.home}/aux/{job.id}", "PBS_JOBDIR": person.pw_dir, "PBS_ENVIRONMENT": "PBS_BATCH",
            "ENVIRONMENT": "BATCH",
        }

    def launch(self, job: Job, *, task: list[str] | None = None, variables: dict[str, str] | None = None) -> Answer:
        """The launch event of the job's shell, or of a task by `tm_spawn`, whose variables come last."""
        environ = self.environment(job) | ({"PBS_TASKNUM": "00000002"} if task else {}) | (variables or {})
        shell = job.person.pw_shell
        words = task or job.words or ["-" + os.path.basename(shell)]
        program = (task or job.words or [shell])[0]
        answer = Answer(0, {"verdict": "accept", "progname": program, "argv": words, "env": _joined(environ), "job": {}})
        if "execjob_launch" in self.events:
            answer = self.run_hook(job, "execjob_launch", progname=program, argv=words, env=_joined(environ))
        return answer

    def start_shell(self, job: Job, *, task: list[str] | None = None, variables: dict[str, str] | None = None,
                    stdin: int | None = None) -> "subprocess.Popen[bytes]":
        """What the launch event lets be executed, as the user."""
        answer = self.launch(job, task=task, variables=variables)
        assert answer.verdict in ("accept", "skipped"), answer
        program, argv, environ = answer.found["progname"], answer.found["argv"], split(answer.found["env"])
        person = job.person
        given = stdin if stdin is not None else subprocess.DEVNULL if job.words or task else subprocess.PIPE
        with open(job.files[0], "ab") as output, open(job.files[1], "ab") as errors:
            process = subprocess.Popen(
                argv, executable=program, stdin=given, stdout=output, stderr=errors, env=environ, cwd=person.pw_dir,
                start_new_session=True, umask=0o077, restore_signals=False, user=person.pw_uid, group=person.pw_gid,
                extra_groups=os.getgrouplist(job.user, person.pw_gid),
            )
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(str(job.script).replace("[", "\\[").replace("]", "\\]").encode() + b"\n")
        return process

    def end(self, job: Job, status: int = 0) -> list[int]:
        """Epilogue and end of a job; pbs_python's, or the script's, exit statuses."""
        ended = []
        if "execjob_epilogue" in self.events:
            ended.append(self.run_hook(job, "execjob_epilogue", status=status).status)
        else:
            words = [job.id, job.user, job.group, job.name, "4711", "ncpus=1", "walltime=00:00:03", job.queue,
                     job.account or "null", str(status)]
            ended.append(self.finish_classic(self.start_classic(job, "epilogue", words, 0o022)))
        if "execjob_end" in self.events:
            ended.append(self.run_hook(job, "execjob_end", status=status).status)
        self.forget(job)
        return ended

    def forget(self, job: Job) -> None:
        """Removes the job's files, as mom does at last."""
        for path in (job.script, self.home / "aux" / job.id, self.home / "mom_priv/jobs" / f"{job.id}.JB"):
            path.unlink(missing_ok=True)

    def play(self, script: bytes = b"", **about: Any) -> tuple[Job, str, int | None]:
        """A job from start to end: (the job, the verdict on its start, the shell's exit status)."""
        job = self.accept(script, **about)
        if "execjob_begin" in self.events:
            assert self.run_hook(job, "execjob_begin").verdict == "accept"
        verdict = self.prologue(job).verdict
        code = None
        if verdict == "accept":
            code = self.start_shell(job).wait()
        ended = self.end(job, code or 0)
        assert not any(ended), ended
        return job, verdict, code


def _joined(environ: dict[str, str]) -> str:
    """Variables as OpenPBS hands them about: joined with commas; a comma or backslash in a value has a backslash before it."""
    return ",".join(name + "=" + re.sub(r"([,\\])", r"\\\1", value) for name, value in environ.items())


def split(environ: str) -> dict[str, str]:
    """The inverse (Libutil/misc_utils.c, str_to_str_array)."""
    pairs = (part.partition("=") for part in re.findall(r"(?:[^,\\]|\\.)+", environ, re.DOTALL))
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, equals, value in pairs if equals}


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
