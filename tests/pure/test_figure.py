"""Figures of a benchmark: what is judged, and how it is written and drawn."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.report.figure import Figure, alone, beside
from vmbatch.report.picture import picture
from vmbatch.report.written import markdown, quantity, results

RUN = {"machine": "2 processors"}
STARTS = beside("A guest", "prologue", [2.2, 2.0, 4.4], [2.0, 2.0, 4.0], "virsh create", limit=1.05)
READY = alone("A guest", "ready file to exit <local>", [0.02, 0.04, 0.03], limit=0.05)


def test_ratios_are_taken_round_by_round() -> None:
    """So that a slow round, which hits both, says nothing."""
    assert STARTS.ratio == pytest.approx(1.1)
    assert STARTS.spread == pytest.approx((1.05, 1.1))
    assert (STARTS.ours, STARTS.reference, STARTS.rounds) == (2.2, 2.0, 3)
    assert STARTS.met is False


def test_without_a_reference_ours_is_judged() -> None:
    assert (READY.judged, READY.ratio, READY.met) == (0.03, None, True)
    assert READY.spread == pytest.approx((0.025, 0.035))


def test_without_a_limit_nothing_is_judged() -> None:
    assert alone("", "", [1.0]).met is None


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.001, False)])
def test_a_limit_may_be_reached(ours: float, met: bool) -> None:
    assert beside("", "", [ours], [1.0], "", limit=1.0).met is met


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.0123, "s", "12.3 ms"), (0.9999, "s", "1.00 s"), (41.9, "s", "41.90 s"), (250.0, "s", "250 s"), (-0.002, "s", "-2 ms"),
    (1536.0, "B", "1.5 KiB"), (1010.0, "B", "1010 B"), (3.0 * 2 ** 30, "B", "3.00 GiB"), (17.0, "", "17"),
])
def test_quantities_have_a_unit_that_suits_them(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_the_text_has_a_table_for_each_group() -> None:
    text = markdown([STARTS, READY, alone("Memory", "prologue", [50e6], unit="B")], RUN, "picture.svg")
    assert "- machine: 2 processors" in text
    assert "![ratios](picture.svg)" in text
    assert "| prologue | 2.20 s | 2.00 s | 1.10 | 1.05 to 1.10 | 1.05 | **over** |" in text
    assert "| ready file to exit <local> | 30 ms |  |  | 25 ms to 35 ms | 50 ms | met |" in text
    assert text.index("## A guest") < text.index("Reference: virsh create.") < text.index("## Memory")
    assert "| prologue | 47.7 MiB |" in text


def test_results_can_be_read_by_programs() -> None:
    read = json.loads(results([STARTS], RUN))
    assert read["run"] == RUN
    assert read["rows"][0] == {
        "group": "A guest", "figure": "prologue", "ours": 2.2, "reference": 2.0, "against": "virsh create", "unit": "s",
        "ratio": STARTS.ratio, "spread": list(STARTS.spread), "limit": 1.05, "rounds": 3}


def _drawn(figures: list[Figure]) -> ElementTree.Element:
    return ElementTree.fromstring(picture(figures, "Ours & theirs"))  # noqa: S314 (our own)


def test_the_picture_shows_each_figure_where_its_ratio_is() -> None:
    space = {"svg": "http://www.w3.org/2000/svg"}
    drawn = _drawn([STARTS, READY, alone("Memory", "prologue", [50e6], unit="B")])
    rows = drawn.findall("svg:g", space)
    assert [row.get("class") for row in rows] == ["over", "well"]
    one = next(line for line in drawn.findall("svg:line", space) if line.get("class") == "one")
    over, well = (row.find("svg:circle", space) for row in rows)
    assert over is not None and well is not None
    assert float(over.get("cx", "")) > float(one.get("x1", "")) > float(well.get("cx", ""))
    assert "ready file to exit <local>" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]


@given(st.lists(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_picture_is_well_formed_and_within_its_frame(values: list[list[float]]) -> None:
    figures = [beside("a", "b", each, list(reversed(each)), "c", limit=1.0) for each in values]
    for element in _drawn(figures).iter():
        for name in ("x1", "x2", "cx"):
            assert 0 <= float(element.get(name, "0")) <= 1000


def test_a_picture_of_nothing() -> None:
    assert list(_drawn([])) != []
