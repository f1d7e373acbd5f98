"""What happened to a job, line by line, in a file of its own and in syslog; and a message for its user."""

import os
import sys
import syslog
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import job as jobs
from . import acl, file

LOG_ERR = syslog.LOG_ERR


class Log:
    """The log of one job; lines carry time, hook and text. Trouble with the log never stops a job."""

    def __init__(self, directory: str | None, job_id: str, hook: str,
                 heard: Callable[[str, float | None], None] = lambda name, seconds: None) -> None:
        """Without a directory there is syslog alone. `heard` is told each phase's name as it begins, then with its seconds."""
        self.job_id = job_id
        self.hook = hook
        self.heard = heard
        self.path = "syslog"
        self._fd = -1
        self._fresh = False
        syslog.openlog("vmbatch", syslog.LOG_PID, syslog.LOG_DAEMON)
        if directory is not None:
            self._open(directory)

    def _open(self, directory: str) -> None:
        self.path = os.path.join(directory, f"{jobs.slug(self.job_id)}.log")
        try:
            file.make_state_directory(directory, 0o711)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
            self._fresh = not os.fstat(self._fd).st_size
        except Exception as error:  # a full or broken disk must not keep an epilogue from its work
            syslog.syslog(syslog.LOG_ERR, f"{self.job_id} {self.hook}: no log: {error}")

    def show_to(self, uid: int) -> None:
        """The job's user can read it, too, and nobody can change it: if all of it is of jobs of this user's.

        A batch system may give an id again, and then to another one's job.
        """
        if self._fd < 0 or uid == os.geteuid():
            return
        try:
            before = acl.reader(self._fd)
            if before == uid:
                return
            if self._fresh:
                acl.let_read(self._fd, uid)
                return
            acl.shut(self._fd)
            self.detail("the job's user cannot read this log: it has lines of an earlier job with this id")
        except OSError as error:
            self.detail(f"the job's user cannot read this log: {error.strerror}")

    def line(self, text: str, *, priority: int = syslog.LOG_INFO) -> None:
        """One line to both."""
        syslog.syslog(priority, f"{self.job_id} {self.hook}: {_visible(text)}")
        self.detail(text)

    def detail(self, text: str) -> None:
        """One line to the job's log alone."""
        if self._fd >= 0:
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
            try:
                os.write(self._fd, f"{stamp} {self.hook}: {_visible(text)}\n".encode(errors="replace"))
            except OSError:
                self._fd = -1

    def tell(self, told: Callable[[str], None]) -> None:
        """From now on `told`, too, hears of each phase that begins."""
        before = self.heard

        def both(name: str, seconds: float | None) -> None:
            before(name, seconds)
            if seconds is None:
                told(name)

        self.heard = both

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Logs how long a phase took, and whether it failed."""
        begin = time.monotonic()
        self.heard(name, None)
        try:
            yield
        except BaseException:
            self.line(f"phase {name} failed after {time.monotonic() - begin:.3f} s", priority=syslog.LOG_ERR)
            raise
        seconds = time.monotonic() - begin
        self.line(f"phase {name} {seconds:.3f} s")
        self.heard(name, seconds)

    def part(self, name: str, seconds: float) -> None:
        """A part of the phase that goes on, of what the guest does."""
        self.detail(f"phase {name} {seconds:.3f} s")
        self.heard(name, seconds)


def _visible(text: str) -> str:
    """On one line, and harmless on a terminal: what users wrote is in many an error."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def tell_user(lines: list[str]) -> None:
    """Lines to the job's stderr."""
    try:
        for line in lines:
            sys.stderr.write(f"vmbatch: {line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
