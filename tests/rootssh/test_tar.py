"""The tar that is sent: readable by every tar, and the same files again."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from vmbatch.context.stream import tar
from vmbatch.context.tree import Entry
from vmbatch.errors import NodeError

NAMES = ["a", "kit/b.sh", "x" * 99, "x" * 100, "x" * 101, "/".join(["d" * 60] * 4), "blanks and 'quotes'", "ünï", "-C", "*"]


@pytest.mark.parametrize("program", [["tar"], ["busybox", "tar"]])
def test_every_tar_unpacks_it(tmp_path: Path, program: list[str]) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"s" * 1000000)
    entries = [
        *(Entry(name, 0o640, name.encode() * 100) for name in NAMES),
        Entry("empty", 0o755),
        Entry("from", 0o4711, source=str(source)),
    ]
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run([*program, "-xf", "-"], cwd=place, input=b"".join(tar(entries)), check=True, timeout=30)
    for entry in entries[:-1]:
        assert (place / entry.name).read_bytes() == entry.data
        assert (place / entry.name).stat().st_mode & 0o7777 == entry.mode
    assert (place / "from").read_bytes() == source.read_bytes()
    assert (place / "from").stat().st_mode & 0o7777 == 0o711
    assert (place / "from").stat().st_uid == 0


def test_its_form() -> None:
    """GNU's, which tars had long before pax headers; whole records; regular files of root's alone."""
    data = b"".join(tar([Entry("x" * 120, 0o600, b"1"), Entry("b", 0o600, b"2" * 512)]))
    assert len(data) % tarfile.RECORDSIZE == 0
    assert data[257:265] == b"ustar  \0"
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        members = read.getmembers()
        assert [(member.name, member.type, member.uid, member.gid, member.uname, member.gname) for member in members] == [
            ("x" * 120, tarfile.REGTYPE, 0, 0, "", ""),
            ("b", tarfile.REGTYPE, 0, 0, "", ""),
        ]
        assert not any(member.pax_headers for member in members)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 10240, 9216, 9728])
def test_padding(size: int) -> None:
    data = b"".join(tar([Entry("a", 0o600, b"x" * size)]))
    assert len(data) % tarfile.RECORDSIZE == 0
    assert data.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        assert [member.size for member in read] == [size]


def test_a_source_that_shrinks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    pieces = tar([Entry("a", 0o600, source=str(source))])
    next(pieces), next(pieces)
    source.write_bytes(b"")
    with pytest.raises(NodeError) as caught:
        list(pieces)
    assert caught.value.what == f"{source} became shorter while it was sent to the guest"


def test_a_source_that_grows(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1000))
    pieces = tar([Entry("a", 0o600, source=str(source)), Entry("b", 0o600, b"b")])
    first = next(pieces)
    with source.open("ab") as more:
        more.write(bytes(5000))
    with tarfile.open(fileobj=io.BytesIO(first + b"".join(pieces))) as read:
        assert [(member.name, member.size) for member in read] == [("a", 1000), ("b", 1)]
