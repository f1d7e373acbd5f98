"""Every script of the kit is clean, wherever shellcheck is called from."""

import subprocess
from pathlib import Path

import pytest

from .guest import KIT

SCRIPTS = sorted(
    path for path in KIT.rglob("*") if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh\n", b"# shellcheck shell=sh"))
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(["shellcheck", "-s", "sh", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_all_of_them() -> None:
    others = {path.name for path in KIT.rglob("*") if path.is_file()} - {path.name for path in SCRIPTS}
    assert {name for name in others if not name.endswith(".service")} == {".shellcheckrc"}


def test_only_old_tools() -> None:
    """What EL5 or BusyBox may lack, and what is no POSIX sh."""
    for script in SCRIPTS:
        code = "".join(line.partition(" #")[0] for line in script.read_text().splitlines(True) if line[:1] != "#")
        code = code.replace("! command -v systemctl >/dev/null || systemctl ", "")
        for word in (" local ", "mktemp", "systemctl", "readlink", " stat ", "seq ", "[[ ", "$'", "<<<"):
            assert word not in code.replace("$$'", ""), (script.name, word)
