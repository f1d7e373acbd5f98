"""The linters' complaints are failures."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .imports import ROOT


def tracked() -> list[Path]:
    """Every file that is, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def is_shell(path: Path) -> bool:
    head = path.read_bytes()[:200].split(b"\n")
    return head[0] in (b"#!/bin/sh", b"#!/bin/bash", b"#!/bin/sh -e") or any(
        line.startswith(b"# shellcheck shell=") for line in head
    )


SHELL = sorted(path for path in tracked() if is_shell(path))


def clean(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    clean(sys.executable, "-m", "ruff", "check", ".")


def test_mypy() -> None:
    clean(sys.executable, "-m", "mypy")


@pytest.mark.parametrize("path", SHELL, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck(path: Path) -> None:
    clean("shellcheck", str(path))


def test_there_are_scripts_to_check() -> None:
    kit = {path.name for path in SHELL if path.parent == ROOT / "vmbatch/kit"}
    assert kit >= {path.name for path in (ROOT / "vmbatch/kit").glob("*.sh")}
    assert any(ROOT / "lab" in path.parents for path in SHELL)


def test_every_module_says_what_it_is() -> None:
    """The first line of a file is its one idea."""
    modules = [path for path in tracked() if path.suffix == ".py" and path.stat().st_size]
    assert [path for path in modules if not ast.get_docstring(ast.parse(path.read_bytes()))] == []
