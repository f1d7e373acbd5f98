"""qsub's filter on submit hosts: gives jobs of queues with guests their shell, and leaves all others as they are, byte for byte.

A help, not a defence: it runs as the user, who can do without it. What keeps jobs in their guests is `$job_starter` on the nodes.
"""

from __future__ import annotations

import os
import sys

from . import native
from .errors import VmBatchError

REJECTED = 255
_WITH_VALUE = frozenset(b"aAbcCdDeFjJkKlLmMNopPqrStTuvwW")
"""qsub's options that take a value, TORQUE 6.1 (qsub(1B))."""
_BLANKS = b" \t\r\f\v\n"
Option = tuple[int, bytes, int, int]
"""The letter's code, the value, and where in its line both stand."""


class RejectedError(Exception):
    """The job may not be submitted so; the text says what to do, and `code` is the catalogue's (vmbatch/catalogue.py)."""

    def __init__(self, text: str, *, code: str = "VB805") -> None:
        super().__init__(text)
        self.code = code


def options(words: list[tuple[bytes, int, int]]) -> list[Option]:
    """Options as getopt(3) finds them in words with their places; what follows the first that is none is not looked at."""
    found: list[Option] = []
    rest = iter(words)
    for word, start, end in rest:
        if not word.startswith(b"-") or word in (b"-", b"--"):
            break
        for at in range(1, len(word)):
            letter = word[at]
            if letter not in _WITH_VALUE:
                found.append((letter, b"", start, end))
                continue
            value = word[at + 1 :]
            if not value:
                value, _, end = next(rest, (b"", start, end))
            found.append((letter, value, start, end))
            break
    return found


def split(line: bytes) -> list[tuple[bytes, int, int]]:
    """The words of a directive with their places: quotes hold blanks together (make_argv of TORQUE's qsub)."""
    words: list[tuple[bytes, int, int]] = []
    word, start, quote = bytearray(), -1, 0
    for at, byte in enumerate(line):
        if quote:
            if byte == quote:
                quote = 0
            else:
                word.append(byte)
        elif byte in b"\"'":
            start = at if start < 0 else start
            quote = byte
        elif byte in _BLANKS:
            if start >= 0:
                words.append((bytes(word), start, at))
            word, start = bytearray(), -1
        else:
            start = at if start < 0 else start
            word.append(byte)
    if start >= 0:
        words.append((bytes(word), start, len(line)))
    return words


def directives(lines: list[bytes], prefix: bytes) -> list[tuple[int, int]]:
    """(line, where its options begin) of a script's directives: up to the first that is to be executed (check_job_script.c)."""
    found = []
    for number, line in enumerate(lines):
        bare = line.lstrip(_BLANKS)
        if prefix and bare.startswith(prefix):
            found.append((number, len(line) - len(bare) + len(prefix)))
        elif line[:1] != b":" and bare and bare[:1] != b"#":
            break
    return found


def choose(arguments: list[bytes], script: bytes, environ_prefix: bytes | None, default_queue: str) -> tuple[str, bytes]:
    """(the job's queue, the prefix of its directives)."""
    given = options([(word, 0, 0) for word in arguments])
    prefix = next((value for letter, value, *_ in reversed(given) if letter == ord("C")), environ_prefix)
    prefix = b"#PBS" if prefix is None else prefix
    queue = [value for letter, value, *_ in given if letter == ord("q")]
    if not queue:
        lines = script.split(b"\n")
        queue = [value for number, at in directives(lines, prefix) for letter, value, *_ in options(split(lines[number][at:]))
                 if letter == ord("q")]
    return os.fsdecode(queue[-1]).partition("@")[0] if queue and not queue[-1].startswith(b"@") else default_queue, prefix


def rewrite(arguments: list[bytes], script: bytes, prefix: bytes, queue: str, shell: str) -> bytes:
    """The script of a job with a guest: its shell is `shell`, and its own is named in its first line. RejectedError."""
    wanted = os.fsencode(shell)
    for letter, value, *_ in options([(word, 0, 0) for word in arguments]):
        if letter == ord("S") and value != wanted:
            raise RejectedError(f"jobs of queue {queue} run in virtual machines, and -S on the command line would have this one "
                                f"run elsewhere; leave it out, and name the shell in the script's first line: "
                                f"#!{printable(value)}")
    if not prefix:
        raise RejectedError(f"jobs of queue {queue} need a directive in their script; leave out -C '' and unset PBS_DPREFIX")
    lines = script.split(b"\n")
    directive = prefix + b" -S " + wanted
    own, free = b"", -1
    for number, at in directives(lines, prefix):
        rest = lines[number][at:]
        found = [option for option in options(split(rest)) if option[0] == ord("S")]
        if not found:
            continue
        own = found[-1][1]
        for _, _, start, end in reversed(found):
            if not rest[start:].startswith(b"-S"):
                raise RejectedError(f"the directive {printable(lines[number])} joins -S to other options; "
                                    "write -S in a line of its own")
            rest = rest[:start] + rest[end:]
        if rest.strip(_BLANKS):
            lines[number] = lines[number][:at] + rest
        else:
            lines[number] = b"#"
            free = number
    if free >= 0:  # so that the lines keep their numbers
        lines[free] = directive
    else:
        lines.insert(1 if lines[0].startswith(b"#!") else 0, directive)
    if not lines[0].startswith(b"#!") and own.startswith(b"/") and not own.strip(_PATH) and own != wanted:
        lines.insert(0, b"#!" + own)
    return b"\n".join(lines)


_PATH = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-"


def printable(text: bytes) -> str:
    """For a message: short, and without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text.decode("utf-8", "replace"))[:80]


def filtered(
    arguments: list[bytes], script: bytes, environ_prefix: bytes | None, configuration: bytes, path: str,
) -> bytes:
    """What qsub is to take for the script. RejectedError."""
    queue, _ = choose(arguments, script, environ_prefix, "")
    if not (native.names_queue(configuration, queue) if queue else b"default_queue" in configuration):
        return script
    from . import config

    try:
        settings = config.parse(configuration, path)
    except VmBatchError as error:
        raise RejectedError("; ".join(error.lines()), code=error.code) from None
    queue, prefix = choose(arguments, script, environ_prefix, settings.submit_default_queue)
    if settings.template_path(queue) is None:
        return script
    return rewrite(arguments, script, prefix, queue, settings.submit_shell)


def main() -> None:
    """`submitfilter`: qsub's arguments, the script on standard input, the new one on standard output."""
    try:
        with open(native.CONFIG, "rb") as file:
            configuration = file.read()
    except FileNotFoundError:
        configuration = b""
    except OSError as error:
        _reject(f"{native.CONFIG}: {error.strerror}", "VB107")
    script = sys.stdin.buffer.read()
    try:
        made = filtered([os.fsencode(word) for word in sys.argv[1:]], script, os.environb.get(b"PBS_DPREFIX"), configuration,
                        native.CONFIG)
    except RejectedError as error:
        _reject(str(error), error.code)
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()


def _reject(text: str, code: str) -> None:
    sys.stderr.write(f"vmbatch: the job is not submitted: {text} [{code}]\n")
    sys.exit(REJECTED)
