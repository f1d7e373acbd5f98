"""GRUB 2's scripts as a tree of commands (GRUB's manual, "Writing full configuration files directly"). Bounded, run elsewhere.

A word is a list of pieces, so that variables are put in when the command is run.
"""

from __future__ import annotations

import re

import msgspec

from ..format import FormatError

_DEPTH_LIMIT = 50
_WORDS_LIMIT = 200_000
_BLANK = " \t\r"
_ENDS = "\n;"
_SPECIAL = "|&<>"
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*|[0-9#@*?])|\{([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[#@*?])\})")


class Piece(msgspec.Struct, frozen=True):
    """Literal text, or the name of a variable; what is not quoted is split where it has blanks."""

    text: str
    variable: bool = False
    quoted: bool = False


Word = tuple[Piece, ...]


class Command(msgspec.Struct, frozen=True):
    """With the block behind it, as `menuentry` has one."""

    words: tuple[Word, ...]
    block: Block | None = None


class If(msgspec.Struct, frozen=True):
    """(condition, what then) in turn, and what else."""

    branches: tuple[tuple[Block, Block], ...]
    otherwise: Block


class Loop(msgspec.Struct, frozen=True):
    """`while` and `until`."""

    condition: Block
    until: bool
    body: Block


class For(msgspec.Struct, frozen=True):
    """`for NAME in WORDS`."""

    name: str
    words: tuple[Word, ...]
    body: Block


class Function(msgspec.Struct, frozen=True):
    """A function's definition."""

    name: str
    body: Block


Statement = Command | If | Loop | For | Function
Block = tuple[Statement, ...]
_Token = str | Word
"""A string is one of `{`, `}` and the end of a command."""


def parse(text: str) -> Block:
    """FormatError with the line of a mistake."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = self._depth = 0

    def whole(self) -> Block:
        block = self._block(())
        if self._at < len(self._tokens):
            raise self._wrong()
        return block

    def _wrong(self) -> FormatError:
        line = self._tokens[min(self._at, len(self._tokens) - 1)][1] if self._tokens else 1
        return FormatError(f"has a mistake in line {line}")

    def _peek(self) -> _Token | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _keyword(self) -> str:
        """The word that comes next if it is a plain one, or ''."""
        token = self._peek()
        plain = isinstance(token, tuple) and len(token) == 1 and not token[0].variable and not token[0].quoted
        return token[0].text if plain and isinstance(token, tuple) else token if isinstance(token, str) else ""

    def _skip_ends(self) -> None:
        while self._peek() == _END:
            self._at += 1

    def _expect(self, *keywords: str) -> str:
        self._skip_ends()
        found = self._keyword()
        if found not in keywords:
            raise self._wrong()
        self._at += 1
        return found

    def _block(self, ends: tuple[str, ...]) -> Block:
        """Commands up to one of the keywords `ends`, which stays."""
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise FormatError(f"is nested deeper than {_DEPTH_LIMIT} levels")
        found: list[Statement] = []
        while True:
            self._skip_ends()
            if self._peek() is None or self._keyword() in ends:
                self._depth -= 1
                return tuple(found)
            found.append(self._statement())

    def _statement(self) -> Statement:
        keyword = self._keyword()
        if keyword == "if":
            return self._if()
        if keyword in ("while", "until"):
            self._at += 1
            condition = self._block(("do",))
            return Loop(condition, keyword == "until", self._loop_body())
        if keyword == "for":
            self._at += 1
            name = self._name()
            self._expect("in")
            words = self._words()
            return For(name, words, self._loop_body())
        if keyword == "function":
            self._at += 1
            return Function(self._name(), self._braced())
        if keyword in ("{", "}", "then", "do", "done", "fi", "else", "elif"):
            raise self._wrong()
        words = self._words()
        return Command(words, self._braced() if self._keyword() == "{" else None)

    def _words(self) -> tuple[Word, ...]:
        found: list[Word] = []
        while isinstance(token := self._peek(), tuple):
            found.append(token)
            self._at += 1
        return tuple(found)

    def _name(self) -> str:
        name = self._keyword()
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            raise self._wrong()
        self._at += 1
        return name

    def _braced(self) -> Block:
        self._expect("{")
        block = self._block(("}",))
        self._expect("}")
        return block

    def _loop_body(self) -> Block:
        self._expect("do")
        body = self._block(("done",))
        self._expect("done")
        return body

    def _if(self) -> If:
        self._at += 1
        branches = []
        otherwise: Block = ()
        while True:
            condition = self._block(("then",))
            self._expect("then")
            branches.append((condition, self._block(("elif", "else", "fi"))))
            keyword = self._expect("elif", "else", "fi")
            if keyword == "else":
                otherwise = self._block(("fi",))
                self._expect("fi")
            if keyword != "elif":
                return If(tuple(branches), otherwise)


_END = ";"


def _tokens(text: str) -> list[tuple[_Token, int]]:
    """With the line of each."""
    found: list[tuple[_Token, int]] = []
    at, line = 0, 1
    while at < len(text):
        letter = text[at]
        if letter in _BLANK:
            at += 1
        elif letter in _ENDS:
            found.append((_END, line))
            line += letter == "\n"
            at += 1
        elif letter == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif letter in _SPECIAL:
            raise FormatError(f"has {letter!r} in line {line}, which is not understood here")
        elif text.startswith("\\\n", at):
            at, line = at + 2, line + 1
        else:
            word, end = _word(text, at, line)
            bare = text[at:end]
            found.append((bare if bare in ("{", "}") else word, line))
            line += text.count("\n", at, end)
            at = end
        if len(found) > _WORDS_LIMIT:
            raise FormatError(f"has more than {_WORDS_LIMIT} words")
    return found


def _word(text: str, at: int, line: int) -> tuple[Word, int]:
    """A word and where it ends."""
    pieces: list[Piece] = []
    plain: list[str] = []

    def close() -> None:
        if plain:
            pieces.append(Piece("".join(plain)))
            plain.clear()

    while at < len(text):
        letter = text[at]
        if letter in _BLANK or letter in _ENDS or letter in _SPECIAL:
            break
        if letter == "'":
            close()
            end = text.find("'", at + 1)
            if end < 0:
                raise FormatError(f"has a quote in line {line} that does not end")
            pieces.append(Piece(text[at + 1 : end], quoted=True))
            at = end + 1
        elif letter == '"':
            close()
            at = _quoted(text, at + 1, line, pieces)
        elif letter == "\\" and at + 1 < len(text):
            close()
            if text[at + 1] != "\n":
                pieces.append(Piece(text[at + 1], quoted=True))
            at += 2
        elif letter == "$" and (match := _VARIABLE.match(text, at)):
            close()
            pieces.append(Piece(match[1] or match[2], variable=True))
            at = match.end()
        else:
            plain.append(letter)
            at += 1
    close()
    return tuple(pieces), at


def _quoted(text: str, at: int, line: int, pieces: list[Piece]) -> int:
    """What stands in double quotes; where it ends."""
    plain: list[str] = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and text[at + 1 : at + 2] in ("$", '"', "\\", "\n"):
            plain.append(text[at + 1].replace("\n", ""))
            at += 2
        elif text[at] == "$" and (match := _VARIABLE.match(text, at)):
            pieces.append(Piece("".join(plain), quoted=True))
            plain.clear()
            pieces.append(Piece(match[1] or match[2], variable=True, quoted=True))
            at = match.end()
        else:
            plain.append(text[at])
            at += 1
    if at >= len(text):
        raise FormatError(f"has a quote in line {line} that does not end")
    pieces.append(Piece("".join(plain), quoted=True))
    return at + 1
