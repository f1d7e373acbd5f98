"""Every row of a table of events names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["nodes.md"])
def test_no_row_without_a_test(page: str) -> None:
    table = (ROOT / "docs" / page).read_text().split("| event |")[1]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert rows
    for row in rows:
        last = row.rstrip("| ").rpartition("|")[2]
        assert re.search("tests/|the same", last), row
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", table):
        assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
