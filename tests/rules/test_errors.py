"""Every error has a code, every code an entry in the catalogue, a page that is current, and a test that makes the error."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from lab import errorpages
from vmbatch.catalogue import CATALOGUE, Entry

ROOT = Path(__file__).resolve().parents[2]
RAISED = errorpages.raised()


def marked() -> dict[str, list[str]]:
    """The tests of each code: those marked `error(CODE)`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.error":
                        for code in mark.args:
                            found.setdefault(ast.literal_eval(code), []).append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def test_there_are_errors() -> None:
    assert len(RAISED) > 400
    assert len({place.code for place in RAISED}) > 70


def test_every_error_has_a_code_of_the_catalogue() -> None:
    assert [place for place in RAISED if place.code not in CATALOGUE] == []


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.code)
def test_an_entry_says_whose_fault_it_is_as_the_code_does(entry: Entry) -> None:
    here = [place.fault for place in RAISED if place.code == entry.code]
    known = set(filter(None, here))
    assert here, "nothing raises it"
    assert known <= set(entry.faults)
    assert None in here or known == set(entry.faults)


def test_the_catalogue_is_in_order() -> None:
    codes = list(CATALOGUE)
    assert all(re.fullmatch("VB[1-9][0-9]{2}", code) for code in codes)
    assert codes == sorted(codes)
    assert all(entry.cause.endswith(".") and entry.remedy.endswith(".") for entry in CATALOGUE.values())
    titles = [entry.title for entry in CATALOGUE.values()]
    assert len(set(titles)) == len(titles)
    assert not any(title.endswith(".") for title in titles)
    assert not [pair for pair in itertools.pairwise(codes) if pair[0] == pair[1]]


def test_every_code_has_a_test_that_makes_it() -> None:
    """The mark itself fails where its test does not: tests/conftest.py."""
    assert sorted(set(CATALOGUE) - set(marked())) == []
    assert sorted(set(marked()) - set(CATALOGUE)) == []


def test_the_pages_are_current() -> None:
    """`python -m lab.errorpages` writes them anew."""
    wanted = errorpages.pages()
    assert sorted(path.name for path in errorpages.PAGES.iterdir()) == sorted(wanted)
    assert [name for name, text in wanted.items() if (errorpages.PAGES / name).read_text() != text] == []
