"""The medium of a guest that is to be saved: it has the guest wait there, before it is anybody, for the medium of a job."""

from collections.abc import Iterator

from ..format.reseed import program
from ..resource import Piece, Work
from . import medium
from .content import kit
from .parameters import assignments
from .tree import Entry

_WAIT = "kit/wait.sh"


class WaitingMedium(Piece, frozen=True, tag="waiting-medium"):
    """The image at `path`; by `token` the node knows what the guest says."""

    path: str
    label: str
    token: str

    def make(self, work: Work) -> None:
        """Writes the image, root's alone."""
        own = Entry("parameters.sh", 0o600, assignments({"VMBATCH_TOKEN": self.token}))
        medium.write(self.path, self.label, (own, *same()), work)

    def __str__(self) -> str:
        return f"medium {self.path}, for a guest that waits"


def same() -> Iterator[Entry]:
    """What is the same for all guests that wait: the kit, which the job's guest has then, too."""
    for entry in kit():
        if entry.name == _WAIT:
            yield Entry("prolog.sh", entry.mode, entry.data)
        if entry.name.startswith("kit/"):
            yield entry
    yield Entry("kit/reseed", 0o755, program())
