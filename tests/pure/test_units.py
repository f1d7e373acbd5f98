"""Sizes, durations, deadlines."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.units import Deadline, format_size, parse_duration, parse_size

SIZES = {
    "0": 0,
    "512": 512,
    "1K": 1 << 10,
    "512M": 512 << 20,
    "20G": 20 << 30,
    "20 GiB": 20 << 30,
    "1TB": 1 << 40,
    " 7K ": 7 << 10,
}
DURATIONS = {"0s": 0.0, "250ms": 0.25, "90s": 90.0, "1.5min": 90.0, "2 h": 7200.0, "1d": 86400.0}
NO_SIZES = [
    "",
    "G",
    "-1G",
    "1.5G",
    "1g",
    "1P",
    "1GG",
    "0x10",
    "1e3",
    "1_000",
    "1\n2",
    "٣G",
    "³G",
    "１G",
    "9" * 16,
    "inf",
    "1G\x00",
]
NO_DURATIONS = ["", "s", "90", "-1s", "1 year", "1S", "1.s", ".5s", "1,5s", "٣s", "1s\x00", "nan", "inf", "9" * 10 + "s", "1m"]


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NO_SIZES)
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write for instance"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write for instance"):
        parse_duration(text)


@given(st.integers(0, 10**15 - 1))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert len(format_size(size)) <= len(str(size)) + 1


@given(st.text())
def test_only_value_errors(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "write for instance" in str(error)


def test_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    deadline = Deadline(5)
    sooner, later = deadline.earlier(2), deadline.earlier(9)
    assert (deadline.left(), sooner.left(), later.left(), deadline.passed()) == (5, 2, 5, False)
    now = 1002.0
    assert (sooner.passed(), later.passed()) == (True, False)
    now = 1009.0
    assert (deadline.left(), deadline.passed()) == (0, True)
