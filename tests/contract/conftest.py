"""A fresh resource of every kind, and places for journals."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch import endmarker, journal, pool

from .cases import FACTORIES, Case


@pytest.fixture(params=sorted(FACTORIES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = FACTORIES[request.param][1](tmp_path)
    made.prepare()
    yield made
    made.clear()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Journals and end markers in a directory of the test's own."""
    monkeypatch.setattr(journal, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(endmarker, "DIRECTORY", str(tmp_path / "run" / "ended"))
    monkeypatch.setattr(pool, "DIRECTORY", str(tmp_path / "run" / "pool"))
    journal.make_directories()
    return tmp_path
