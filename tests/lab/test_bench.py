"""`make bench`: its report, its picture and its figures are written, of what was asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab import node, place


@pytest.fixture(autouse=True)
def _inside() -> None:
    if not node.inside():
        pytest.fail("needs the lab's node: use `make test`, or `python -m lab exec -- pytest`")


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "bench", *words], cwd=place.CLONE, capture_output=True, text=True, check=False)


def test_one_part_with_its_report(tmp_path: Path) -> None:
    done = run("native", "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert "| epilogue |" in done.stdout
    read = json.loads((tmp_path / "new/results.json").read_bytes())
    assert {row["figure"] for row in read["rows"]} >= {"prologue", "epilogue", "remoteshell as job_starter"}
    assert [row["limit"] for row in read["rows"] if row["figure"] == "epilogue"] == [1.5]
    assert "processors" in read["run"]["machine"]
    assert "![ratios](picture.svg)" in (tmp_path / "new/report.md").read_text()
    assert (tmp_path / "new/picture.svg").read_text().startswith("<svg")


def test_a_part_that_there_is_not() -> None:
    done = run("nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no part nothing; there are start, resume" in done.stderr
