"""What every batch system is to the rest of VmBatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ..config import Config
from ..errors import VmBatchError
from ..host.log import Log
from ..job import Job, Leader, Script


class Call(msgspec.Struct, frozen=True):
    """One run of a hook by a batch system; `directory` is the one in which the hook lies, such as mom_priv.

    `parent` is who started the hook; it must be known beforehand where the hook's work is done by a process apart.
    """

    argv: list[str]
    environ: Mapping[str, str]
    directory: str
    parent: Leader | None = None


class Refusal(msgspec.Struct, frozen=True):
    """To whom, and to which start of a job, its shell is to say why it does not run, and what becomes of it (`outcome`).

    Without a `script` the shell needs no hand-over record to know that the word is for it.
    """

    user: str
    uid: int
    gid: int
    script: Script | None = None
    leader: Leader | None = None
    outcome: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What becomes of a job that could not start: the hook's exit status, and the same in words for the user.

    `pause` is how many seconds the hook waits first, unless the job is ended meanwhile. With a `refusal` the job's shell starts,
    but only to tell the user; `status` and `text` hold if that cannot be arranged.
    """

    status: int
    text: str
    pause: float = 0.0
    refusal: Refusal | None = None


class System(Protocol):
    """A batch system: what its hooks are given, and what they make of a job that could not start."""

    @property
    def name(self) -> str:
        """Its name in the registry and in journals."""

    @property
    def silent(self) -> bool:
        """Whether it leaves a prologue alone when the job is cancelled, so that `unwanted` must be asked."""

    def job_id(self, call: Call) -> str:
        """The job's id, not checked yet; empty where the call has none."""

    def queue(self, call: Call, hook: str) -> str:
        """The job's queue, not checked yet, as `hook` (`prologue` or `epilogue`) is told it; empty where there is none."""

    def parse(self, call: Call, token: str, job_directory: str | None) -> Job:
        """The job of a prologue. JobError, NodeError."""

    def alarm(self, call: Call, config: Config) -> float:
        """Seconds until the batch system kills this prologue. SiteError."""

    def failed(self, error: VmBatchError, call: Call, config: Config, log: Log | None) -> Outcome:
        """Does with a job that could not start what the site wants done; raises nothing."""

    def unwanted(self, call: Call, config: Config) -> str:
        """Why this start is in vain by now, or ''. Asked every second if the system is `silent`."""

    def is_gone(self, job_id: str, script: Script | None, leader: Leader | None) -> bool | None:
        """Whether the job cannot run any more; None if that cannot be told from this node."""
