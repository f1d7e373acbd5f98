"""stage.sh: a user's files in and out, as tar archives behind a request."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from .runs import Runs


def request(directory: str, *names: str) -> bytes:
    return "".join(f"{line}\n" for line in ("vmbatch 1", f"dir {directory}", *(f"name {name}" for name in names), "run")).encode()


def archive(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as made:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(content), 0o755
            made.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def home(runs: Runs) -> Path:
    return Path(runs.environment["HOME"])


@pytest.mark.parametrize("name", ["run", "a b/c;d$(id)`x`'\"\\n*", "é"])
def test_in(runs: Runs, name: str) -> None:
    """Not a byte of the archive is lost behind the request."""
    place = home(runs) / name
    done = runs.call("stage.sh", "in", input=request(str(place)) + archive(first=b"#!/bin/sh\n" * 5000, second=b""))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (place / "first").read_bytes() == b"#!/bin/sh\n" * 5000
    assert os.access(place / "second", os.X_OK)


def test_in_where_nothing_can_be_made(runs: Runs) -> None:
    (home(runs) / "file").touch()
    done = runs.call("stage.sh", "in", input=request(f"{home(runs)}/file/x") + archive(first=b""))
    assert done.returncode == 1
    assert f"vmbatch: {home(runs)}/file/x cannot be made in the guest\n".encode() in done.stderr


def test_in_of_what_is_no_archive(runs: Runs) -> None:
    done = runs.call("stage.sh", "in", input=request(str(home(runs))) + b"x" * 2000)
    assert done.returncode != 0


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return sorted(member.name for member in archive)


def test_out(runs: Runs) -> None:
    (home(runs) / "a b/deep").mkdir(parents=True)
    (home(runs) / "a b/deep/x").write_text("x")
    (home(runs) / "-rf").write_text("y")
    (home(runs) / "dangling").symlink_to("nowhere")
    (home(runs) / "not").write_text("asked for")
    done = runs.call("stage.sh", "out", input=request(str(home(runs)), "a b", "-rf", "dangling"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert names(done.stdout) == ["./-rf", "./a b", "./a b/deep", "./a b/deep/x", "./dangling"]


def test_out_with_something_missing(runs: Runs) -> None:
    (home(runs) / "there").write_text("x")
    done = runs.call("stage.sh", "out", input=request(str(home(runs)), "none", "there", "*"))
    assert (done.returncode, names(done.stdout)) == (1, ["./there"])
    assert done.stderr.decode() == "".join(f"vmbatch: {name} is not in the guest, in {home(runs)}\n" for name in ("none", "*"))


def test_out_with_nothing(runs: Runs) -> None:
    done = runs.call("stage.sh", "out", input=request(str(home(runs)), "none"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b"vmbatch: nothing of what was asked for is in the guest\n")
    done = runs.call("stage.sh", "out", input=request(f"{home(runs)}/none", "x"))
    assert (done.returncode, done.stderr.decode()) == (1, f"vmbatch: {home(runs)}/none is not in the guest\n")


@pytest.mark.parametrize(("input", "said"), [
    (b"", "this is not a request of version 1"), (b"vmbatch 2\n", "this is not a request of version 1"),
    (b"vmbatch 1\n", "the request has no end"), (b"vmbatch 1\nrun\n", "no directory in the request"),
    (b"vmbatch 1\ndir x\nrun\n", "unknown item in the request"),
    (b"vmbatch 1\ndir /\nname \nrun\n", "unknown item in the request"),
    (b"vmbatch 1\ndir /\nexec x\nrun\n", "unknown item in the request"),
])
def test_bad_requests(runs: Runs, input: bytes, said: str) -> None:
    done = runs.call("stage.sh", "in", input=input)
    assert (done.returncode, done.stderr.decode()) == (1, f"vmbatch: {said}\n")


def test_another_way(runs: Runs) -> None:
    for way in ("", "up"):
        done = runs.call("stage.sh", way, input=request("/"))
        assert (done.returncode, done.stderr) == (1, b"vmbatch: stage.sh in|out\n")
