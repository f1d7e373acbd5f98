"""A pbs_mom for the lab: starts hooks and job shells as TORQUE 6.1.3 was seen to do it, and draws mom's conclusions.

What it imitates: the hooks' arguments, environment, streams, leaked descriptors, umask, groups and session; the shell's one line
on stdin; the alarm that kills a prologue's session; what each exit status of a prologue means, a death by a signal included. What
happens in which order is the caller's: an epilogue may be early, doubled or left out.
"""

import contextlib
import dataclasses
import fcntl
import grp
import itertools
import json
import os
import pty
import pwd
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import place

KILL_DELAY_SECONDS = 2.0
_numbers = itertools.count(int(time.time() * 1000) % 1_000_000_000)


@dataclass
class Job:
    """A job on this node; `variables` are what the user gave to `qsub -v`.

    `hosts` are its nodes in their order, with `slots` of each; `rank` is this node's place among them.
    """

    id: str
    user: str
    queue: str
    name: str
    account: str
    resources: str
    variables: dict[str, str]
    files: Path
    hosts: tuple[str, ...] = ("node1",)
    slots: int = 1
    rank: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def file_id(self) -> str:
        """The id in file names: `42[1].vm` as `42-1.vm`."""
        return self.id.replace("[", "-").replace("]", "")

    @property
    def script(self) -> Path:
        """The script file in mom_priv/jobs."""
        return self.files / "mom_priv/jobs" / f"{self.file_id}.SC"

    @property
    def output(self) -> bytes:
        """The job's stdout so far."""
        return (self.files / "spool" / f"{self.id}.OU").read_bytes()

    @property
    def errors(self) -> bytes:
        """The job's stderr so far."""
        return (self.files / "spool" / f"{self.id}.ER").read_bytes()

    @property
    def person(self) -> pwd.struct_passwd:
        """The submitting user."""
        return pwd.getpwnam(self.user)


class Mom:
    """A pbs_mom with its files under `home`, on the node `name`; `enter` is what runs a command there, if that is not here."""

    def __init__(self, home: Path = place.MOM, name: str = "node1", enter: Sequence[str] = ()) -> None:
        self.home = home
        self.name = name
        self._enter = enter

    def _there(self, argv: list[str], directory: str | Path) -> list[str]:
        """A command on this mom's node."""
        return [*self._enter, f"--wdns={directory}", "--", *argv] if self._enter else argv

    @property
    def alarm(self) -> float:
        """Seconds until a hook is killed: `$prologalarm`, which 6.1.3 shortens by 10."""
        match = re.search(r"^\$prologalarm\s+(\d+)", (self.home / "mom_priv/config").read_text(), re.MULTILINE)
        seconds = int(match[1]) if match else 300
        return seconds - 10 if seconds > 10 else seconds

    def accept(
        self, script: bytes, *, user: str = "alice", queue: str = "busybox", name: str = "job", account: str = "",
        variables: dict[str, str] | None = None, job_id: str = "", other: str = "",
        hosts: tuple[str, ...] = ("node1",), slots: int = 1,
    ) -> Job:
        """A new job: its script, node file and spool files are made, as before a prologue. `other`: of `qsub -l other=`."""
        asked = f"other={other}," if other else ""
        job = Job(job_id or f"{next(_numbers)}.lab", user, queue, name, account,
                  f"nodes={len(hosts)}:ppn={slots},walltime=00:10:00,{asked}neednodes={len(hosts)}:ppn={slots}",
                  variables or {}, self.home, hosts, slots)
        uid, gid = job.person.pw_uid, job.person.pw_gid
        with contextlib.suppress(FileNotFoundError):
            job.script.unlink()
        for path, data, mode in (
            (job.script, script, 0o700), (self.home / "spool" / f"{job.id}.OU", b"", 0o600),
            (self.home / "spool" / f"{job.id}.ER", b"", 0o600),
        ):
            path.write_bytes(data)
            os.chown(path, uid, gid)
            path.chmod(mode)
        (self.home / "aux" / job.id).write_text("".join(f"{host}\n" * slots for host in hosts))
        return job

    def join(self, job: Job) -> Job:
        """The job of another mom as this one gets it as a sister: there is neither script nor node file nor spool file."""
        return dataclasses.replace(job, files=self.home, rank=job.hosts.index(self.name))

    def environment(self, job: Job) -> dict[str, str]:
        """Mom's own variables and the few of the job, as a prologue gets them."""
        nodes, slots = len(job.hosts), job.slots
        made = {
            "LANG": "C.UTF-8", "PATH": "/bin:/usr/bin", "MOM_SECRET": "only the node's",
            "PBS_MSHOST": job.hosts[0], "PBS_NODEFILE": f"{self.home}/aux//{job.id}", "PBS_NODENUM": str(job.rank),
            "PBS_NP": str(nodes * slots), "PBS_NUM_NODES": str(nodes), "PBS_NUM_PPN": str(slots),
            "PBS_O_WORKDIR": job.person.pw_dir, "PBS_RESOURCE_NODES": f"{nodes}:ppn={slots}",
        }
        if job.rank:
            del made["PBS_NODEFILE"]
        return made

    def _hook(self, job: Job, name: str, words: list[str], umask: int) -> "subprocess.Popen[bytes]":
        path = self.home / "mom_priv" / name
        if job.rank:
            return self._sister_hook(job, path, words)
        leaked = os.pipe()
        try:
            with (
                open(os.open(self.home / "spool" / f"{job.id}.OU", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as out,
                open(os.open(self.home / "spool" / f"{job.id}.ER", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as err,
            ):
                return self.begin_hook(
                    self._there([str(path), *words], self.home / "mom_priv"), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    env=self.environment(job), cwd=self.home / "mom_priv", umask=umask, pass_fds=leaked,
                    extra_groups=os.getgrouplist(job.user, job.person.pw_gid),
                )
        finally:
            for fd in leaked:
                os.close(fd)

    def prologue_words(self, job: Job) -> list[str]:
        """The prologue's arguments."""
        group = grp.getgrgid(job.person.pw_gid).gr_name
        return [job.id, job.user, group, job.name, job.resources, job.queue, job.account, str(job.script)]

    def _sister_hook(self, job: Job, path: Path, words: list[str]) -> "subprocess.Popen[bytes]":
        """Of a sister: the prologue's streams lead nowhere; the epilogue has but standard input, and signals that are blocked."""
        ends = path.name.startswith("epilogue")

        def in_child() -> None:
            if ends:
                os.closerange(1, 3)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})

        return self.begin_hook(
            self._there([str(path), *words], self.home / "mom_priv"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=self.environment(job), cwd=self.home / "mom_priv", umask=0o022,
            extra_groups=os.getgrouplist(job.user, job.person.pw_gid) if ends else [0], preexec_fn=in_child,
        )

    def begin_hook(self, argv: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """A hook's process, leader of its own session; options of subprocess.Popen."""
        return subprocess.Popen(argv, start_new_session=True, restore_signals=False, user=0, group=0, **options)

    def start_prologue(self, job: Job, name: str = "prologue") -> "subprocess.Popen[bytes]":
        """Starts the prologue, leader of its own session."""
        return self._hook(job, name, self.prologue_words(job), 0o077)

    def finish_prologue(self, prologue: "subprocess.Popen[bytes]") -> str:
        """What mom makes of the prologue's end: `run`, `abort` or `requeue`. Overdue, its whole session is killed."""
        try:
            status = prologue.wait(self.alarm)
        except subprocess.TimeoutExpired:
            kill_session(prologue.pid)
            prologue.wait()
            return "requeue"
        if status == 0 or status < 0:
            return "run"
        return "abort" if status == 1 else "requeue"

    def start_epilogue(self, job: Job, status: int = 0, name: str = "epilogue") -> "subprocess.Popen[bytes]":
        """Starts the epilogue."""
        group = grp.getgrgid(job.person.pw_gid).gr_name
        session = "0" if job.rank else "26054"
        words = [job.id, job.user, group, job.name, session, job.resources, "cput=00:00:00,walltime=00:00:03", job.queue,
                 job.account, str(status), str(job.script)]
        return self._hook(job, name, words, 0o022)

    def start_shell(
        self, job: Job, *, way: str = "shell", stdin: int | None = None, arguments: str = "",
        stdout: int | None = None, words: list[str] | None = None, build: str = "pipe", program: str = "",
    ) -> "subprocess.Popen[bytes]":
        """Starts the job's shell as the user.

        `way`: `shell` is `qsub -S remoteshell`; `starter` is `$job_starter`, with the user's shell as argument; `interpreter` is
        a script with `#!`, given as `words`, that reads its own `stdin`; `task` is a task of TM by `$job_starter`; `plain` is the
        user's own shell, as without VmBatch. `build`: how this Torque hands the script over: `pipe`, its path on a line; `argv`,
        its path as argument; `stdin`, itself. `program`: another remoteshell.
        """
        person = job.person
        shell = "/bin/bash" if way == "plain" else program or str(self.home / "mom_priv/remoteshell")
        environment = self.shell_environment(job, shell if way == "shell" else "/bin/bash")
        argv = {"shell": ["-" + os.path.basename(shell)], "starter": [shell, "/bin/bash"],
                "interpreter": [shell, *(words or [])], "task": [shell, *(words or [])], "plain": ["-bash"]}[way]
        given = b""
        if way in ("shell", "starter", "plain"):
            if build == "pipe":
                given = os.fsencode(job.script) + (f" {arguments}" if arguments else "").encode() + b"\n"
            elif build == "argv":
                argv.append(str(job.script))
                stdin = subprocess.DEVNULL
            else:
                given = job.script.read_bytes()
        if way == "task":
            environment["PBS_TASKNUM"] = "2"
        leaked = os.pipe()
        with (
            open(self.home / "spool" / f"{job.id}.OU", "ab") as out, open(self.home / "spool" / f"{job.id}.ER", "ab") as err,
        ):
            process = subprocess.Popen(
                argv, executable=shell, stdin=subprocess.PIPE if stdin is None else stdin, stdout=stdout or out, stderr=err,
                env=environment, cwd=person.pw_dir, start_new_session=True, umask=0o077, restore_signals=False, pass_fds=leaked,
                user=person.pw_uid, group=person.pw_gid, extra_groups=os.getgrouplist(job.user, person.pw_gid),
            )
        for descriptor in leaked:
            os.close(descriptor)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(given)
        return process

    def run_task(self, job: Job, argv: list[str], number: int = 1) -> "subprocess.CompletedProcess[bytes]":
        """A task that the job starts here through TM, such as by pbsdsh: `$job_starter` gets its arguments, and mom no shell."""
        starter = str(self.home / "mom_priv/remoteshell")
        as_user = ["setpriv", f"--reuid={job.person.pw_uid}", f"--regid={job.person.pw_gid}", "--init-groups", "--"]
        return subprocess.run(self._there([*as_user, starter, *argv], job.person.pw_dir), stdin=subprocess.DEVNULL,
                              capture_output=True, check=False,
                              env={**self.shell_environment(job, "/bin/bash"), "PBS_TASKNUM": str(number)})

    def shell_environment(self, job: Job, shell: str) -> dict[str, str]:
        """Of the job's shell: users can change only what mom sets before their own variables."""
        person = job.person
        return {
            **self.environment(job), "PBS_O_HOME": person.pw_dir, **job.variables, "PBS_O_QUEUE": job.queue,
            "PBS_O_LOGNAME": job.user,
            "PBS_O_PATH": "/usr/bin:/bin", "PBS_O_SHELL": "/bin/bash", "PBS_O_HOST": "node1", "PBS_O_SERVER": "server",
            "HOME": person.pw_dir, "LOGNAME": job.user, "PBS_JOBNAME": job.name, "PBS_JOBID": job.id, "PBS_QUEUE": job.queue,
            "SHELL": shell, "USER": job.user, "PBS_TASKNUM": "1", "PBS_VNODENUM": "0", "HOSTNAME": "localhost",
            "PBS_WALLTIME": "600", "PBS_VERSION": "TORQUE-6.1.3.h5", "PBS_ENVIRONMENT": "PBS_BATCH", "ENVIRONMENT": "BATCH",
            "PBS_JOBCOOKIE": "C4B704DF946DF6B762628D619ED65370", "PBS_MOMPORT": "15003",
        }

    def open_terminal(self, job: Job) -> "Terminal":
        """An interactive job's terminal, and mom's process at it; the job has no script."""
        job.script.unlink(missing_ok=True)
        return Terminal(self, job)

    def run(self, script: bytes, **about: object) -> "Ended":
        """A job from start to end, as mom plays it."""
        job = self.accept(script, **about)  # type: ignore[arg-type]
        return self.play(job)

    def play(self, job: Job, **shell: object) -> "Ended":
        """Prologue, shell and epilogue of an accepted job, each timed."""
        seconds: dict[str, float] = {}

        def timed(name: str, begin: float) -> None:
            seconds[name] = time.monotonic() - begin

        begin = time.monotonic()
        verdict = self.finish_prologue(self.start_prologue(job))
        timed("prologue", begin)
        status = {"run": 0, "abort": -2, "requeue": -14}[verdict]
        if verdict == "run":
            begin = time.monotonic()
            code = self.start_shell(job, **shell).wait()  # type: ignore[arg-type]
            status = code if code >= 0 else 256 - code
            timed("job", begin)
        begin = time.monotonic()
        epilogue = self.start_epilogue(job, status).wait()
        timed("epilogue", begin)
        self.forget(job)
        return Ended(job, verdict, status, epilogue, job.output, job.errors, seconds)

    def forget(self, job: Job) -> None:
        """Removes the job's script, as mom does after the epilogue."""
        for path in (job.script, self.home / "aux" / job.id):
            path.unlink(missing_ok=True)


class Terminal:
    """The terminal of `qsub -I` as its user sees it, and mom's process on the node (lab/reader.py)."""

    def __init__(self, mom: Mom, job: Job, rows: int = 24, columns: int = 80) -> None:
        self.mom = mom
        self.job = job
        self.shown = b""
        self.descriptor, slave = pty.openpty()
        self.resize(rows, columns)
        os.fchown(slave, job.person.pw_uid, 5)
        self._channel, theirs = socket.socketpair()
        self.reader = subprocess.Popen([sys.executable, str(Path(__file__).with_name("reader.py")), os.ttyname(slave),
                                        str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._slave = slave
        self._lines = self._channel.makefile("rw")

    def start_prologue(self) -> int:
        """Runs the prologue to its end; its exit code."""
        home = self.mom.home
        self._ask(hook=True, args=[str(home / "mom_priv/prologue"), *self.mom.prologue_words(self.job)], umask=0o077,
                  env=self.mom.environment(self.job), cwd=str(home / "mom_priv"))
        return int(self._lines.readline())

    def start_shell(self, words: tuple[str, ...] = (), *, term: str = "xterm", program: str = "") -> None:
        """Starts the job's shell: `qsub -I -S remoteshell`; `words` are what `-x` appends, or `$job_starter` has before them."""
        person = self.job.person
        shell = program or str(self.mom.home / "mom_priv/remoteshell")
        environment = self.mom.shell_environment(self.job, shell) | {"PBS_ENVIRONMENT": "PBS_INTERACTIVE", "TERM": term}
        environment.pop("ENVIRONMENT")
        self._ask(hook=False, args=["-remoteshell", *words], executable=shell, env=environment, cwd=person.pw_dir,
                  umask=0o077, user=person.pw_uid, group=person.pw_gid,
                  extra_groups=os.getgrouplist(self.job.user, person.pw_gid))

    def _ask(self, **request: object) -> None:
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()

    def resize(self, rows: int, columns: int) -> None:
        """As a window that is dragged: the processes in the foreground get SIGWINCH."""
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        """Keys."""
        os.write(self.descriptor, text)

    def wait_for(self, text: bytes, seconds: float = 30.0) -> bytes:
        """All that is shown up to and with the text; what comes behind it waits for the next look."""
        over = time.monotonic() + seconds
        while text not in self.shown:
            if not select.select([self.descriptor], [], [], max(0.0, over - time.monotonic()))[0]:
                raise TimeoutError(self.shown.decode(errors="replace"))
            self.shown += os.read(self.descriptor, 65536)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def wait(self) -> int:
        """The exit code of the job's shell."""
        return int(self._lines.readline())

    def close(self) -> None:
        """As when qsub goes away."""
        self._lines.close()
        self._channel.close()
        os.close(self._slave)
        os.close(self.descriptor)
        self.reader.kill()
        kill_session(self.reader.pid)
        self.reader.wait()


@dataclass
class Ended:
    """A job that has ended: mom's verdict on the prologue, the job's exit status, what it wrote, seconds by part."""

    job: Job
    verdict: str
    status: int
    epilogue: int
    output: bytes
    errors: bytes
    seconds: dict[str, float]


def session_members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session and fields[0] != b"Z":
                    found.append(int(entry.name))
    return found


def kill_session(session: int) -> None:
    """SIGKILL to every process of a session, as mom does at the alarm."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
