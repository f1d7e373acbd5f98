"""qsub's filter: jobs with guests get their shell, others pass byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.submitfilter import RejectedError, directives, filtered, options, split

SHELL = b"/opt/vmbatch/hooks/remoteshell"
CONFIG = b'[queues]\nvm = "debian.xml"\nvmbig = "big.xml"\n'
OURS = b"#PBS -S " + SHELL


def run(script: bytes, *arguments: str, config: bytes = CONFIG, prefix: bytes | None = None) -> bytes:
    return filtered([word.encode() for word in arguments], script, prefix, config, "vmbatch.conf")


@pytest.mark.parametrize("arguments", [
    ("-q", "vm"), ("-qvm",), ("-q", "vm@server"), ("-l", "nodes=1", "-qvm@s", "job.sh"), ("-I", "-q", "vm"), ("-Iqvm",),
    ("-q", "batch", "-q", "vm"), ("-N", "-q", "-q", "vm"), ("-F", "a -q x", "-q", "vm"), ("-VXqvm",),
])
def test_queue_on_the_command_line(arguments: tuple[str, ...]) -> None:
    assert run(b"#!/bin/sh\necho\n", *arguments) == b"#!/bin/sh\n" + OURS + b"\necho\n"


@pytest.mark.parametrize("arguments", [
    (), ("-q", "batch"), ("-q", "vm", "-q", "batch"), ("job.sh", "-q", "vm"), ("--", "-q", "vm"), ("-N", "-qvm"), ("-q", "VM"),
    ("-q", "vm2"), ("-q", "@vm"), ("-q", ""), ("-q",), ("-l", "-q", "vm"), ("-q", "vm/"), ("-q", " vm"),
])
@pytest.mark.parametrize("script", [
    b"", b"\n\n", b"#!/bin/sh\n#PBS -S /bin/bash\necho\r\n\x00\xff", b"#PBS -q batch -S /bin/ksh", b"#PBS\n#PBS -\n#PBS '\n",
])
def test_native_jobs_pass_byte_for_byte(arguments: tuple[str, ...], script: bytes) -> None:
    assert run(script, *arguments) == script


@pytest.mark.parametrize("line", [
    b"#PBS -q vm", b"  #PBS -q vm", b"\t#PBS -q  'vm'", b'#PBS -q "vm"@server', b"#PBS -l nodes=1 -qvm", b"#PBS-q vm",
    b"#PBS -q vm\r", b"#PBS -q batch\n#PBS -q vm", b"# a comment\n\n  # another\n:a colon\n#PBS -q vm",
])
def test_queue_in_a_directive(line: bytes) -> None:
    assert run(line + b"\necho\n") == OURS + b"\n" + line + b"\necho\n"


@pytest.mark.parametrize("script", [
    b"echo\n#PBS -q vm\n", b"#PBSX\n:\necho '\n#PBS -q vm\n'", b"##PBS -q vm\n", b"# PBS -q vm\n", b"#pbs -q vm\n",
    b"x #PBS -q vm\n", b" :\n#PBS -q vm\n",
])
def test_what_is_no_directive(script: bytes) -> None:
    assert run(script) == script


def test_the_command_line_beats_the_script() -> None:
    script = b"#PBS -q vm\necho\n"
    assert run(script, "-q", "batch") == script
    assert run(b"#PBS -q batch\necho\n", "-q", "vm") == OURS + b"\n#PBS -q batch\necho\n"


@pytest.mark.parametrize(("before", "after"), [
    (b"#!/bin/sh\n#PBS -S /bin/bash\necho\n", b"#!/bin/sh\n" + OURS + b"\necho\n"),
    (b"#PBS -S /bin/bash\necho\n", b"#!/bin/bash\n" + OURS + b"\necho\n"),
    (b"#PBS -S /bin/bash@host,/bin/sh\necho\n", OURS + b"\necho\n"),
    (b"#PBS -S bash\necho\n", OURS + b"\necho\n"),
    (b"#PBS -S '/bin/ba sh'\necho\n", OURS + b"\necho\n"),
    (b"#!/bin/sh\n#PBS -h -S /bin/ksh -j oe\n#PBS -S/bin/csh\n:\n", b"#!/bin/sh\n#PBS -h  -j oe\n" + OURS + b"\n:\n"),
    (b"#!/bin/sh\n#PBS -j oe -S /bin/ksh\necho\n", b"#!/bin/sh\n" + OURS + b"\n#PBS -j oe \necho\n"),
    (b"#PBS -S /bin/sh\n#PBS -S /bin/ksh\necho\n", b"#!/bin/ksh\n#\n" + OURS + b"\necho\n"),
    (b"#PBS -S /bin/sh -S /bin/ksh\necho\n", b"#!/bin/ksh\n" + OURS + b"\necho\n"),
    (b"#PBS -S\necho\n", OURS + b"\necho\n"),
    (OURS + b"\necho\n", OURS + b"\necho\n"),
    (b"#PBS -S /bin/bash\r\necho\r\n", b"#!/bin/bash\n" + OURS + b"\necho\r\n"),
    (b"echo\n#PBS -S /bin/bash\n", OURS + b"\necho\n#PBS -S /bin/bash\n"),
    (b"", OURS + b"\n"),
    (b"\n\n", OURS + b"\n\n\n"),
], ids=ascii)
def test_the_users_own_shell_goes_into_the_first_line(before: bytes, after: bytes) -> None:
    """Where there is no such line: a script that is run by the shell of -S is run by it in its guest."""
    assert run(before, "-q", "vm") == after


@pytest.mark.parametrize("arguments", [("-S", "/bin/bash"), ("-S/bin/bash",), ("-VS", "/bin/bash"), ("-S", ""), ("-S",)])
def test_another_shell_on_the_command_line(arguments: tuple[str, ...]) -> None:
    with pytest.raises(RejectedError, match="-S on the command line would have this one run elsewhere; leave it out, and"):
        run(b"echo\n", "-q", "vm", *arguments)
    assert run(b"echo\n", "-q", "batch", *arguments) == b"echo\n"


def test_our_shell_on_the_command_line() -> None:
    assert run(b"echo\n", "-q", "vm", "-S", SHELL.decode()) == OURS + b"\necho\n"


@pytest.mark.parametrize("line", [b"#PBS -VS /bin/sh", b'#PBS "-S" /bin/sh', b"#PBS -IS/bin/sh"])
@pytest.mark.error("VB805")
def test_shell_joined_to_other_options(line: bytes) -> None:
    with pytest.raises(RejectedError, match="joins -S to other options; write -S in a line of its own"):
        run(line + b"\n", "-q", "vm")


def test_other_prefixes() -> None:
    """-C, and PBS_DPREFIX."""
    assert run(b"#QSUB -q vm\n#PBS -S /bin/sh\n", "-C", "#QSUB") == b"#QSUB -S " + SHELL + b"\n#QSUB -q vm\n#PBS -S /bin/sh\n"
    assert run(b"#X -q vm\n", prefix=b"#X") == b"#X -S " + SHELL + b"\n#X -q vm\n"
    assert run(b"#PBS -q vm\n", prefix=b"#X") == b"#PBS -q vm\n"
    for words, prefix in ((("-C", ""), None), ((), b"")):
        with pytest.raises(RejectedError, match="need a directive in their script"):
            run(b"echo\n", "-q", "vm", *words, prefix=prefix)


def test_default_queue() -> None:
    assert run(b"echo\n") == b"echo\n"
    config = CONFIG + b'[submit]\ndefault_queue = "vm"\nshell = "/x/remoteshell"\n'
    assert run(b"echo\n", config=config) == b"#PBS -S /x/remoteshell\necho\n"
    assert run(b"echo\n", "-q", "@server", config=config) == b"#PBS -S /x/remoteshell\necho\n"
    assert run(b"echo\n", "-q", "batch", config=config) == b"echo\n"


def test_wrong_configuration() -> None:
    """It does not keep native jobs from being submitted; of a queue that it names it says what is wrong."""
    config = CONFIG + b"nonsense\n"
    assert run(b"echo\n", "-q", "batch", config=config) == b"echo\n"
    assert run(b"echo\n", config=config) == b"echo\n"
    with pytest.raises(RejectedError, match=r"vmbatch\.conf:4"):
        run(b"echo\n", "-q", "vm", config=config)


def test_no_configuration() -> None:
    assert run(b"echo\n", "-q", "vm", config=b"") == b"echo\n"


def test_messages_are_printable() -> None:
    with pytest.raises(RejectedError) as caught:
        run(b"echo\n", "-q", "vm", "-S", "/bin/\x1b[31m" + "x" * 500)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=200), st.lists(st.text(alphabet="-qSvmC@ /bin#PBS'\"\n", max_size=8), max_size=4))
def test_any_script_and_arguments(script: bytes, arguments: list[str]) -> None:
    """Nothing breaks, and of a job with a guest the shell is ours and nobody else's."""
    try:
        made = run(script, *arguments, "-q", "vm")
    except RejectedError:
        return
    if made == script:
        return
    lines = made.split(b"\n")
    found = [value for number, at in directives(lines, b"#PBS") for letter, value, *_ in options(split(lines[number][at:]))
             if letter == ord("S")]
    assert found in ([SHELL], []) if any("C" in word for word in arguments) else found == [SHELL]


DIRECTIVES = st.sampled_from(
    [b"#PBS -S /bin/sh", b"#PBS -q vm", b"#PBS -S", b"", b"#!x", b"# c", b"#PBS -N a -S b c", b"echo", b":"])


@given(st.lists(DIRECTIVES, max_size=6))
def test_one_shell_among_directives(lines: list[bytes]) -> None:
    made = run(b"\n".join(lines), "-q", "vm").split(b"\n")
    found = [value for number, at in directives(made, b"#PBS") for letter, value, *_ in options(split(made[number][at:]))
             if letter == ord("S")]
    assert found == [SHELL]


@given(st.binary(max_size=80))
def test_words_are_where_they_are_said_to_be(line: bytes) -> None:
    for word, start, end in split(line):
        assert line[start:end].replace(b"'", b"").replace(b'"', b"") == word.replace(b"'", b"").replace(b'"', b"")
