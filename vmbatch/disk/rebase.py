"""An overlay is given another name for the image below it, which stays the same."""

from ..host import process
from ..resource import Piece, Work


class Rebase(Piece, frozen=True, tag="rebase"):
    """The qcow2 at `path` finds what is below it, of QEMU's format `driver`, as `name` beside wherever it lies itself."""

    path: str
    name: str
    driver: str

    def make(self, work: Work) -> None:
        """Writes the name into its header."""
        process.run(["/usr/bin/qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", self.driver, "-b", self.name, self.path],
                    work.deadline)

    def __str__(self) -> str:
        return f"overlay {self.path} on {self.name} beside it"
