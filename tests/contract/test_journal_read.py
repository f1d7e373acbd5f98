"""What a journal says, however much of it there is, and whatever is in it."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmbatch import journal
from vmbatch.errors import NodeError

from .book import LINES, RESOURCES, START

WHOLE = b"".join(LINES)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals") / "42-1.vm.journal"


def test_torn_at_every_byte(path: Path) -> None:
    """A prefix of the promises and never garbage; without a whole first line, an error."""
    ends = [len(b"".join(LINES[: count + 1])) for count in range(len(LINES))]
    for length in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:length])
        whole_lines = sum(end <= length for end in ends)
        if not whole_lines:
            with pytest.raises(NodeError, match="cannot be understood"):
                journal.peek(str(path))
            continue
        start, resources, handed_over = journal.peek(str(path)) or (None, [], None)
        assert start == START
        assert resources == RESOURCES[: whole_lines - 1]
        assert handed_over == (length == len(WHOLE))


def test_no_journal(path: Path) -> None:
    assert journal.peek(f"{path}.none") is None


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"x", b"\x00" * 40, b'{"kind":"volume"}', b'{"kind":"directory","path":"\xff"}', LINES[0][:-1], LINES[1][:-3]],
)
@pytest.mark.parametrize("at", range(1, 4))
def test_a_corrupt_line_in_the_middle(path: Path, line: bytes, at: int) -> None:
    path.write_bytes(b"".join([*LINES[:at], line + b"\n", *LINES[at:]]))
    with pytest.raises(NodeError) as caught:
        journal.peek(str(path))
    assert str(path) in caught.value.what
    assert "by hand" in caught.value.hint


def test_a_record_of_another_kind_first(path: Path) -> None:
    path.write_bytes(b"".join(LINES[1:]))
    with pytest.raises(NodeError, match="cannot be understood"):
        journal.peek(str(path))


@given(
    st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda tail: LINES[0] + tail + b"\n")
    | st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)).map(
        lambda change: WHOLE[: change[0]] + bytes([WHOLE[change[0]] ^ change[1]]) + WHOLE[change[0] + 1 :]
    )
)
@example(b"[" * 100_000 + b"\n")
@example(b'{"kind":"start","job":"\xff"}\n')
@example(LINES[0] + b"[" * 100_000 + b"\n")
@example(LINES[0] + b'{"kind":"directory","path":"/","token":"x","mode":' + b"9" * 5000 + b"}\n")
def test_only_node_errors(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        journal.peek(str(path))
    except NodeError as error:
        assert str(path) in error.what


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_no_file(tmp_path: Path, make: object) -> None:
    """As the sweep may meet them: lost+found, or worse."""
    path = tmp_path / "42.vm.journal"
    assert callable(make)
    make(path)
    with pytest.raises(NodeError) as caught:
        journal.peek(str(path))
    assert str(path) in caught.value.what
