"""vmbatch bench: what it makes of guests that are played."""

import contextlib
import getpass
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.pure.sample import settings
from vmbatch import alone, command, hooked
from vmbatch.cli import main
from vmbatch.errors import NodeError

bench: Any = importlib.import_module("vmbatch.cli.bench")
"""In `vmbatch.cli`, the name is that of the command."""
Heard = Callable[[str, float | None], None]


@contextlib.contextmanager
def played(_call: Any, _template: str, _config: Any, _hook: str, heard: Heard) -> Iterator[None]:
    """A guest that tells of its phases what a real one takes, and takes nothing."""
    for name, seconds in (("disks", 0.5), ("start", 1.0), ("guest kernel", 1.5), ("boot", 2.0), ("login", 0.5)):
        heard(name, None)
        heard(name, seconds)
    yield
    heard("release", 0.25)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(alone, "guest", played)
    monkeypatch.setattr(hooked, "load_config", settings)
    monkeypatch.setattr(command, "choose_template", lambda name, _config: f"/etc/vmbatch/domains/{name}")


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", "busybox.xml", "--user", getpass.getuser(), *words])


@pytest.mark.parametrize(("most", "numbers"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])])
def test_numbers_double_up_to_the_last(most: int, numbers: list[int]) -> None:
    assert bench._numbers(most) == numbers


@pytest.mark.usefixtures("node")
def test_phases_have_percentiles_for_each_number_of_guests() -> None:
    found = call("--rounds", "3", "--at-once", "2")
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.stdout.splitlines()]
    assert lines.count(["boot", "3", "2.00s", "2.00s", "2.00s", "2.00s"]) == 1
    assert lines.count(["boot", "6", "2.00s", "2.00s", "2.00s", "2.00s"]) == 1
    order = [line[0] for line in lines if line and line[0] in ("disks", "start", "boot", "release", "until")]
    assert order[:6] == ["disks", "start", "boot", "release", "until", "until"]
    assert "2 at once: the node's seconds for each" in found.stdout


@pytest.mark.usefixtures("node")
def test_figures_for_programs_and_the_report(tmp_path: Path) -> None:
    found = call("--rounds", "2", "--at-once", "2", "--json", "--output", str(tmp_path / "new"))
    read = json.loads(found.stdout)
    assert read == json.loads((tmp_path / "new/results.json").read_bytes())
    assert read["run"]["template"] == "/etc/vmbatch/domains/busybox.xml"
    assert [row["figure"] for row in read["rows"]] == [
        "until ready", "what VmBatch adds", "2 at once: until ready, median", "2 at once: the node's seconds for each"]
    assert read["rows"][0]["reference"] == 3.5
    assert read["phases"]["2 at once"][0] == {"phase": "disks", "jobs": 4, "p50": 0.5, "p90": 0.5, "p99": 0.5, "most": 0.5}
    assert "![ratios](picture.svg)" in (tmp_path / "new/report.md").read_text()
    assert (tmp_path / "new/picture.svg").read_text().startswith("<svg")


@pytest.mark.usefixtures("node")
def test_a_start_that_fails_ends_it_once_the_others_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def failing(*_words: Any) -> Iterator[None]:
        try:
            os.mkdir(tmp_path / "first")
        except FileExistsError:
            time.sleep(0.2)
            (tmp_path / "second").touch()
        else:
            raise NodeError("the guest ended before it was ready", "look at its console", code="VB706")
        yield

    monkeypatch.setattr(alone, "guest", failing)
    monkeypatch.setattr(bench, "_numbers", lambda _most: [2])
    found = call()
    assert found.exit_code == 1
    assert "vmbatch: the guest ended before it was ready" in found.stderr
    assert (tmp_path / "second").exists()


@pytest.mark.usefixtures("node")
def test_a_signal_removes_the_guests_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def long(*_words: Any) -> Iterator[None]:
        me = str(os.getpid())
        try:
            (tmp_path / f"{me}.up").touch()
            if len(list(tmp_path.glob("*.up"))) == 2:
                os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)
            yield
        except KeyboardInterrupt:
            time.sleep(0.1)
            (tmp_path / f"{me}.removed").touch()
            raise

    monkeypatch.setattr(alone, "guest", long)
    monkeypatch.setattr(bench, "_numbers", lambda _most: [2])
    begin = time.monotonic()
    found = call()
    assert (found.exit_code, found.stdout) == (130, "")
    assert "interrupted; the guests are removed" in found.stderr
    assert len(list(tmp_path.glob("*.removed"))) == 2
    assert time.monotonic() - begin < 30


@pytest.mark.usefixtures("node")
@pytest.mark.error("VB908")
def test_an_unknown_user() -> None:
    found = CliRunner().invoke(main, ["bench", "busybox.xml", "--user", "nobody-here"])
    assert found.exit_code == 1
    assert "this node knows no user nobody-here [VB908]" in found.stderr


def test_it_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1500)
    found = call()
    assert found.exit_code == 1
    assert "root" in found.stderr


@pytest.mark.usefixtures("node")
def test_somebody_must_have_the_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    found = CliRunner().invoke(main, ["bench", "busybox.xml"])
    assert found.exit_code == 2
    assert "--user" in found.stderr
