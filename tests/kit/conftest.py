"""Every test of the kit runs once under each shell."""

import shutil
from pathlib import Path

import pytest

from .guest import SHELLS, Guest, make_guest
from .runs import Runs, make_runs


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    assert shutil.which(SHELLS[name][0]), f"{name} must be installed"
    return name


@pytest.fixture
def guest(tmp_path: Path, shell: str) -> Guest:
    return make_guest(tmp_path, shell)


@pytest.fixture
def runs(tmp_path: Path, shell: str) -> Runs:
    return make_runs(tmp_path, shell)
