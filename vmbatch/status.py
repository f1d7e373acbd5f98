"""What each start of a job is doing now, for people: a file for each start, which its user can read, too.

The file has a line for the start and one for each change. The journal's first line stands for it: it is made after the journal,
and removed before it. It is no proof of anything, and trouble with it never stops a job.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .errors import JobError, NodeError, SiteError, VmBatchError
from .host import acl, clock, file
from .job import check_name, check_token, slug, unique
from .phase import BEGIN, RUN, phase_of

DIRECTORY = "/run/vmbatch/status"
_TEXT_LIMIT = 300
_SIZE_LIMIT = 64 << 10
_MOST_SHOWN = 8


class Step(msgspec.Struct, frozen=True, array_like=True):
    """What was begun at a time, in seconds since the node's boot."""

    name: str
    at: float


class Failure(msgspec.Struct, frozen=True):
    """Why a start failed: the error's code, whose fault it is, and its first line."""

    code: str
    fault: str
    what: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A start of a job. `memory` is the guest's, in bytes; `started` is when its prologue was, in seconds since 1970.

    `queued`: how many seconds it waited in its queue, where the batch system says so. `owner` is the prologue. `cancelled`: the
    batch system ended the job before its guest was ready. `why` its guest was ended, if an admin did that. `pooled`: see `Job`.
    """

    job: str
    token: str
    user: str
    uid: int
    queue: str
    batch: str
    node: str
    template: str
    cores: int
    memory: int
    started: float
    owner: clock.ProcessIdentity
    steps: tuple[Step, ...]
    queued: float | None = None
    guest: str = ""
    address: str = ""
    failure: Failure | None = None
    cancelled: bool = False
    why: str = ""
    pooled: str = ""

    @property
    def unique(self) -> str:
        """The name of the directories of its own."""
        return unique(self.job, self.token, self.pooled)

    @property
    def phase(self) -> str:
        """What goes on now."""
        return phase_of(self.steps[-1].name)

    @property
    def running(self) -> bool:
        """Whether the job has had its guest."""
        return any(step.name == RUN for step in self.steps)

    @property
    def abandoned(self) -> bool:
        """Whether the prologue that makes the guest is gone before its work was done."""
        return not self.running and not clock.runs(self.owner)

    def never_ran(self) -> Status:
        """The same of a start that died just before it handed over its guest."""
        return msgspec.structs.replace(self, steps=tuple(step for step in self.steps if step.name != RUN))

    def age(self) -> float:
        """Seconds since the start began."""
        return max(0.0, clock.uptime() - self.steps[0].at)

    def since(self) -> float:
        """Seconds since its phase began."""
        begin = self.steps[-1].at
        for step in reversed(self.steps):
            if phase_of(step.name) != self.phase:
                break
            begin = step.at
        return max(0.0, clock.uptime() - begin)


def failure_of(error: VmBatchError) -> Failure:
    """What is written down of an error."""
    return Failure(getattr(error, "code", ""), error.fault.value, utf8(error.what[:_TEXT_LIMIT]))


def utf8(text: str) -> str:
    """Text that can be written down, also of bytes that are none, as a batch system may have passed them on."""
    return text.encode(errors="replace").decode()


class Board:
    """The status of a start as its hook goes on: whatever is learned is shown at once."""

    def __init__(self, status: Status, say: Callable[[str], None] = lambda _: None) -> None:
        """Of a start that is shown already; `say` is told once if something cannot be shown."""
        self._path = path_of(status.user, status.job, status.token)
        self._say: Callable[[str], None] | None = say

    @classmethod
    def new(cls, status: Status, say: Callable[[str], None] = lambda _: None) -> Board:
        """Of a start that has just begun."""
        board = cls(status, say)
        board._try(lambda: write(status))
        return board

    def step(self, name: str) -> None:
        """A step begins."""
        self._try(lambda: _append(self._path, Step(name, clock.uptime())))

    def learn(self, **changes: object) -> None:
        """Fields of the status that are known by now."""
        self._try(lambda: _append(self._path, changes))

    def failed(self, error: BaseException, *, cancelled: bool) -> None:
        """Why the start is over."""
        known = error if isinstance(error, VmBatchError) else NodeError(f"a defect in VmBatch: {type(error).__name__}",
                                                                        code="VB912")
        self.learn(cancelled=cancelled, failure=None if cancelled else failure_of(known))

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, VmBatchError) as error:
            if self._say is not None:
                self._say(f"vmbatch ps does not see what this job does: {error}")
            self._say = None


def begin() -> tuple[Step, ...]:
    """The steps of a start that begins."""
    return (Step(BEGIN, clock.uptime()),)


def path_of(user: str, job_id: str, token: str) -> str:
    """The file of a start. JobError."""
    check_name(user, "user")
    check_token(token)
    return os.path.join(DIRECTORY, user, f"{slug(job_id)}.{token}")


def write(status: Status) -> None:
    """The first line of a start's file, in a directory that its user can list. OSError, VmBatchError.

    Where the file system has no access control lists, only root can.
    """
    path = path_of(status.user, status.job, status.token)
    place = os.path.dirname(path)
    file.make_state_directory(DIRECTORY, 0o711)
    file.make_state_directory(place, 0o700)
    with contextlib.suppress(OSError):
        acl.let_read(place, status.uid)
    file.write_new(path, msgspec.json.encode(status) + b"\n", 0o444)


def _append(path: str, change: Step | dict[str, object]) -> None:
    """A further line: a step, or fields that have changed; on a line of its own even if a full disk has torn one. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(fd, b"\n" + msgspec.json.encode(change) + b"\n")
    finally:
        os.close(fd)


def read(user: str, job_id: str, token: str) -> Status | None:
    """What is known of a start, if anything."""
    try:
        return _read(path_of(user, job_id, token))
    except JobError:
        return None


def _read(path: str) -> Status | None:
    """The first line with what the others change; one that is not whole is passed over."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
            first, *others = opened.read(_SIZE_LIMIT).split(b"\n")[:-1]
        found = msgspec.json.decode(first, type=dict[str, Any])
        for line in others:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                change = msgspec.json.decode(line, type=list[Any] | dict[str, Any])
                if isinstance(change, list):
                    found["steps"].append(change)
                else:
                    found.update(change)
        return msgspec.convert(found, type=Status)
    except (OSError, ValueError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None


def remove(user: str, job_id: str, token: str) -> None:
    """It is over. OSError."""
    with contextlib.suppress(FileNotFoundError, JobError):
        os.unlink(path_of(user, job_id, token))


def chosen(text: str, jobs: Iterable[str]) -> str:
    """Which of the jobs is meant by an id, its number, or the beginning of it. NodeError for none, and for several."""
    known = sorted(set(jobs))
    if text in known:
        return text
    found = [job for job in known if job.partition(".")[0] == text] or [job for job in known if text and job.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:_MOST_SHOWN]) + (", ..." if len(found) > _MOST_SHOWN else "")
        raise NodeError(f"{text[:80]!r} may be several jobs: {shown}", "write more of the id", code="VB920")
    raise NodeError(f"this node knows no job {text[:80]!r}", "vmbatch ps shows those that you may see", code="VB920")


def look() -> list[Status]:
    """All that the caller may know of, in the order in which they started: root of every job, others of their own. SiteError."""
    if os.geteuid() == 0:
        users = _names(DIRECTORY)
    else:
        try:
            users = [pwd.getpwuid(os.geteuid()).pw_name]
        except KeyError:
            raise SiteError(f"this node knows no user with uid {os.geteuid()}", code="VB908") from None
    found = map(_read, files(users))
    return sorted((each for each in found if each is not None), key=lambda each: (each.started, each.job))


def files(users: list[str] | None = None) -> list[str]:
    """The files of these users' jobs, or of all that the caller can see; each ends with the start's token."""
    places = [os.path.join(DIRECTORY, user) for user in (_names(DIRECTORY) if users is None else users)]
    return [os.path.join(place, name) for place in places for name in _names(place) if not name.startswith(".")]


def _names(place: str) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return []
