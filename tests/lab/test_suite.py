"""The parts in which the whole suite runs."""

from lab import place, suite


def test_every_test_is_in_one_part() -> None:
    tests = place.CLONE / "tests"
    parts = suite.parts()
    assert len(parts) == len(set(parts))
    for file in tests.rglob("test_*.py"):
        name = str(file.relative_to(tests))
        assert [part for part in parts if name == part or name.startswith(f"{part}/")] in ([name], [name.split("/")[0]]), name


def test_long_folders_are_there() -> None:
    assert all((place.CLONE / "tests" / folder).is_dir() for folder in suite.LONG)
