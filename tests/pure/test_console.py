"""What a guest wrote to its console may be shown: no escape sequences, bounded, the last lines."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.guest import printable
from vmbatch.host import console

SEQUENCES = {
    "colour": b"\x1b[31;1m",
    "clear": b"\x1b[2J\x1b[H",
    "private": b"\x1b[?25l",
    "title": b"\x1b]0;owned\x07",
    "title-st": b"\x1b]0;owned\x1b\\",
    "link": b"\x1b]8;;http://x\x1b\\",
    "reset": b"\x1bc",
    "index": b"\x1bM",
    "charset": b"\x1b(B",
    "c1-csi": "\x9b31m".encode(),
    "bell": b"\x07",
    "backspace": b"\b\b",
    "null": b"\x00",
    "delete": b"\x7f",
    "cr": b"\r",
    "override": "\u202e".encode(),
    "isolate": "\u2066".encode(),
    "zero-width": "\u200b".encode(),
    "line-separator": "\u2028".encode(),
    "bom": "\ufeff".encode(),
    "lone-escape": b"\x1b",
}


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_sequences_go(sequence: bytes) -> None:
    text = printable(b"before " + sequence + b"\x1b[0m after")
    assert text.isprintable()
    assert text.startswith("before ")
    assert text.endswith("after")
    assert "owned" not in text


def test_sequences_cannot_be_nested() -> None:
    assert "\x1b" not in printable(b"\x1b\x1b[31m[31m\x1b\x1b]0;x\x07]0;x\x07 text")


def test_text_stays() -> None:
    assert printable("[  OK  ] Grüße 日本 €".encode()) == "[  OK  ] Grüße 日本 €"
    assert printable(b"bad \xff byte") == "bad \ufffd byte"


def test_last_lines() -> None:
    text = b"one\r\ntwo\r\r\n\n \t\n\x1b[0m\nthree" + b"x" * 500 + b"\nfour   \n"
    assert console.printable_lines(text) == ["one", "two", "three" + "x" * 195, "four"]
    assert console.printable_tail(text, 1) == "four"
    assert console.printable_tail(b"", 1) == ""


@given(st.binary(max_size=400))
def test_lines_of_anything(data: bytes) -> None:
    for line in console.printable_lines(data):
        assert line.isprintable()
        assert 0 < len(line) <= 200
        assert line.strip()


def test_only_the_tail_of_a_large_log(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"first\n" + b"x" * (1 << 20) + b"\nlast\n")
    tail = console.read_tail(str(path))
    assert len(tail) == 64 << 10
    assert tail.endswith(b"\nlast\n")


def test_no_log_links_or_pipes(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    assert console.read_tail(str(tmp_path / "link")) == b""
    assert console.read_tail(str(tmp_path / "none")) == b""


def test_panic(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(
        b"[    1.2] Kernel panic - not syncing: \x1b[31mAttempted to kill init!\r\n[    1.3] ---[ end Kernel panic\r\n"
    )
    assert console.panic(str(path)) == "Kernel panic - not syncing: Attempted to kill init!"
    path.write_bytes(b"Kernel panic - not syncing: " + b"x" * 10000)
    assert len(console.panic(str(path)) or "") == 200
    path.write_bytes(b"all is well\n")
    assert console.panic(str(path)) is None


def test_gave_up(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"vm-7 login: vmbatch: gave up: failed while mounting \x1b[31m10.77.0.1:/x: denied\r\n[   40.1] more\r\n")
    assert console.gave_up(str(path)) == "failed while mounting 10.77.0.1:/x: denied"
    path.write_bytes(b"vmbatch: gave up: half a li")
    assert console.gave_up(str(path)) is None
    path.write_bytes(b"vmbatch: gave up: " + b"x" * 10000 + b"\n")
    assert console.gave_up(str(path)) is None


def test_a_log_that_was_begun_anew(tmp_path: Path) -> None:
    """As virtlogd does once one is full: what counts may be in the one before."""
    path = tmp_path / "console.log"
    path.write_bytes(b"flood\r\n")
    path.with_name("console.log.0").write_bytes(b"x" * (1 << 20) + b"Kernel panic - not syncing: dead\n")
    assert console.panic(str(path)) == "Kernel panic - not syncing: dead"
    tail = console.read_tail(str(path))
    assert len(tail) == 64 << 10
    assert tail.endswith(b"dead\nflood\r\n")


def plain(data: bytes, size: int) -> bytes:
    stream = console.Plain()
    return b"".join(stream.feed(data[at:at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("name", sorted(SEQUENCES))
def test_a_stream_of_a_guests(name: str, size: int) -> None:
    """However it is cut: what stays of a sequence is text at the most, and the next line is there."""
    said = plain(b"before" + SEQUENCES[name] + b"\nafter\n", size).decode()
    assert said.startswith("before")
    assert said.endswith("\nafter\n")
    assert all(char.isprintable() or char == "\n" for char in said)


@given(st.binary(max_size=200), st.integers(1, 20))
def test_a_stream_is_never_harmful(data: bytes, size: int) -> None:
    said = plain(data, size).decode()
    assert all(char.isprintable() or char in "\n\t" for char in said)
    assert said.count("\n") == data.count(b"\n"), "no line is swallowed"


def test_a_streams_text_is_whole() -> None:
    assert plain("Grüße\t€\r\n\x1b[1mbold\x1b[0m\n\x1b]0;never ended\nnext\n".encode(), 1).decode() == "Grüße\t€\nbold\n\nnext\n"
