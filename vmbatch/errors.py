"""Errors: what failed, whose fault it is, and what to do about it."""

from enum import Enum

INTERRUPTED = 130
"""How a program exits that a signal has ended, as shells have it for SIGINT."""


class Fault(Enum):
    """Whose fault an error is; the batch adapter makes an exit status of it."""

    JOB = "job"
    NODE = "node"
    SITE = "site"


class VmBatchError(Exception):
    """`what` failed and why, in one sentence; `hint` says what to do; `detail` is more for the user, line by line.

    `code` names the catalogue's entry that says more, and never changes its meaning. `suspect` names the template and images that
    may be at fault, whatever `fault` says: it failed while they were in use.
    """

    fault = Fault.NODE
    code = ""
    suspect = ""

    def __init__(self, what: str, hint: str = "", *, code: str = "", fault: Fault | None = None,
                 detail: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.detail = detail
        if code:
            self.code = code
        if fault is not None:
            self.fault = fault

    def lines(self) -> list[str]:
        """The message as the user reads it."""
        return [self.what + (f" ({self.hint})" if self.hint else ""), *self.detail]

    def coded(self, text: str) -> str:
        """A line of the message with the code behind it."""
        return f"{text} [{self.code}]" if self.code else text


class JobError(VmBatchError):
    """The job asks for what it cannot have."""

    fault = Fault.JOB


class NodeError(VmBatchError):
    """This node cannot do it now; another one, or a later time, may."""

    fault = Fault.NODE


class SiteError(VmBatchError):
    """Configuration or templates are wrong, and only an admin can mend them."""

    fault = Fault.SITE


class InputError(SiteError):
    """All mistakes of a file at once: `problems` are (line, message), line 0 where none is known."""

    def __init__(self, path: str, problems: list[tuple[int, str]], hint: str = "", *, code: str = "") -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: problem[0])
        places = tuple(f"{path}:{line}: {text}" if line else f"{path}: {text}" for line, text in self.problems)
        what = places[0] if len(places) == 1 else f"{path} has {len(places)} mistakes"
        super().__init__(what, hint, code=code, detail=places if len(places) > 1 else ())


class CommandError(NodeError):
    """A program of the node ended with a status that is not 0; `output` is what it wrote to stderr."""

    code = "VB910"

    def __init__(self, argv: list[str], status: int, output: str) -> None:
        said = output.strip().splitlines()
        how = f"failed with exit status {status}" if status >= 0 else f"was killed by signal {-status}"
        super().__init__(f"{argv[0]} {how}{': ' + said[-1] if said else ''}")
        self.argv = argv
        self.status = status
        self.output = output


class BusyError(NodeError):
    """The node is sound, but has no room for the job now."""


class TakenError(NodeError):
    """Somebody else has taken an address since it was seen to be free; another one may be."""

    code = "VB601"


class DeadlineError(NodeError):
    """Something did not happen in time."""


class UnreachableError(NodeError):
    """Files are not done with in time, as their server does not answer, or there are too many; it may still happen."""

    code = "VB606"


class EndedError(NodeError):
    """The batch system has ended this start of the job: its epilogue has run, or another start took over."""

    code = "VB901"


class SisterError(VmBatchError):
    """Another node of the job failed, with the fault that it says itself: nothing that this node must be blamed for."""

    code = "VB609"
