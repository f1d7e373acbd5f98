"""Jobs through a real Slurm, in real guests: two slurmd on the lab's node."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import node
from lab.slurm import CGROUPS, Slurm, control_groups

CONFIG = Path("/etc/vmbatch/vmbatch.conf")
SIZED = "<vbresources cores='job' maxcores='2' memory='job' maxmemory='400M' overhead='16M'/>"


@pytest.fixture(autouse=True, scope="session")
def in_node() -> None:
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)


@pytest.fixture(scope="package")
def missing() -> Iterator[list[str]]:
    """The control groups that slurmd wants and this machine has not: without them jobs are held together by their descent."""
    with control_groups() as missing:
        yield missing


@pytest.fixture(scope="package")
def slurm(missing: list[str]) -> Iterator[Slurm]:
    """The cluster; its partitions are the lab's queues, and one without guests. Network filters are for tests of their own."""
    before = CONFIG.read_text()
    templates = Path("/etc/vmbatch/domains")
    plain, disk = (templates / "busybox.xml").read_text(), (templates / "disk.xml").read_text()
    assert "<memory unit='MiB'>192</memory>" in plain
    (templates / "sized.xml").write_text(plain.replace("<vbconfig>", "<vbconfig>" + SIZED))
    (templates / "own.xml").write_text(disk.replace("copy_method='cow'/>", "copy_method='cow'/><vbuserimage/>"))
    CONFIG.write_text(before.replace('busybox = "busybox.xml"', 'busybox = ["busybox.xml", "debian.xml"]').replace(
        "[queues]\n", '[queues]\nsized = "sized.xml"\nown = "own.xml"\n') + """
[slurm]
ask = "1s"
[features]
debian = "debian.xml"
busybox = "busybox.xml"
[userimages]
sources = ["/home/"]
[network]
filter = false
""")
    cluster = Slurm(["native", "busybox", "silent", "sized", "own"], {} if missing else CGROUPS)
    cluster.up()
    yield cluster
    cluster.down()
    CONFIG.write_text(before)


@pytest.fixture(autouse=True)
def nothing_left(slurm: Slurm, left: Callable[[], list[str]]) -> Iterator[None]:
    """The node is as empty after the test as before, and its nodes are in service."""
    assert left() == []
    yield
    slurm.clear()
    assert left() == []


Configure = Callable[[str, str], AbstractContextManager[None]]


@pytest.fixture
def configure() -> Configure:
    """Puts other settings beside the lab's for a while: pairs of old and new text."""

    @contextmanager
    def changed(old: str, new: str) -> Iterator[None]:
        before = CONFIG.read_text()
        assert old in before
        CONFIG.write_text(before.replace(old, new, 1))
        try:
            yield
        finally:
            CONFIG.write_text(before)

    return changed
