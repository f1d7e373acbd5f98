"""The node's state as files and domains, kept and brought back: an epilogue needs no new prologue each time."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import mom, place
from lab.remains import Node

_TREES = (Path("/var/lib/vmbatch"), place.SHARE, Path("/run/vmbatch"))
_KEPT = Path("/var/lib/libvirt/kept")


@dataclass(frozen=True)
class Kept:
    """What a job had at some moment; `domain` is None if it had none."""

    name: str
    job: mom.Job
    domain: str | None

    @property
    def journal(self) -> Path:
        """Its journal, when it is there."""
        return Path("/var/lib/vmbatch/jobs") / f"{self.job.file_id}.journal"

    def restore(self, node: Node) -> None:
        """Makes the node as it was then."""
        node.clear()
        for tree in _TREES:
            shutil.copytree(_KEPT / self.name / tree.relative_to("/"), tree, symlinks=True, dirs_exist_ok=True)
        if self.domain is not None:
            node.connection.createXML(self.domain, 0)


def keep(name: str, job: mom.Job, node: Node) -> Kept:
    """The node's state now."""
    for tree in _TREES:
        shutil.copytree(tree, _KEPT / name / tree.relative_to("/"), symlinks=True)
    domains = node.domains()
    return Kept(name, job, domains[0].XMLDesc() if domains else None)
