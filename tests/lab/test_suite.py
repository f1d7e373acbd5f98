"""The parts in which the whole suite runs."""

import subprocess

import pytest

from lab import place, suite


def test_every_test_is_in_one_part() -> None:
    tests = place.CLONE / "tests"
    parts = suite.parts()
    assert len(parts) == len(set(parts))
    for file in tests.rglob("test_*.py"):
        name = str(file.relative_to(tests))
        assert [part for part in parts if name == part or name.startswith(f"{part}/")] in ([name], [name.split("/")[0]]), name


def test_parts_that_are_named_are_there() -> None:
    assert {*suite.LONG, *suite.WAITING} <= set(suite.parts())
    assert not {*suite.LONG} & {*suite.WAITING}


def test_each_part_runs_once_in_one_of_three_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third node takes only what waits; the others take that, too, when they have nothing else."""
    ran: list[tuple[str, str]] = []

    def run(node: str, part: str, left: set[str]) -> tuple[suite.Done, set[str]]:
        ran.append((node, part))
        return suite.Done(part, 0, "1 passed in 0.1s", 0.1), left

    monkeypatch.setattr(suite, "_run", run)
    monkeypatch.setattr(suite, "_build", lambda: None)
    assert suite.run() == 0
    assert sorted(part for _, part in ran) == sorted(suite.parts())
    assert {part for node, part in ran if node == suite.nodes()[2]} <= set(suite.WAITING)


def test_what_a_part_leaves_is_held_against_it_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tests passed, and it fails; the next one in the same node does not."""
    monkeypatch.setattr(suite, "_ENDING_SECONDS", 0.0)
    left = b"/run/vmbatch/claims/one\n"

    def in_node(_node: str, module: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.CompletedProcess([module, *words], 0, left if module == "lab.leftover" else b"== 3 passed in 0.1s ==\n")

    monkeypatch.setattr(suite, "_in_node", in_node)
    first, known = suite._run("a", "kit", set())
    assert (first.status, first.verdict) == (1, "3 passed in 0.1s; left on the node: 1")
    assert "left on the node by these tests:\n  /run/vmbatch/claims/one" in capsys.readouterr().out
    second, _ = suite._run("a", "image", known)
    assert (second.status, second.verdict) == (0, "3 passed in 0.1s")
