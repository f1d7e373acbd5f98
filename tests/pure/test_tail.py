"""Reading on in a file that grows, is cut, or gets another in its place."""

from pathlib import Path

import pytest

from vmbatch.errors import NodeError
from vmbatch.host.tail import Tail


def more(tail: Tail) -> bytes:
    return b"".join(tail.more())


def test_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(str(path))
    assert more(tail) == b""
    path.write_bytes(b"one\n")
    assert more(tail) == b"one\n"
    with path.open("ab") as opened:
        opened.write(b"two\nthr")
    assert (more(tail), more(tail)) == (b"two\nthr", b"")
    tail.close()


def test_it_is_put_aside_and_begun_anew(tmp_path: Path) -> None:
    """As logrotate and virtlogd do it: the end of the old one is read, too."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    tail = Tail(str(path))
    assert more(tail) == b"one\n"
    with path.open("ab") as opened:
        opened.write(b"two\n")
    path.rename(tmp_path / "log.0")
    assert more(tail) == b"two\n"
    path.write_bytes(b"three\n")
    assert more(tail) == b"three\n"
    tail.close()


def test_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a long line\n")
    tail = Tail(str(path))
    assert more(tail) == b"a long line\n"
    path.write_bytes(b"new\n")
    assert more(tail) == b"new\n"
    tail.close()


@pytest.mark.parametrize(("data", "lines", "found"), [
    (b"a\nb\nc\n", 2, b"b\nc\n"), (b"a\nb\nc", 2, b"b\nc"), (b"a\nb\n", 5, b"a\nb\n"), (b"a\nb\n", 0, b""), (b"", 3, b""),
    (b"x" * 200000 + b"\nlast\n", 1, b"last\n"), (b"a\n" + b"x" * 200000 + b"\n", 1, b"x" * 200000 + b"\n"),
])
def test_the_last_lines(tmp_path: Path, data: bytes, lines: int, found: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    tail = Tail(str(tmp_path / "log"), lines)
    assert more(tail) == found
    tail.close()


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/etc/passwd")
    with pytest.raises(NodeError, match="log cannot be read: Too many levels of symbolic links"):
        Tail(str(tmp_path / "log"))
