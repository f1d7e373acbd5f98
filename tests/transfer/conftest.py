"""A hostile server on the loopback, and a directory to download into."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from lab.imageserver import ImageServer
from vmbatch.host import http
from vmbatch.image import transfer
from vmbatch.units import Deadline

ACCESS = http.Access(connect_timeout=10.0, read_timeout=20.0)
IMPATIENT = http.Access(connect_timeout=10.0, read_timeout=0.3)


def nothing() -> None:
    """Alive."""


def peak_begins() -> int:
    """Forgets the peak of our memory (proc(5), /proc/PID/clear_refs); what we have now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most memory that we had since, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@dataclass
class Place:
    """Where a download goes, and what the callbacks were told."""

    directory: Path
    access: http.Access = ACCESS
    allowed: tuple[str, ...] | None = None
    algorithms: tuple[str, ...] = ("sha256",)
    limit: int = 1 << 30
    known: transfer.Validators | None = None
    alive: Callable[[], None] = nothing
    seconds: float = 120.0
    rooms: list[int] = field(default_factory=list)
    steps: list[tuple[int, int | None]] = field(default_factory=list)

    @property
    def partial(self) -> Path:
        return self.directory / "image.part"

    @property
    def target(self) -> Path:
        return self.directory / "image"

    @property
    def names(self) -> list[str]:
        """What is in the directory."""
        return sorted(os.listdir(self.directory))

    def fetch(self, *urls: str, compression: str = "", room: Callable[[int], None] | None = None) -> transfer.Transferred | None:
        """Downloads."""
        return transfer.fetch(
            transfer.Source(urls, compression), str(self.partial), str(self.target), access=self.access, allowed=self.allowed,
            algorithms=self.algorithms, limit=self.limit, deadline=Deadline(self.seconds), alive=self.alive,
            room=room or self.rooms.append, known=self.known, progress=lambda done, total: self.steps.append((done, total)))

    def got(self, *urls: str, compression: str = "") -> transfer.Transferred:
        """Downloads, which must succeed and leave nothing but the image."""
        found = self.fetch(*urls, compression=compression)
        assert found is not None
        assert self.names == ["image"]
        return found

    def change_record(self, **changes: object) -> None:
        """Another record of the partial download."""
        path = self.directory / "image.part.json"
        record = msgspec.json.decode(path.read_bytes())
        path.write_bytes(msgspec.json.encode({**record, **changes}))


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "download"
    directory.mkdir()
    return Place(directory)
