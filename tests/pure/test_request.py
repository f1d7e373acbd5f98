"""The request before a job's input, read back by an own reading of docs/architecture.md and of POSIX `printf %b`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import request as commands
from vmbatch.request import Request, escape

PLAIN = rb"[A-Za-z0-9/._=:,+@% -]"
NAMES = st.from_regex(rb"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
REQUESTS = st.builds(
    Request,
    environment=st.dictionaries(NAMES, st.binary(max_size=40), max_size=4),
    directory=st.binary(max_size=40),
    shell=st.binary(max_size=20),
    script=st.none() | st.binary(max_size=200),
    arguments=st.binary(max_size=40),
    command=st.none() | st.binary(max_size=40),
    login=st.booleans(),
    lifeline=st.booleans(),
)


def printf_b(text: bytes) -> bytes:
    """POSIX.1-2017, printf, `%b`: of its escapes only `\\0ddd`, zero to three octal digits, may occur here."""
    found, at = bytearray(), 0
    while at < len(text):
        if text[at : at + 1] != b"\\":
            found += text[at : at + 1]
            at += 1
            continue
        match = re.compile(rb"\\0([0-7]{0,3})").match(text, at)
        assert match, text
        found.append(int(match[1] or b"0", 8))
        at = match.end()
    return bytes(found)


def read(data: bytes) -> Request:
    """The request in `data`, as job.sh would understand it."""
    lines = data.split(b"\n")
    assert lines[0] == b"vmbatch 1"
    assert lines[-2:] == [b"run", b""]
    environment: dict[bytes, bytes] = {}
    items: dict[bytes, bytes] = {}
    script = None
    flags: set[bytes] = set()
    for line in lines[1:-2]:
        if line in (b"login", b"lifeline"):
            flags.add(line)
            continue
        item, blank, rest = line.partition(b" ")
        assert blank
        if item == b"env":
            name, blank, value = rest.partition(b" ")
            assert blank
            assert name not in environment
            environment[name] = printf_b(value)
        elif item == b"file":
            script = (script or b"") + printf_b(rest)
        else:
            assert item in (b"cwd", b"shell", b"args", b"command")
            assert item not in items
            items[item] = printf_b(rest)
    return Request(
        environment=environment,
        directory=items.get(b"cwd", b""),
        shell=items.get(b"shell", b""),
        script=script,
        arguments=items.get(b"args", b""),
        command=items.get(b"command"),
        login=b"login" in flags,
        lifeline=b"lifeline" in flags,
    )


def fields(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in Request.__slots__}


@given(st.binary())
def test_escape(value: bytes) -> None:
    assert printf_b(escape(value)) == value
    assert re.fullmatch(rb"(" + PLAIN + rb"|\\0[0-7]{3})*", escape(value))


@given(REQUESTS)
def test_read_back(request: Request) -> None:
    assert fields(read(request.encode())) == fields(request)


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 100_000])
def test_scripts_of_every_size(size: int) -> None:
    script = bytes(number % 256 for number in range(size))
    data = Request(environment={}, script=script).encode()
    assert read(data).script == script
    assert max(map(len, data.split(b"\n"))) <= 5 * 8192 + len(b"file ")


def test_all_bytes_stay_in_their_line() -> None:
    value = b"\nrun\nenv X y\n" + bytes(range(256))
    data = Request(environment={b"A": value}, directory=value, shell=value, script=value, arguments=value, command=value).encode()
    assert data.count(b"\nrun\n") == 1
    assert data.count(b"\n") == 8


@pytest.mark.parametrize("run", ["", "x", "12 34", "1;id", "$(id)", "1\n2"])
def test_hostile_run_ids(run: str) -> None:
    for command in (commands.run_command, commands.status_command, lambda run: commands.signal_command(run, "TERM")):
        try:
            text = command(run)
        except ValueError:
            continue
        assert re.fullmatch(r"exec /bin/sh /var/lib/vmbatch/kit/[a-z]+\.sh [0-9a-f]{16}( TERM)?", text)


@pytest.mark.parametrize("name", ["", "term", "SIGTERM", "9", "TERM;id", "TERM\n", "-9", "RTMIN"])
def test_hostile_signals(name: str) -> None:
    with pytest.raises(ValueError):
        commands.signal_command("1", name)


def test_commands() -> None:
    assert commands.login_command() == "exec /bin/sh /var/lib/vmbatch/kit/login.sh"
    assert commands.request_command("ab") == "exec /bin/sh /var/lib/vmbatch/kit/request.sh 00000000000000ab"
    assert commands.run_command("ab") == "exec /bin/sh /var/lib/vmbatch/kit/job.sh 00000000000000ab"
    assert commands.status_command("ab") == "exec /bin/sh /var/lib/vmbatch/kit/status.sh 00000000000000ab"
    assert commands.signal_command("ab", "USR1") == "exec /bin/sh /var/lib/vmbatch/kit/signal.sh 00000000000000ab USR1"
    assert commands.signal_command("ab", "USR1", alone=True) == (
        "exec /bin/sh /var/lib/vmbatch/kit/signal.sh 00000000000000ab USR1 alone")
