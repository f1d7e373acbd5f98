"""The context medium, read back with pycdlib: what is on it, under which name, with which mode."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pycdlib
import pytest

from vmbatch.context.content import Content
from vmbatch.context.medium import Medium
from vmbatch.errors import NodeError, SiteError
from vmbatch.job import Script
from vmbatch.template import TarFile

from ..work import work
from .archives import archive, member

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\nhost\n"
Read = dict[str, tuple[int, bytes]]


def mark(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def identity(path: Path) -> Script:
    status = path.stat()
    return Script(str(path), status.st_dev, status.st_ino, status.st_mtime_ns)


@pytest.fixture
def medium(tmp_path: Path) -> Medium:
    keys = tmp_path / "keys"
    keys.mkdir()
    mark(keys / "id_ed25519", b"-----BEGIN OPENSSH PRIVATE KEY-----\nuser\n")
    mark(keys / "id_ed25519.pub", b"ssh-ed25519 USER 42.vm\n")
    mark(keys / "host_key", SECRET)
    mark(keys / "host_key.pub", b"ssh-ed25519 HOST 42.vm\n")
    mark(tmp_path / "script", b"#!/bin/sh\necho\n")
    return Medium(str(tmp_path / "context.iso"), "VMBATCH", Content(
        parameters={"VMBATCH_JOB": "42.vm", "VMBATCH_NAME": "it's"},
        keys=str(keys),
        host_key=True,
        script=identity(tmp_path / "script"),
        node_file=mark(tmp_path / "nodes", b"node\nnode\n"),
        archives=(),
        scripts=(("site/prolog.d/10 first", mark(tmp_path / "first", b"#!/bin/sh\n")),),
    ))


def read(path: str) -> Read:
    """Every file by its Rock Ridge name: (mode, content); the same files must be there by their Joliet names."""
    iso: Any = pycdlib.PyCdlib()
    iso.open(path)
    found: Read = {}
    joliet: set[str] = set()
    for parent, _, files in iso.walk(rr_path="/"):
        for name in files:
            place = os.path.join(parent, name)
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, rr_path=place)
            mode = iso.get_record(rr_path=place).rock_ridge.get_file_mode()
            found[place.lstrip("/")] = (mode & 0o7777, content.getvalue())
    for parent, _, files in iso.walk(joliet_path="/"):
        joliet.update(os.path.join(parent, name).lstrip("/") for name in files)
    assert joliet == set(found)
    assert iso.pvd.volume_identifier.strip() == b"VMBATCH"
    iso.close()
    return found


def make(medium: Medium, **changed: object) -> Read:
    path = changed.pop("path", medium.path)
    medium = msgspec.structs.replace(medium, path=path, content=msgspec.structs.replace(medium.content, **changed))
    medium.make(work())
    return read(medium.path)


def test_what_is_on_it(medium: Medium) -> None:
    found = make(medium)
    kit = {name for name in found if name.startswith("kit/")}
    assert {"kit/job.sh", "kit/login.sh", "kit/status.sh", "kit/signal.sh"} <= kit
    assert set(found) - kit == {
        "prolog.sh",
        "epilog.sh",
        "parameters.sh",
        "job/script",
        "job/nodefile",
        "ssh/authorized_key",
        "ssh/host_key",
        "ssh/host_key.pub",
        "site/prolog.d/10 first",
    }
    assert found["parameters.sh"][1] == b"VMBATCH_JOB='42.vm'\nVMBATCH_NAME='it'\\''s'\n"
    assert found["job/script"][1] == b"#!/bin/sh\necho\n"
    assert found["job/nodefile"][1] == b"node\nnode\n"
    assert found["ssh/authorized_key"][1] == b"ssh-ed25519 USER 42.vm\n"
    assert found["ssh/host_key"][1] == SECRET


def test_modes(medium: Medium) -> None:
    found = make(medium)
    assert {name for name, (mode, _) in found.items() if not mode & 0o004} == {
        "parameters.sh",
        "job/nodefile",
        "job/script",
        "ssh/authorized_key",
        "ssh/host_key",
    }
    assert all(
        mode & 0o111 == 0o111
        for name, (mode, _) in found.items()
        if name.endswith("log.sh") or name.startswith(("kit/", "site/"))
    )
    assert not [name for name, (mode, _) in found.items() if mode & 0o7022]


def test_the_users_key_is_not_on_it(medium: Medium) -> None:
    make(medium)
    image = Path(medium.path).read_bytes()
    assert image.count(b"PRIVATE KEY") == 1, "the host's alone"
    assert SECRET in image


def test_the_image_is_roots_alone(medium: Medium) -> None:
    previous = os.umask(0)
    try:
        make(medium)
    finally:
        os.umask(previous)
    assert os.stat(medium.path).st_mode & 0o777 == 0o600


def test_it_is_made_once(medium: Medium, tmp_path: Path) -> None:
    """Nothing is written through what lies there, be it a link."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    os.symlink(victim, medium.path)
    with pytest.raises(FileExistsError):
        medium.make(work())
    assert victim.read_text() == "untouched"


def test_without_host_key(medium: Medium) -> None:
    assert {name for name in make(medium, host_key=False) if name.startswith("ssh/")} == {"ssh/authorized_key"}


def test_without_script_and_node_file(medium: Medium) -> None:
    found = make(medium, script=None, node_file=None, scripts=())
    assert not [name for name in found if name.startswith(("job/", "site/", "tar/"))]


def test_the_same_files_again(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time."""
    first = make(medium)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert make(medium, path=str(tmp_path / "again.iso")) == first
    assert (tmp_path / "context.iso").read_bytes() == (tmp_path / "again.iso").read_bytes(), "down to the last byte"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.rename(path.with_name("old")) and path.with_name("script").write_text("other"),
        lambda path: path.rename(path.with_name("old")) and path.symlink_to("old"),
    ],
    ids=["touched", "replaced", "linked"],
)
def test_a_replaced_script(medium: Medium, tmp_path: Path, change: Callable[[Path], object]) -> None:
    change(tmp_path / "script")
    with pytest.raises((NodeError, OSError)):
        medium.make(work())


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 2047, b"x" * 2048, b"x" * 2049, bytes(range(256)) * 5000], ids=len)
def test_scripts_of_every_size(medium: Medium, tmp_path: Path, content: bytes) -> None:
    mark(tmp_path / "script", content)
    assert make(medium, script=identity(tmp_path / "script"))["job/script"] == (0o700, content)


AWKWARD = [
    "with space",
    "Ünïcode",
    "UPPER.lower",
    "two.dots.tar.gz",
    ".hidden",
    "a'b\"c",
    "semi;colon",
    "-dash",
    "n" * 64,
    "x*y?z",
    "back\\slash",
]


def test_awkward_names(medium: Medium, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", *(member(f"d e/{name}") for name in AWKWARD))
    found = make(medium, archives=(TarFile(path, ".", 0, True),))
    assert {name for name in found if name.startswith("d e/")} == {f"d e/{name}" for name in AWKWARD}


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", os.fsdecode(b"\xff"), "\x07", "n" * 65, "n" * 65 + "/x"], ids=ascii)
def test_names_that_a_medium_cannot_have(medium: Medium, tmp_path: Path, name: str) -> None:
    with pytest.raises(SiteError, match="the medium cannot have a file"):
        make(medium, archives=(TarFile(archive(tmp_path / "a.tar", member(name)), ".", 0, True),))


def test_long_names_of_site_scripts(medium: Medium, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="64 characters at most"):
        try:
            make(medium, scripts=(("site/prolog.d/" + "n" * 65, str(tmp_path / "first")),))
        except SiteError as error:
            raise SiteError("\n".join(error.lines())) from None


@pytest.mark.parametrize("names", [("x", "x"), ("x/y", "x"), ("x", "x/y"), ("x", "./x")])
def test_names_that_collide(medium: Medium, tmp_path: Path, names: tuple[str, str]) -> None:
    path = archive(tmp_path / "a.tar", *(member(name) for name in names))
    with pytest.raises(SiteError, match="the context would have 'x'"):
        make(medium, archives=(TarFile(path, ".", 0, True),))


def test_deep_names(medium: Medium, tmp_path: Path) -> None:
    deep = "/".join("abcdefghijkl")
    assert deep in make(medium, archives=(TarFile(archive(tmp_path / "a.tar", member(deep)), ".", 0, True),))


def test_archive_onto_the_medium(medium: Medium, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", member("top/bin/tool", mode=0o755), member("top/secret", mode=0o600))
    found = make(medium, archives=(TarFile(path, "/site/./files", 1, True),))
    assert found["site/files/bin/tool"] == (0o755, b"content\n")
    assert found["site/files/secret"] == (0o644, b"content\n"), "readable in the guest, where it is wanted"
    assert "tar/list" not in found


def test_archives_for_the_guest(medium: Medium, tmp_path: Path) -> None:
    one, two, three = (archive(tmp_path / f"{number}.tar", member(str(number))) for number in range(3))
    found = make(medium, archives=(TarFile(one, "/opt/a b", 2, False), TarFile(two, ".", 0, True), TarFile(three, "/", 0, False)))
    assert found["tar/list"] == (0o600, b"0 2 z /opt/a b\n2 0 z /\n")
    assert found["tar/0.tar"] == (0o600, Path(one).read_bytes())
    assert found["tar/2.tar"] == (0o600, Path(three).read_bytes())
    assert "tar/1.tar" not in found


@pytest.mark.parametrize("name", ["prolog.sh", "parameters.sh", "ssh/host_key", "kit/job.sh", "ssh/authorized_key"])
def test_an_archive_cannot_replace_what_is_ours(medium: Medium, tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.tar", member(name))
    with pytest.raises(SiteError, match="twice"):
        make(medium, archives=(TarFile(path, ".", 0, True),))
    assert not os.path.exists(medium.path)
