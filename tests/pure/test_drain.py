"""A drained node: what it says, to whom, and what is a mistake."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmbatch import config, drain, health, status
from vmbatch.cli import main
from vmbatch.errors import BusyError

from .past import STATUS


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("vmbatch.host.file._check", lambda *_args, **_named: None)
    monkeypatch.setattr(drain, "PATH", str(tmp_path / "drained"))
    monkeypatch.setattr(status, "look", list)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path / "drained"


def ask(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.output


@pytest.mark.error("VB919")
def test_drained_and_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain.check()
    monkeypatch.setenv("SUDO_USER", "carol")
    assert ask("drain", "--why", "new disks") == (0, "this node is drained: no job has a guest here\n")
    with pytest.raises(BusyError, match=r"this node takes no new jobs with guests: drained by carol at .*: new disks"):
        drain.check()
    assert place.stat().st_mode & 0o777 == 0o644, "users see why, too"
    monkeypatch.setattr(status, "look", lambda: [STATUS])
    assert ask("drain", "--why", "newer disks") == (0, "this node is drained: one job still has its guest here, see vmbatch ps\n")
    code, text = ask("undrain")
    assert (code, text.partition(" at ")[0]) == (0, "this node takes jobs again; it was drained by carol")
    assert text.endswith(": newer disks\n")
    drain.check()
    assert ask("undrain") == (0, "this node was not drained\n")


def test_the_health_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_libvirt", "_share", "row"):
        monkeypatch.setattr(health, name, lambda _: "")
    monkeypatch.setattr(health, "_space", lambda _path, _free: "")
    settings = config.parse(b"", "test")
    assert health.problems(settings) == []
    ask("drain", "--why", "new disks")
    [said] = health.problems(settings)
    assert said.endswith(": new disks")


def test_a_note_that_cannot_be_understood_counts(place: Path) -> None:
    place.write_bytes(b"{")
    with pytest.raises(BusyError, match="drained by somebody"):
        drain.check()
    assert ask("undrain")[0] == 0
    drain.check()


@pytest.mark.parametrize("why", ["", " ", "two\nlines", "\x1b[2J"])
def test_mistakes(why: str, place: Path) -> None:
    assert ask("drain", "--why", why)[0] == 2
    assert not place.exists()


@pytest.mark.error("VB921")
@pytest.mark.parametrize("words", [("drain",), ("undrain",), ("kill", "42"), ("metrics",), ("console", "42", "--write")])
def test_what_is_roots_alone(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1500)
    code, text = ask(*words)
    assert code == 1
    assert " is for root alone" in text
    assert not place.exists()
