"""Cores and memory of a Torque job, which no text of its user's can change."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.batch.amount import memory, parse_torque_size, slots, unambiguous
from vmbatch.errors import JobError

NODES = "1:ppn=2"
MIB = 1 << 20


@pytest.mark.parametrize(("text", "size"), [
    ("512mb", 512 * MIB), ("512MB", 512 * MIB), ("4gb", 4 << 30), ("1tb", 1 << 40), ("100", 100), ("100b", 100), ("3kb", 3072),
    ("2w", 16), ("2kw", 16384), ("1mw", 8 * MIB), ("1gw", 8 << 30), ("1tw", 8 << 40), ("2g", 2 << 30), ("0", 0),
])
def test_sizes(text: str, size: int) -> None:
    assert parse_torque_size(text) == size


@pytest.mark.parametrize("text", ["", "mb", "-1mb", "1.5gb", "1 gb", "1xb", "1gbb", "1bg", "0x10", "1e9", "1" * 19, "١gb"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(JobError, match="is not a size"):
        parse_torque_size(text)


@pytest.mark.parametrize(("resources", "known"), [
    ("nodes=1:ppn=2,mem=512mb,walltime=00:10:00,other=vba=/x,neednodes=1:ppn=2",
     {"nodes": NODES, "mem": "512mb", "walltime": "00:10:00"}),
    ("mem=512mb,nodes=1:ppn=2,neednodes=1:ppn=2,pmem=1gb",
     {"mem": "512mb", "nodes": NODES, "neednodes": NODES, "pmem": "1gb"}),
    ("other=x,mem=100gb,walltime=9,nodes=1:ppn=2", {}),
    ("nodes=1:ppn=2,other=x,mem=100gb", {"nodes": NODES}),
    ("nodes=1:ppn=2,gres=x,mem=100gb", {"nodes": NODES}),
    ("software=a,mem=100gb", {}),
    ("nodes=host,mem=100gb", {}),
    ("walltime=1,mem=100gb,mem=1gb", {"walltime": "1", "mem": "100gb"}),
    ("mem=lots,pmem=1gb", {}),
    ("", {}),
])
def test_what_is_certain(resources: str, known: dict[str, str]) -> None:
    assert unambiguous(resources, NODES) == known


@given(st.text("mem=1gb,othrx'\";", max_size=40), st.sampled_from(["other", "gres", "software", "x"]), st.booleans())
def test_nothing_a_user_writes_as_text_counts(text: str, name: str, first: bool) -> None:
    """However a free text looks, and wherever it stands: the memory is the job's own, or none."""
    real = "nodes=1:ppn=2,mem=512mb"
    resources = f"{name}={text},{real}" if first else f"{real},{name}={text}"
    assert unambiguous(resources, NODES).get("mem") in ((None,) if first else ("512mb",))


@pytest.mark.parametrize(("lines", "environ", "found"), [
    ("a\na\nb\nb\nb\n", {"PBS_NUM_PPN": "9", "PBS_NP": "9"}, (2, 5)),
    ("a\n", {}, (1, 1)),
    (None, {"PBS_NUM_PPN": "4", "PBS_NP": "8", "PBS_RESOURCE_NODES": "2:ppn=4"}, (4, 8)),
    (None, {"PBS_NUM_PPN": "8", "PBS_NP": "9", "PBS_RESOURCE_NODES": "1+1:ppn=8"}, None),
    (None, {"PBS_NUM_PPN": "4"}, None),
    (None, {"PBS_NUM_PPN": "0", "PBS_NP": "1"}, None),
    (None, {"PBS_NUM_PPN": "4 4", "PBS_NP": ""}, None),
    ("", {"PBS_NUM_PPN": "2", "PBS_NP": "2"}, (2, 2)),
])
def test_slots(tmp_path: Path, lines: str | None, environ: dict[str, str], found: tuple[int, int] | None) -> None:
    path = tmp_path / "nodefile"
    if lines is not None:
        path.write_text(lines)
    assert slots(environ, str(path)) == found
    if lines is None:
        assert slots(environ, None) == found


@pytest.mark.parametrize(("resources", "size"), [
    ({"mem": "1gb", "pmem": "4gb"}, 256 * MIB), ({"vmem": "1gb", "pvmem": "1gb"}, 256 * MIB), ({"pmem": "1gb"}, 2 << 30),
    ({"pvmem": "100mb"}, 200 * MIB), ({"walltime": "1"}, None), ({}, None),
])
def test_memory_of_this_node(resources: dict[str, str], size: int | None) -> None:
    """Two of eight slots are here."""
    assert memory(resources, (2, 8)) == size
    assert memory(resources, None) is None
