"""The readers of images, disks and journals, against inputs that a fuzzer makes; and the fuzzer, against a planted mistake."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
SECONDS = 6


def fuzzed(target: str, place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    (place / "new").mkdir()
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={place}/", *options,
         str(place / "new")], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize("seed", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_worth_keeping(seed: Path) -> None:
    TARGETS[seed.parent.name](seed.read_bytes())


def test_every_target_has_something_to_begin_with() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_a_while(target: str, tmp_path: Path) -> None:
    done = fuzzed(target, tmp_path, f"-max_total_time={SECONDS}")
    assert done.returncode == 0, done.stdout[-6000:]
    runs = re.search(r"^Done ([0-9]+) runs", done.stdout, re.MULTILINE)
    assert runs and int(runs[1]) > len(list((CORPUS / target).iterdir()))
    assert list((tmp_path / "new").iterdir()), "nothing that it made reached new code"


def test_a_planted_mistake_is_found(tmp_path: Path) -> None:
    """By what the code compares with, which chance would not meet."""
    done = fuzzed("planted", tmp_path, "-runs=2000000", "-seed=1")
    assert done.returncode != 0 and "IndexError: planted" in done.stdout, done.stdout[-3000:]
    [found] = tmp_path.glob("crash-*")
    assert found.read_bytes().startswith(b"QFI\xfb")
