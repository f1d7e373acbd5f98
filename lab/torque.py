"""TORQUE itself, as far as a node sees it: a server's jobs and what mom does with them, event by event, as 6.1.3 was measured.

`mom.Mom` plays single hooks; here mom runs jobs by herself. Each start of a job is a process, the starter: it runs the prologue
and prologue.user, asks mom for leave, and becomes the job's shell. Whoever owns a `Torque` calls `step` for it to do its work.
"""

import contextlib
import grp
import json
import os
import select
import signal
import stat
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import mom

ABORTED, FAILED, LOST, RESTARTED, WALLTIME = -2, -14, -3, -4, -11
"""Exit statuses of jobs: prologue exit 1, prologue failed otherwise, start lost, mom restarted with -r or -q, walltime."""
Execute = Callable[[str, list[str], dict[str, str]], NoReturn]
_STREAMS = os.O_WRONLY | os.O_APPEND | os.O_CREAT


@dataclass
class Start:
    """One start of a job. `phase` is `prologue`, `running`, `exiting` or `over`; `orphan` if mom has forgotten it."""

    number: int
    job: mom.Job
    pid: int
    reports: int
    leave: int
    phase: str = "prologue"
    orphan: bool = False
    status: int = 0
    kill_at: float = 0.0
    lost: bool = False
    text: bytes = b""
    ended: list[int] = field(default_factory=list)


@dataclass
class Ended:
    """A job that the server has done with: its state, exit status, and what was delivered: None if nothing was."""

    state: str
    status: int
    output: bytes | None
    errors: bytes | None


class Torque:
    """A server with one mom. `eager`: a job that is requeued starts again beside its epilogue."""

    def __init__(
        self, house: mom.Mom, *, kill_delay: float = mom.KILL_DELAY_SECONDS, patience: float = 120.0, eager: bool = False,
        execute: Execute = os.execve, most: int = 8, reduce_checks: bool = False,
    ) -> None:
        self.mom = house
        self.kill_delay = kill_delay
        self.patience = patience
        self.eager = eager
        self.execute = execute
        self.most = most
        self.reduce_checks = reduce_checks
        self.starts: list[Start] = []
        self.ended: dict[str, Ended] = {}
        self.mails: list[str] = []
        self.epilogues: list[tuple[int, int, int]] = []
        """(start, exit status given, exit status of `epilogue`) of each that has ended."""
        self.clients: Callable[[], list[list[str]]] = list
        self._about: dict[str, dict[str, Any]] = {}
        self._children: dict[int, tuple[Start, int, Callable[[], None]]] = {}
        self._again: list[str] = []
        self._book = house.home / "prologues"
        self._book.write_bytes(b"")
        self.story: list[str] = []
        """What happened when, for people."""

    # What users and admins do.

    def submit(self, script: bytes, *, hook_type: str = "", keep: str = "", join: str = "", interactive: bool = False,
               precancel_seconds: float = 5.0, **about: Any) -> str:
        """qsub: the job's id; it starts at once. `hook_type` is of -T, `keep` of -k, `join` of -j."""
        job = self.mom.accept(script, **about)
        self._about[job.id] = {"script": script, "hook_type": hook_type, "keep": keep, "join": join, "interactive": interactive,
                               "about": {**about, "job_id": job.id}}
        self._begin(job.id, job)
        return job.id

    def double(self, job_id: str) -> None:
        """The same job once more, without an end of the first."""
        self._begin(job_id)

    def qdel(self, job_id: str, *, purge: bool = False) -> None:
        """Row `qdel`: precancel, TERM, KILL after kill_delay; with -p KILL at once. A prologue is not signalled."""
        for start in self._of(job_id):
            if purge:
                self._end_by_force(start, 256 + signal.SIGKILL)
            else:
                self._cancel(start, 256 + signal.SIGTERM)

    def walltime(self, job_id: str) -> None:
        """Row `walltime`: a line for the user, then as qdel."""
        for start in self._of(job_id):
            if start.phase == "running":
                with open(self._streams(start)[1], "ab") as errors:
                    errors.write(b"=>> PBS: job killed: walltime 8 exceeded limit 5\n")
                self._cancel(start, WALLTIME)

    def qrerun(self, job_id: str) -> None:
        """Rows `qrerun`: KILL without grace and epilogue; during a prologue the epilogue at once; then a new start."""
        for start in self._of(job_id):
            self._end_by_force(start, 256 + signal.SIGTERM, again=True)

    def stray(self, job_id: str) -> None:
        """An epilogue that nobody expects, beside whatever there is."""
        start = self.latest(job_id)
        words, streams = self._epilogue_words(start, 0), self._streams(start)
        pid = self._fork(lambda: self._epilogue_child(start, words, streams))
        self._children[pid] = (start, 0, lambda: None)

    def qsig(self, job_id: str, number: int) -> None:
        """Four times to each process of the session, as mom sends all signals but TERM."""
        for start in self._of(job_id):
            for _ in range(1 if number == signal.SIGTERM else 4):
                self._signal(start, number)

    def restart(self, option: str, *, saved: bool = True) -> None:
        """mom dies of SIGKILL and starts again with -p, -r, -q or -P. `saved`: she had written the job down, as after 5 s."""
        self._tell(f"mom dies, and is started with {option}{'' if saved else ', but forgets'}")
        known = [start for start in self.starts if not start.orphan and start.phase != "over"]
        for start in known:
            self._close(start)  # the starter reads an end, and takes it for leave
        for pid, (start, status, then) in self._children.items():
            self._children[pid] = (start, status, (lambda: None) if pid != start.pid else then)
        for start in known:
            if start.phase == "prologue" and not saved:
                start.orphan = True
            elif start.phase == "prologue":
                start.orphan = True
                self._exit(start, {"-p": LOST, "-P": 0}.get(option, RESTARTED), again=option != "-P")
            elif start.phase == "running":
                self._restart_running(start, option)
            elif start.phase == "exiting":
                self._exit(start, start.status)

    def close(self) -> None:
        """Gives all descriptors back."""
        for start in self.starts:
            self._close(start)

    def _close(self, start: Start) -> None:
        for fd in {start.reports, start.leave} - {-1}:
            os.close(fd)
        start.reports = start.leave = -1

    def _restart_running(self, start: Start, option: str) -> None:
        start.lost = True
        if option == "-p":
            return
        if option == "-r":
            self._signal(start, signal.SIGKILL)
        start.orphan = option in ("-q", "-P")
        self._exit(start, 0 if option == "-P" else RESTARTED, again=option != "-P")

    # What mom does.

    def step(self, seconds: float = 0.01) -> None:
        """Lets the world go on for at most so long."""
        reports = [start.reports for start in self.starts if start.reports >= 0]
        ready = select.select(reports, [], [], seconds)[0]
        for start in self.starts:
            if start.reports in ready:
                self._listen(start)
        self._reap()
        now = time.monotonic()
        for start in self.starts:
            if start.kill_at and now >= start.kill_at and not start.orphan:
                start.kill_at = 0.0
                self._signal(start, signal.SIGKILL)
                if start.phase == "prologue":
                    start.orphan = True
                    self._exit(start, 0)
        for job_id in self._again:
            self._run_again(job_id)
        self._again.clear()

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Until that is true, or all jobs and orphans have ended; False if it took longer."""
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            if until is not None and until():
                return True
            if until is None and not self.busy():
                return True
            self.step()
        return False

    def prologues(self) -> dict[int, int]:
        """The process of each start's prologue, known beside mom, who may have died meanwhile."""
        return {int(number): int(pid) for number, pid in (line.split()[:2] for line in self._book.read_text().splitlines())}

    def leaked(self, number: int) -> int:
        """The inode of the pipe that mom leaked to a start's prologue."""
        return {int(start): int(pipe) for start, _, pipe in map(str.split, self._book.read_text().splitlines())}[number]

    def busy(self) -> bool:
        """Whether anything is still at work: jobs, epilogues, or starters that mom has forgotten."""
        return bool(self._children or self._again)

    def latest(self, job_id: str) -> Start:
        """The start that began last."""
        return [start for start in self.starts if start.job.id == job_id][-1]

    def _of(self, job_id: str) -> list[Start]:
        return [start for start in self.starts
                if start.job.id == job_id and not start.orphan and start.phase in ("prologue", "running")]

    def _tell(self, text: str) -> None:
        now = time.time()
        self.story.append(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d} {text}")

    def _begin(self, job_id: str, job: mom.Job | None = None) -> None:
        told = self._about[job_id]
        if job is None:
            job = self.mom.accept(told["script"], **told["about"])
        if told["interactive"]:
            job.script.unlink()
        for path in self._streams_of(job):
            os.close(os.open(path, _STREAMS, 0o600))
            os.chown(path, job.person.pw_uid, job.person.pw_gid)
        reports, up = os.pipe()
        down, leave = os.pipe()
        start = Start(len(self.starts) + 1, job, 0, reports, leave)
        self.starts.append(start)
        start.pid = self._fork(lambda: self._starter(start, up, down))
        os.close(up)
        os.close(down)
        self._tell(f"start {start.number} of {job_id} is {start.pid}")
        self._children[start.pid] = (start, 0, lambda: self._shell_ended(start))

    def _fork(self, child: Callable[[], int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 111
        try:
            self.close()
            status = child()
        except BaseException:
            traceback.print_exc()
        os._exit(status)

    def _listen(self, start: Start) -> None:
        data = os.read(start.reports, 4096)
        start.text += data
        *lines, start.text = start.text.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if start.phase == "prologue" and not start.orphan:
                self._prologue_ended(start, told["code"])
        if not data:
            os.close(start.reports)
            start.reports = -1

    def _prologue_ended(self, start: Start, code: int) -> None:
        self._tell(f"the prologue of start {start.number} ends with {code}")
        if code == 0:
            start.phase = "running"
            with contextlib.suppress(OSError):
                os.write(start.leave, b"1")
            if start.kill_at:  # deleted meanwhile: the shell lives for an instant
                start.status = 256 + signal.SIGTERM
                self._signal(start, signal.SIGTERM)
            return
        if code == ABORTED:
            self.mails.append(f"{start.job.id} Aborted by PBS Server: Job cannot be executed. See job standard error file")
        self._exit(start, code, again=code == FAILED)

    def _cancel(self, start: Start, status: int) -> None:
        """precancel as the user, synchronously; TERM; KILL after kill_delay."""
        if start.phase == "running":
            start.status = status
        self._precancel(start)
        if start.phase == "running":
            self._signal(start, signal.SIGTERM)
        start.kill_at = time.monotonic() + self.kill_delay

    def _precancel(self, start: Start) -> None:
        words = self._epilogue_words(start, 0)
        pid = self._fork(lambda: self._hook(start, "epilogue.precancel", words, user=True, streams=("/dev/null", "/dev/null")))
        os.waitpid(pid, 0)

    def _end_by_force(self, start: Start, status: int, *, again: bool = False) -> None:
        if start.phase == "running":
            start.status = status
            self._signal(start, signal.SIGKILL)
            start.kill_at = 0.0
            self._forget_child(start)
        else:
            start.orphan = True
            status = 0
        self._exit(start, status, again=again)

    def _forget_child(self, start: Start) -> None:
        """The shell is reaped, but its end means nothing any more."""
        if start.pid in self._children:
            self._children[start.pid] = (start, 0, lambda: None)

    def _shell_ended(self, start: Start) -> None:
        """The session leader has gone: the rest of its session is killed, and the epilogue begins."""
        if start.orphan or start.phase != "running":
            return
        mom.kill_session(start.pid)
        code = start.ended[-1]
        status = start.status or (code if code >= 0 else 256 - code)
        self._exit(start, 0 if start.lost else status)

    def _exit(self, start: Start, status: int, *, again: bool = False) -> None:
        """The epilogues, beside whatever still runs; then the job's end, or its next start."""
        start.phase, start.status = "exiting", status
        words = self._epilogue_words(start, status)
        streams = self._streams(start)
        pid = self._fork(lambda: self._epilogue_child(start, words, streams))
        self._tell(f"epilogue of start {start.number} with {status}, run by {pid}")
        self._children[pid] = (start, status, lambda: self._epilogue_ended(start, status, again))
        if again and self.eager:
            self._again.append(start.job.id)

    def _epilogue_child(self, start: Start, words: list[str], streams: tuple[str, str]) -> int:
        self._hook(start, "epilogue.user", words, user=True, streams=streams)
        return self._hook(start, "epilogue", words, streams=streams) & 0xFF

    def _epilogue_ended(self, start: Start, status: int, again: bool) -> None:
        self.epilogues.append((start.number, status, start.ended[-1]))
        start.phase = "over"
        if self.latest(start.job.id) is not start:  # the server has the job running already
            return
        if again:
            if not self.eager:
                self._again.append(start.job.id)
            return
        out, err = self._streams(start)
        told = self._about[start.job.id]
        delivered = status != ABORTED
        self.ended[start.job.id] = Ended(
            "C", status, Path(out).read_bytes() if delivered or "o" in told["keep"] else None,
            Path(err).read_bytes() if delivered or "e" in told["keep"] else None)
        self.mom.forget(start.job)

    def _run_again(self, job_id: str) -> None:
        """The server starts a requeued job at once, without limit, unless it is held or the node off-line."""
        calls = self.clients()
        job = self.latest(job_id).job
        state = "H" if any(call[0] == "qhold" and call[-1] == job_id for call in calls) else ""
        state = state or ("Q" if any(call[0] == "pbsnodes" for call in calls) else "")
        if state or sum(start.job.id == job_id for start in self.starts) >= self.most:
            self.ended[job_id] = Ended(state or "Q", FAILED, job.output, job.errors)
            self.mom.forget(job)
            return
        self._begin(job_id)

    def _reap(self) -> None:
        for pid, (start, _, then) in list(self._children.items()):
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._children[pid]
                if pid == start.pid and start.reports >= 0:
                    self._listen(start)
                start.ended.append(os.waitstatus_to_exitcode(code))
                then()

    def _signal(self, start: Start, number: int) -> None:
        if start.phase == "running":
            for pid in mom.session_members(start.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    # The starter (resmom/start_exec.c, TMomFinalizeChild).

    def _starter(self, start: Start, up: int, down: int) -> int:
        """Ends with 1, or as the job's shell."""
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        code = 0
        for name, user in (("prologue", False), ("prologue.user", True)):
            code = code or self._prologue_code(start, name, user)
        with contextlib.suppress(BrokenPipeError):
            os.write(up, json.dumps({"code": code}).encode() + b"\n")
        if code:
            return 1
        if not select.select([down], [], [], self.patience)[0]:
            return 1
        os.read(down, 1)  # an end is leave, too
        return self._shell(start)

    def _prologue_code(self, start: Start, name: str, user: bool) -> int:
        def told(pid: int, pipe: int) -> None:
            if name == "prologue":
                with open(self._book, "a") as book:
                    book.write(f"{start.number} {pid} {pipe}\n")

        words = self.mom.prologue_words(start.job)
        status = self._hook(start, name, words, user=user, streams=self._streams(start), umask=0o077, told=told)
        if status in (0, 1):
            return -2 * status
        return 0 if status < 0 else FAILED

    def _epilogue_words(self, start: Start, status: int) -> list[str]:
        job = start.job
        resources = "neednodes=1" if start.lost else job.resources
        running = start.phase == "running" or start.status > 0
        return [job.id, job.user, grp.getgrgid(job.person.pw_gid).gr_name, job.name, str(start.pid if running else 0), resources,
                "cput=00:00:00,walltime=00:00:03" if running else "", job.queue, job.account, str(status), str(job.script)]

    def _streams(self, start: Start) -> tuple[str, str]:
        """Where a start's output goes: mom's spool, or the final files with -k; with -j both in one."""
        return self._streams_of(start.job)

    def _streams_of(self, job: mom.Job) -> tuple[str, str]:
        told = self._about[job.id]
        number = job.id.partition(".")[0]
        out, err = (f"{job.person.pw_dir}/{job.name}.{letter}{number}" if letter in told["keep"]
                    else f"{self.mom.home}/spool/{job.id}.{end}" for letter, end in (("o", "OU"), ("e", "ER")))
        return {"oe": (out, out), "eo": (err, err)}.get(told["join"], (out, err))

    def _named(self, start: Start, name: str) -> Path:
        """`NAME.TYPE` if there is such a file, else the plain one."""
        plain = self.mom.home / "mom_priv" / name
        typed = plain.with_name(f"{name}.{self._about[start.job.id]['hook_type']}")
        return typed if typed.exists() and typed != plain.with_name(f"{name}.") else plain

    def _hook(
        self, start: Start, name: str, words: list[str], *, streams: tuple[str, str], user: bool = False, umask: int = 0o022,
        told: Callable[[int, int], None] = lambda _pid, _pipe: None,
    ) -> int:
        """Runs a hook to its end: its exit status, minus the signal that killed it, 255 if it may not run or is overdue."""
        path = self._named(start, name)
        if not path.exists():
            return 0
        if not self._may_run(path, user):
            return 255
        leaked = os.pipe()
        for fd in leaked:
            os.set_inheritable(fd, True)
        pid = self._fork(lambda: self._become_hook(start, path, words, streams, user, umask))
        told(pid, os.fstat(leaked[0]).st_ino)
        for fd in leaked:
            os.close(fd)
        handle = os.pidfd_open(pid)
        try:
            if not select.select([handle], [], [], self.mom.alarm)[0]:
                mom.kill_session(pid)
                os.waitpid(pid, 0)
                return 255
        finally:
            os.close(handle)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _may_run(self, path: Path, user: bool) -> bool:
        """Table `Permissions`: root's, regular, u+rx, not to be written by others; o+rx for what the user runs."""
        status = path.stat()
        mode = status.st_mode
        if self.reduce_checks:
            return stat.S_ISREG(mode) and bool(mode & 0o111)
        return (stat.S_ISREG(mode) and status.st_uid == 0 and mode & 0o500 == 0o500 and not mode & 0o022
                and (not user or mode & 0o005 == 0o005))

    def _become_hook(
        self, start: Start, path: Path, words: list[str], streams: tuple[str, str], user: bool, umask: int,
    ) -> NoReturn:
        person = start.job.person
        os.setsid()
        self._open_streams(("/dev/null", *streams))
        os.setgroups(os.getgrouplist(person.pw_name, person.pw_gid))
        os.umask(umask)
        os.chdir(person.pw_dir if user else self.mom.home / "mom_priv")
        if user:
            os.setgid(person.pw_gid)
            os.setuid(person.pw_uid)
        self.execute(str(path), [str(path), *words], self.mom.environment(start.job))

    def _open_streams(self, paths: Iterable[str]) -> None:
        for number, path in enumerate(paths):
            fd = os.open(path, _STREAMS if number else os.O_RDONLY, 0o600)
            os.dup2(fd, number)
            if fd > 2:
                os.close(fd)

    def _shell(self, start: Start) -> NoReturn:
        """As `$job_starter`: the one way that users cannot choose another shell."""
        job, person = start.job, start.job.person
        self._open_streams(("/dev/null", *self._streams(start)))
        source, sink = os.pipe()
        os.write(sink, os.fsencode(job.script) + b"\n")
        os.dup2(source, 0)
        os.close(sink)
        os.umask(0o077)
        os.chdir(person.pw_dir)
        os.setgroups(os.getgrouplist(person.pw_name, person.pw_gid))
        os.setgid(person.pw_gid)
        os.setuid(person.pw_uid)
        shell = str(self.mom.home / "mom_priv/remoteshell")
        environment = {**self.mom.shell_environment(job, shell), "START": str(start.number)}
        try:
            self.execute(shell, [shell, "/bin/bash"], environment)
        except OSError:
            os.write(2, f"PBS: exec of shell '{shell}' failed\n".encode())
            os._exit(254)
