"""The hand-over of a job's keys: the private one is the user's alone, the directory stays root's."""

import os
from pathlib import Path

import pytest

from vmbatch.context.keys import HandoverKeys

from ..work import work

PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----\nuser\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty hand-over directory, beside the keys as ssh-keygen would have made them."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "id_ed25519").write_bytes(PRIVATE)
    (keys / "host_key").write_bytes(b"host's own secret")
    (keys / "host_key.pub").write_text("ssh-ed25519 HOSTKEY comment of 42.vm\n")
    (tmp_path / "handover").mkdir(0o711)
    return tmp_path / "handover"


def hand_over(place: Path) -> None:
    HandoverKeys(str(place.parent / "keys"), str(place), "vmbatch-0123", True, 1500, 1600).make(work())


def mode(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_mode & 0o7777, status.st_uid, status.st_gid


@pytest.mark.parametrize("umask", [0, 0o077])
def test_owners_and_modes(place: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        hand_over(place)
    finally:
        os.umask(previous)
    assert {path.name: mode(path) for path in place.iterdir()} == {
        "id_ed25519": (0o400, 1500, 1600),
        "known_hosts": (0o444, 0, 0),
        "control": (0o700, 1500, 1600),
    }
    assert mode(place) == (0o711, 0, 0)


def test_content(place: Path) -> None:
    hand_over(place)
    assert (place / "id_ed25519").read_bytes() == PRIVATE
    assert (place / "known_hosts").read_bytes() == b"vmbatch-0123 ssh-ed25519 HOSTKEY\n"


def test_the_key_never_was_readable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even between its making and its chmod: it is made for root alone."""
    seen: list[int] = []
    real = os.fchown

    def fchown(fd: int, uid: int, gid: int) -> None:
        seen.append(os.fstat(fd).st_mode & 0o777)
        real(fd, uid, gid)

    monkeypatch.setattr(os, "fchown", fchown)
    previous = os.umask(0)
    try:
        hand_over(place)
    finally:
        os.umask(previous)
    assert seen == [0o600, 0o600]


@pytest.mark.parametrize("name", ["id_ed25519", "known_hosts"])
def test_nothing_is_written_through_a_link(place: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (place / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        hand_over(place)
    assert victim.read_text() == "untouched"
