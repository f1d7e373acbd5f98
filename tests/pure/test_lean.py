"""What bench/lean.py changes in a domain, without a start."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from bench import lean
from lab.domain import Parts, domain


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "_parts", lambda: Path("/parts"))


def text(case: lean.Case, *changes: Callable[[Element], None]) -> str:
    disk = None if case.guest == "busybox" else Path("/disk")
    root = lean.element(domain("lean", 192, Parts(Path("/images"), disk, Path("/medium"), Path("/console"), "")))
    for change in changes:
        change(root)
    return ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("name", lean.CASES)
def test_each_case_is_a_change(name: str) -> None:
    case = lean.CASES[name]
    without = text(case, case.base)
    assert text(case, case.base, case.change) != without
    assert text(case, case.base) == without


def test_what_is_started_first() -> None:
    case = lean.CASES["network-boot"]
    root = lean.element(text(case, case.base, case.change))
    assert [boot.get("dev") for boot in root.findall("os/boot")] == ["network", "hd"]
    assert root.find("os/kernel") is None
    assert root.find("devices/interface/rom") is None


def test_the_report() -> None:
    pairs = [(lean.Start(10.0, 2.0), lean.Start(10.0 + more, 2.0 + more / 2)) for more in (1.0, 2.0, 3.0, 4.0)]
    assert lean.show({"usb": pairs}).splitlines()[2] == "| a USB controller | busybox | 4 | +1.25 | +1.00 to +1.50 | +2.50 |"


def test_a_case_that_is_none() -> None:
    with pytest.raises(SystemExit, match="there is no case nonsense; there are boot-menu, "):
        lean.main(["1", "nonsense"])
