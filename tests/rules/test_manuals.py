"""The manual pages as man(1) shows them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/man").glob("*.md"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the Makefile's own rule."""
    target = tmp_path_factory.mktemp("man")
    subprocess.run(["make", "--silent", "--assume-old=packages", "man", f"man={target}"], cwd=ROOT, check=True)
    return target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_manual_is_shown_whole_and_without_a_warning(made: Path, page: Path) -> None:
    shown = subprocess.run(["groff", "-man", "-t", "-Tutf8", "-P-cbou", "-ww", "-rLL=200n", made / page.stem],
                           capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    text = " ".join(shown.stdout.split())
    name, _, section = page.stem.rpartition(".")
    assert text.startswith(f"{name}({section}) VmBatch {name}({section})")
    for heading in re.findall(r"^##+ (.+)$", page.read_text(), re.MULTILINE):
        assert heading.replace("`", "").replace("\\", "") in text, heading
    for word in re.findall(r"\*\*([^*]+)\*\*", page.read_text()):
        assert " ".join(word.split()) in text, word
    for tag in re.findall(r"`(<[^`]+>)`", page.read_text()):
        assert " ".join(tag.split()) in text, tag
